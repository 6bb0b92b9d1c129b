"""A training from beginning to end: MLflow run, Ray Train, and the new model version."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codec.errors import BitreelError, UsageError
from infra.registry import check_name, register_version
from infra.tracking import RUNS_FOLDER, TrackedRun, end_run, find_training_run, reopen_run, start_training_run
from trainers.phase_batches import PhaseBatches
from trainers.ray_train import train_on_ray
from trainers.recipe import Recipe

TRAINING_FOLDER = "train"  # below the runs folder: checkpoints of each run


@dataclass(frozen=True)
class FinishedTraining:
    """run: its name; version: the registered version, None where no model name was given."""

    run: str
    run_id: str
    checkpoint: Path
    metrics: dict[str, float]
    version: int | None


def run_training(
    recipe: Recipe,
    store: Path,
    *,
    model_name: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    resume: str | None = None,
    init_from: Path | None = None,
    on_progress: Callable[[int, dict[str, float]], None] | None = None,
    on_start: Callable[[str], None] | None = None,
) -> FinishedTraining:
    """Train, follow it in MLflow, and register the result under `model_name`.

    `resume` is the name or MLflow id of a run that stopped; it goes on with the same recipe and store. `on_start`
    gets the run's name. Raises UsageError and BitreelError as `train_on_ray` and `register_version` do.
    """
    if model_name is not None:
        check_name(model_name)
    PhaseBatches(store, recipe)  # raises where the store can't serve the recipe: better before a run is on record
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: give 1 or more")
    storage = (Path.cwd() / RUNS_FOLDER / TRAINING_FOLDER).resolve()
    if resume is not None:
        run, name = _find(resume, storage)
    else:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        name = f"{recipe.name}-{now}-{secrets.token_hex(2)}"
        run = start_training_run(recipe, name, {"store": store.resolve(), "init_from": init_from or "fresh weights"})
    if on_start is not None:
        on_start(name)
    status = "FAILED"
    try:
        result = train_on_ray(
            recipe,
            store,
            name,
            storage=storage,
            workers=workers,
            address=address,
            init_from=init_from,
            tracking=run,
            on_progress=on_progress,
        )
        version = None
        if model_name is not None:
            version = register_version(model_name, result.checkpoint, run.run_id, recipe=recipe, store=store)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise BitreelError(f"training stopped; go on with --resume {name}") from None
    finally:
        end_run(run, status)
    return FinishedTraining(name, run.run_id, result.checkpoint, result.metrics, version)


def _find(resume: str, storage: Path) -> tuple[TrackedRun, str]:
    found = find_training_run(resume)
    if found is None:
        there = sorted(path.name for path in storage.glob("*") if path.is_dir())
        raise UsageError(f"--resume {resume}: no such run; there: {', '.join(there[-5:]) or 'none yet'}")
    run, name = found
    if not (storage / name).is_dir():
        raise UsageError(
            f"--resume {resume}: its checkpoints are not in '{storage}'; go to the folder it was started in"
        )
    reopen_run(run)
    return run, name
