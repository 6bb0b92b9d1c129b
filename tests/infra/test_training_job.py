"""A training that is stopped before its first worker: what is on record then, and what it goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codec.api import CODECS, create_codec, load_codec, save_codec
from codec.errors import BitreelError, UsageError
from infra import training_job
from infra.tracking import RUN_NOTE
from infra.training_job import run_training
from tests.trainers.small_store import make_store
from tests.trainers.synthetic import tiny_recipe
from trainers.ray_train import RUN_FILE, START_FOLDER, TrainingResult, prepare_run

Trained = list[tuple[Path, Path | None]]


@pytest.fixture
def store(mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")
    return make_store(mlflow_home / "store")


def standing_in(monkeypatch: pytest.MonkeyPatch, ends: Callable[[], TrainingResult]) -> Trained:
    """Ray is never started: in its place the run is prepared as it would be, and `ends` says how it goes."""
    seen: Trained = []

    def train(
        recipe: Any, store: Path, name: str, *, storage: Path, init_from: Path | None, **_: Any
    ) -> TrainingResult:
        seen.append(
            (
                storage / name,
                prepare_run(storage / name, recipe, store, None if init_from is None else load_codec(init_from)),
            )
        )
        return ends()

    monkeypatch.setattr(training_job, "train_on_ray", train)
    return seen


def stopped() -> TrainingResult:
    raise KeyboardInterrupt


def test_what_was_stopped_while_ray_started_goes_on_from_the_weights_it_was_given(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_codec(create_codec("tiny", {}), tmp_path / "given")
    given = load_codec(tmp_path / "given").model_hash()
    names: list[str] = []

    def never(*_: Any, **__: Any) -> TrainingResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_job, "train_on_ray", never)  # before it could look at the run's folder
    with pytest.raises(BitreelError, match="go on with --resume"):
        run_training(tiny_recipe(), store, init_from=str(tmp_path / "given"), on_start=names.append)

    seen = standing_in(monkeypatch, lambda: TrainingResult(tmp_path, {}, ""))
    with pytest.raises(UsageError, match="was started with another recipe"):
        run_training(tiny_recipe(batch_size=2), store, resume=names[0])
    run_training(tiny_recipe(), store, resume=names[0])
    ((folder, weights),) = seen
    assert folder.name == names[0] and weights == folder / START_FOLDER
    assert load_codec(weights).model_hash() == given


def test_a_run_that_nothing_is_known_of_is_not_begun_from_other_weights(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that failed between MLflow's record and the run's own."""
    seen = standing_in(monkeypatch, stopped)
    with pytest.raises(BitreelError, match="go on with --resume"):
        run_training(tiny_recipe(), store)
    folder = seen[0][0]
    assert (folder / RUN_NOTE).is_file()
    (folder / RUN_FILE).unlink()
    with pytest.raises(UsageError, match="it was stopped before it began; give its first command again"):
        run_training(tiny_recipe(), store, resume=folder.name)
