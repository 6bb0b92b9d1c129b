"""A training from beginning to end: MLflow run, Ray Train, and the new model version."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from codec.builtin import builtin_models, stated_hash
from codec.errors import BitreelError, UsageError
from infra.registry import check_free_name, fetch_version, local_model, register_version, version_of
from infra.run_lifetime import followed_run, settle_runs
from infra.stop_signals import stops_held_back
from infra.tracking import RUNS_FOLDER, TrackedRun, find_training_run, noted_run, start_training_run
from trainers.phase_batches import PhaseBatches
from trainers.ray_train import RUN_FILE, prepare_run, train_on_ray
from trainers.ray_workers import Workers
from trainers.recipe import Recipe
from trainers.starting_codec import starting_codec
from trainers.validation import check_held_out

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
    workers: Workers = None,
    address: str | None = None,
    resume: str | None = None,
    init_from: str | None = None,
    on_progress: Callable[[int, dict[str, float]], None] | None = None,
    on_start: Callable[[str], None] | None = None,
    on_event: Callable[[str], None] | None = None,
) -> FinishedTraining:
    """Train, follow it in MLflow, and register the result under `model_name`.

    `init_from` is the REF of a model (see `infra.registry.resolve_model`) whose weights it starts from; MLflow notes
    which one that was, and its hash. `resume` is the name or MLflow id of a run that stopped; it goes on with the same
    recipe and store, from its own weights. `on_start` gets the run's name, `on_event` a line on what happened to its
    workers or its store. Raises UsageError and BitreelError as `resolve_model`, `train_on_ray` and `register_version`
    do.
    """
    if model_name is not None:
        check_free_name(model_name)
    if resume is not None and init_from is not None:
        raise UsageError("--from: a resumed run goes on from its own weights; give --resume alone")
    check_held_out(store, recipe)
    PhaseBatches(store, recipe)  # raises where the store can't serve the recipe
    storage = (Path.cwd() / RUNS_FOLDER / TRAINING_FOLDER).resolve()
    settle_runs(storage)
    run, start, origin = None, None, {"init_from": "fresh weights"}
    if resume is not None:
        run, name = _find(resume, storage)
    else:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        name = f"{recipe.name}-{now}-{secrets.token_hex(2)}"
    if init_from is not None:
        start, label = _starting_model(init_from)
        origin = {"init_from": label, "init_from_hash": stated_hash(start)}
    codec = starting_codec(recipe, start)  # raises where settings don't fit: better before a run is on record
    try:
        with ExitStack() as stack:
            with stops_held_back():  # a run that MLflow has is followed, or it would stay RUNNING for ever
                if run is None:
                    run = start_training_run(recipe, name, {"store": store.resolve()} | origin, storage / name)
                tracker = stack.enter_context(followed_run(run))
                prepare_run(storage / name, recipe, store, codec if start else None)
            if on_start is not None:
                on_start(name)
            result = train_on_ray(
                recipe,
                store,
                name,
                storage=storage,
                workers=workers,
                address=address,
                init_from=start,
                tracking=run,
                on_progress=on_progress,
                on_event=on_event,
                on_validation=tracker.validation,
                on_stop=tracker.stopping,
            )
    except KeyboardInterrupt:
        raise BitreelError(f"training stopped; go on with --resume {name}") from None
    version = None
    if model_name is not None:
        version = register_version(model_name, result.checkpoint, run.run_id, recipe=recipe, store=store)
    return FinishedTraining(name, run.run_id, result.checkpoint, result.metrics, version)


def _starting_model(ref: str) -> tuple[Path, str]:
    """The folder of a REF, and what it is called in a run's record, aliases replaced by the version they mean now."""
    folder = local_model(ref)
    if folder is None:
        version = version_of(ref)
        return fetch_version(version), f"{version.name}@{version.version}"
    return folder, f"{ref} (built-in)" if folder == builtin_models().get(ref) else str(folder.resolve())


def _find(resume: str, storage: Path) -> tuple[TrackedRun, str]:
    """A run by name or MLflow id. Its folder tells, so that a training goes on while MLflow is away."""
    for folder in (storage / resume, *sorted(storage.glob("*"))):
        run = noted_run(folder)
        if run is not None and resume in (folder.name, run.run_id):
            if not (folder / RUN_FILE).is_file():
                raise UsageError(f"--resume {resume}: it was stopped before it began; give its first command again")
            return run, folder.name
    if find_training_run(resume) is not None:
        raise UsageError(
            f"--resume {resume}: its checkpoints are not in '{storage}'; go to the folder it was started in"
        )
    there = sorted(path.name for path in storage.glob("*") if path.is_dir())
    raise UsageError(f"--resume {resume}: no such run; there: {', '.join(there[-5:]) or 'none yet'}")
