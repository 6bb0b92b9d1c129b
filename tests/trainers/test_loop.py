"""The plain loop: exact resume, skipped steps, frozen parameters, logging."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codec.api import CODECS, TrainingConditions, TrainingOutput, load_codec
from codec.errors import BitreelError, UsageError
from tests.trainers.synthetic import MadeUpBatches, Recorder, tiny_recipe
from tests.trainers.tiny_codec import Tiny
from trainers.checkpoint import OPTIMIZER_FILE, load_training_state
from trainers.loop import draw_qps, fresh_codec, train
from trainers.throughput import TIMINGS


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


def without_time(logs: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    return {s: {k: v for k, v in m.items() if k not in ("seconds_per_step", *TIMINGS)} for s, m in logs.items()}


def test_resume_from_any_checkpoint_is_exact(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    whole = Recorder(tmp_path)
    codec = fresh_codec(recipe)
    train(codec, recipe, MadeUpBatches(recipe), whole)
    assert whole.checkpoints == [4, 6, 8, 10]
    assert sorted(whole.logs) == [2, 4, 6, 8, 10]
    for step in (4, 6, 8):
        resumed = Recorder()
        torch.rand(step)  # a process that resumes has drawn other numbers before
        other = fresh_codec(recipe)
        start = load_training_state(tmp_path / f"step-{step:06d}")
        train(other, recipe, MadeUpBatches(recipe), resumed, start=start)
        expected = {s: m for s, m in without_time(whole.logs).items() if s > step}
        assert without_time(resumed.logs) == expected
        assert other.model_hash() == codec.model_hash()


def test_loss_falls_and_the_checkpoint_is_a_loadable_codec(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        phases=[{"name": "p", "steps": 60, "learning_rate": [3e-2, 3e-2], "qp": [63, 63], "crop": 32}],
        checkpoint_every=60,
    )
    seen = Recorder(tmp_path)
    codec = fresh_codec(recipe)
    train(codec, recipe, MadeUpBatches(recipe), seen)
    assert seen.logs[60]["psnr_yuv"] > seen.logs[2]["psnr_yuv"] + 3
    assert load_codec(tmp_path / "step-000060").model_hash() == codec.model_hash()


def test_frozen_parameters_do_not_move_and_later_move_again() -> None:
    phases = [
        {"name": "still", "steps": 2, "learning_rate": [1e-2, 1e-2], "crop": 16, "frozen": ["down."]},
        {"name": "free", "steps": 2, "learning_rate": [1e-2, 1e-2], "crop": 16},
    ]
    recipe = tiny_recipe(phases=phases)
    codec = fresh_codec(recipe)
    before = codec.down.weight.clone()  # type: ignore[operator, union-attr]
    train(codec, recipe, MadeUpBatches(recipe), stopped := Recorder(stop_at=2))
    assert stopped.checkpoints == [2]
    assert torch.equal(before, codec.down.weight)  # type: ignore[arg-type, union-attr]
    train(codec, recipe, MadeUpBatches(recipe), Recorder())
    assert not torch.equal(before, codec.down.weight)  # type: ignore[arg-type, union-attr]
    phases[0]["frozen"] = ["nothing_of_the_kind"]
    with pytest.raises(UsageError, match=r"phase 'still'.*nothing_of_the_kind"):
        train(codec, tiny_recipe(phases=phases), MadeUpBatches(recipe), Recorder())


class Broken(Tiny):
    """Gives NaN at high QPs."""

    bad_above = 31

    def forward(
        self, luma: torch.Tensor, chroma: torch.Tensor, qp: torch.Tensor, conditions: TrainingConditions
    ) -> TrainingOutput:
        out = super().forward(luma, chroma, qp, conditions)
        out.bits = out.bits * torch.where(qp > self.bad_above, float("nan"), 1.0)[:, None]
        return out


def test_non_finite_steps_are_skipped_counted_and_end_a_hopeless_run(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = [{"name": "p", "steps": 40, "learning_rate": [1e-3, 1e-3], "crop": 16}]
    recipe = tiny_recipe(phases=phases, batch_size=1, checkpoint_every=40)
    codec = Broken(fresh_codec(recipe).config)
    seen = Recorder()
    train(codec, recipe, MadeUpBatches(recipe), seen)
    expected = sum(int(draw_qps(recipe, s, 0, 1)[0]) > 31 for s in range(40))
    assert 0 < expected < 40
    assert seen.logs[40]["skipped_steps"] == expected
    assert all(torch.isfinite(p).all() for p in codec.parameters())
    monkeypatch.setattr(Broken, "bad_above", -1)
    with pytest.raises(BitreelError, match="diverged at step 24"):
        train(codec, recipe, MadeUpBatches(recipe), Recorder())


def test_draws_follow_from_seed_and_step_and_the_workers_share_them_out() -> None:
    phases = [{"name": "p", "steps": 9, "learning_rate": 1e-3, "qp": [10, 12], "crop": 16}]
    recipe = tiny_recipe(phases=phases, batch_size=64)
    first, noise = draw_qps(recipe, 5, 0, 1), torch.rand(3)
    assert set(first.tolist()) == {10, 11, 12}
    assert torch.equal(first, draw_qps(recipe, 5, 0, 1)) and torch.equal(noise, torch.rand(3))
    assert not torch.equal(first, draw_qps(recipe, 6, 0, 1))
    assert not torch.equal(first, draw_qps(tiny_recipe(phases=phases, batch_size=64, seed=2), 5, 0, 1))
    halves = []
    noises = []
    for rank in (0, 1):
        halves.append(draw_qps(recipe, 5, rank, 2))
        noises.append(torch.rand(3))
    assert torch.equal(first, torch.cat(halves)) and not torch.equal(*noises)


def test_few_qp_values_are_spread_over_the_range() -> None:
    phases = [{"name": "few", "steps": 40, "learning_rate": 1e-3, "qp": [0, 63], "qp_values": 4, "crop": 16}]
    recipe = tiny_recipe(phases=phases, batch_size=16)
    drawn = {int(qp) for step in range(40) for qp in draw_qps(recipe, step, 0, 1)}
    assert drawn == {0, 21, 42, 63}


def test_a_checkpoint_of_another_recipe_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    train(fresh_codec(recipe), recipe, MadeUpBatches(recipe), Recorder(tmp_path, stop_at=4))
    folder = tmp_path / "step-000004"
    start = load_training_state(folder)
    with pytest.raises(UsageError, match="seed is 2 here, 1 there"):
        train(fresh_codec(recipe), tiny_recipe(seed=2), MadeUpBatches(recipe), Recorder(), start=start)
    with pytest.raises(UsageError, match="made by 1 workers"):
        train(fresh_codec(recipe), recipe, MadeUpBatches(recipe), Recorder(), start=start, world=2)
    whole = (folder / OPTIMIZER_FILE).read_bytes()
    (folder / OPTIMIZER_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BitreelError, match="damaged"):
        load_training_state(folder)
    (folder / OPTIMIZER_FILE).unlink()
    with pytest.raises(UsageError, match="can't be resumed"):
        load_training_state(folder)


def test_the_loop_needs_neither_ray_nor_mlflow() -> None:
    code = (
        "import sys, json, trainers.loop; print(json.dumps([m for m in ('ray', 'mlflow', 'av') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
