"""Validations: real files at fixed QPs, what is put aside for them, and which checkpoint is the best."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from codec.api import CODECS, create_codec, load_codec, save_codec
from codec.errors import UsageError
from tests.trainers.small_store import make_store
from tests.trainers.synthetic import tiny_recipe
from trainers.recipe import Recipe
from trainers.validation import (
    BEST,
    MAX_WAITING,
    ValidationResult,
    best_result,
    check_held_out,
    keep_result,
    request_validation,
    standing,
    validate,
    validation_results,
    waiting_validations,
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


def recipe_with(**changes: object) -> Recipe:
    return tiny_recipe(**{"validate_every": 4, "validate_qps": [0, 63], "validate_frames": 3} | changes)


def model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_codec(create_codec("tiny", {}), folder)
    return folder


def test_figures_are_those_of_the_files(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", clips=6, size=64, held_out=3)
    recipe = recipe_with(validate_clips=2)
    weights = model(tmp_path / "model", 1)
    result = validate(weights, store, recipe, 4)
    assert (result.step, result.clips, result.frames, result.size) == (4, 2, 3, 64)
    assert result.model_hash == load_codec(weights).model_hash().hex()
    for point in result.points:
        assert point.bpp == 8 * point.bytes / (2 * 3 * 64 * 64)
    coarse, fine = result.points
    lambdas = recipe.phases[-1].lambda_range
    costs = [coarse.bpp + lambdas[0] * coarse.mse, fine.bpp + lambdas[1] * fine.mse]
    assert result.rd_cost == pytest.approx((costs[0] * costs[1]) ** 0.5, rel=1e-6)
    again = validate(weights, store, recipe, 4)
    assert dataclasses.replace(again, seconds=0.0) == dataclasses.replace(result, seconds=0.0)
    assert ValidationResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.figures()["validation/qp63/psnr_yuv"] == fine.psnr_yuv
    assert result.figures()["validation/bpp"] == (coarse.bpp + fine.bpp) / 2
    other = validate(model(tmp_path / "other", 2), store, recipe, 4)
    assert other.rd_cost != result.rd_cost and other.model_hash != result.model_hash


def test_a_store_without_held_out_clips_is_refused_before_training(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", clips=3)
    check_held_out(store, tiny_recipe())
    with pytest.raises(UsageError, match=r"validate_every: .*no clips in split 'val'.*validate_every=0"):
        check_held_out(store, recipe_with())
    with pytest.raises(UsageError, match=r"validate_every must be a multiple of checkpoint_every \(4\)"):
        recipe_with(validate_every=6)
    with pytest.raises(UsageError, match="validate_qps"):
        recipe_with(validate_qps=[64])


def test_weights_wait_once_and_not_too_many(tmp_path: Path) -> None:
    checkpoint, run = model(tmp_path / "model", 1), tmp_path / "run"
    recipe = recipe_with(
        phases=[{"name": "p", "steps": 50, "learning_rate": 1e-3}], checkpoint_every=2, validate_every=2
    )
    for step in (1, 2, 2, 4, 6, 8, 10):
        request_validation(checkpoint, run, recipe, step)
    assert [step for step, _ in waiting_validations(run)] == [2, 4, 6, 8] and MAX_WAITING == 4
    request_validation(checkpoint, run, recipe, 50)  # the last one always
    assert [step for step, _ in waiting_validations(run)] == [2, 4, 6, 8, 50]
    assert all(load_codec(path).family == "tiny" for _, path in waiting_validations(run))
    assert standing(run).waiting == {2, 4, 6, 8, 50} and not standing(run).costs
    request_validation(checkpoint, run, tiny_recipe(), 4)
    assert len(waiting_validations(run)) == 5


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    store, run, recipe = make_store(tmp_path / "store", clips=6, held_out=2), tmp_path / "run", recipe_with()
    kept: dict[int, ValidationResult] = {}
    for step, seed in ((4, 1), (8, 2), (10, 3)):
        request_validation(model(tmp_path / f"model{seed}", seed), run, recipe, step)
        ((found, weights),) = waiting_validations(run)
        kept[step] = validate(weights, store, recipe, found)
        keep_result(run, kept[step])
        assert not waiting_validations(run)
        best = min(kept.values(), key=lambda result: result.rd_cost)
        assert best_result(run) == best
        assert min(standing(run).costs, key=standing(run).costs.__getitem__) == best.step
        assert load_codec(run / BEST).model_hash().hex() == best.model_hash
        assert json.loads((run / BEST / "validation.json").read_text())["step"] == best.step
        request_validation(tmp_path / f"model{seed}", run, recipe, step)  # it is done already
        assert not waiting_validations(run)
    assert validation_results(run) == list(kept.values())
