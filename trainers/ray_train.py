"""The training loop on Ray Train: N workers, checkpoints to shared storage, on from the last one after a worker dies.

driver: train_on_ray ─▶ TorchTrainer ─▶ N × _worker ─▶ trainers.loop.train
             ▲                              │
             └── progress.json, checkpoints ┘   (in the run's folder below `storage`)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from codec.api import Codec, load_codec, save_codec
from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError, UsageError
from pipeline.ray_session import ray_session
from trainers.checkpoint import Snapshot, TrainingState, load_training_state
from trainers.loop import Pictures, check_resumable, fresh_codec, train
from trainers.phase_batches import PhaseBatches
from trainers.ray_validation import OnResult, validations_beside
from trainers.ray_workers import Resources, choose_resources
from trainers.recipe import Recipe, recipe_from_dict
from trainers.schedule import conditions_at
from trainers.validation import check_held_out, request_validation

RUN_FILE = "run.json"
PROGRESS_FILE = "progress.json"
FAILURE_FILE = "failure.json"
START_FOLDER = "start"  # the model whose weights the run began with, so that going on with it needs no other
MAX_FAILURES = 3  # worker deaths that one run survives


class RunTracker(Protocol):
    """Takes what the run shows of itself. A step that was logged before a worker died may be logged again."""

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def pictures(self, step: int, pictures: Pictures) -> None: ...

    def checkpoint(self, step: int, folder: Path) -> None: ...

    def close(self) -> None: ...


class RunTrackerSpec(Protocol):
    """Can be pickled; opened in the process of rank 0."""

    @property
    def run_id(self) -> str: ...

    def open(self) -> RunTracker: ...


class TrainingStopped(BitreelError):
    """Somebody ended the training early; it can go on."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: its last checkpoint, the last logged figures, the tracking run's id ("" without tracking)."""

    checkpoint: Path
    metrics: dict[str, float]
    run_id: str


def train_on_ray(
    recipe: Recipe,
    store: Path,
    name: str,
    *,
    storage: Path,
    workers: int | None = None,
    address: str | None = None,
    init_from: Path | None = None,
    tracking: RunTrackerSpec | None = None,
    on_progress: Callable[[int, dict[str, float]], None] | None = None,
    on_validation: OnResult | None = None,
    beside: int = 1,
) -> TrainingResult:
    """Train by `recipe` on the clips of `store` and wait for the end.

    The run lives in `storage/name`, which every machine of the cluster must see; a run of that name that stopped
    early goes on from its last checkpoint. `workers` None means one per GPU, or one where there is none. `init_from`
    is a checkpoint folder whose weights the run starts from; they are copied into the run's folder, and a run that
    goes on needs it no more. `on_progress` gets finished steps and the last figures, `on_validation` what validations
    found, both from threads. `beside`: how many runs of this kind share the cluster at once.

    Raises UsageError where recipe, store, weights or a run of that name do not fit together, BitreelError where
    training fails for good or is stopped.
    """
    folder = storage.resolve() / name
    if address is None:
        # One process less to start: nobody gives notice before taking this machine away.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    with ray_session(address):
        resources = choose_resources(workers, beside)
        check_resumable(recipe, None, resources.workers)
        PhaseBatches(store, recipe, 0, resources.workers)
        check_held_out(store, recipe)
        start = starting_codec(recipe, init_from)
        kept = _prepare_run(folder, recipe, store, resources, start if init_from else None)
        with (
            _watch_progress(folder / PROGRESS_FILE, on_progress),
            validations_beside(recipe, store, folder, on_validation),
        ):
            checkpoint = _fit(recipe, store, folder, resources, kept, tracking)
        return _result(checkpoint, folder.name, recipe, tracking.run_id if tracking else "")


def starting_codec(recipe: Recipe, init_from: Path | None) -> Codec:
    """The codec before its first step: fresh, or with the weights of a checkpoint of the very same codec.

    Raises UsageError where the checkpoint's codec is another than the recipe's.
    """
    codec = fresh_codec(recipe)
    if init_from is None:
        return codec
    given = load_codec(init_from)
    differing = differing_settings(given, codec)
    if differing:
        raise UsageError(
            f"'{init_from}' holds a {given.family} with other settings than recipe '{recipe.name}' asks for: "
            f"{', '.join(differing)}; give the recipe the same codec settings"
        )
    codec.load_state_dict(given.state_dict())
    return codec


def differing_settings(given: Codec, wanted: Codec) -> list[str]:
    """Where two codecs' settings differ, as `key 96, not 192`; empty where weights of one fit the other.

    Settings that a codec's config names in RETUNABLE may differ: training goes on from the same weights under new ones.
    """
    if given.family != wanted.family:
        return [f"family {given.family}, not {wanted.family}"]
    here, there = dataclasses.asdict(given.config), dataclasses.asdict(wanted.config)
    free = getattr(wanted.config, "RETUNABLE", ())
    return [f"{k} {value!r}, not {there[k]!r}" for k, value in here.items() if value != there[k] and k not in free]


def _prepare_run(folder: Path, recipe: Recipe, store: Path, resources: Resources, start: Codec | None) -> Path | None:
    """Note what the run is and keep the weights it starts from, or check that it is the one that stopped here, which
    `start` need not be given for again. Gives the folder of those weights, None for fresh ones."""
    run_file = folder / RUN_FILE
    facts = {
        "recipe": recipe.to_dict(),
        "store": str(store.resolve()),
        "workers": resources.workers,
        "init_from": start.model_hash().hex() if start else None,
    }
    if run_file.is_file():
        before = json.loads(run_file.read_text())
        if start is None:
            facts["init_from"] = before["init_from"]
        differing = [key for key in facts if before.get(key) != facts[key]]
        if differing:
            raise UsageError(
                f"run '{folder.name}' was started with another {', '.join(differing)}; "
                "resume it with the same, or start a new run"
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    if start is not None:
        save_codec(start, folder / START_FOLDER)
    write_json_atomically(run_file, facts)
    return folder / START_FOLDER if facts["init_from"] else None


def _fit(
    recipe: Recipe,
    store: Path,
    folder: Path,
    resources: Resources,
    init_from: Path | None,
    tracking: RunTrackerSpec | None,
) -> Path | None:
    """Run the workers to their end and give the last checkpoint there is."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "recipe": recipe.to_dict(),
            "store": str(store.resolve()),
            "folder": str(folder),
            "init_from": str(init_from) if init_from else None,
            "threads": resources.cpus,
            "tracking": tracking,
        },
        torch_config=TorchConfig(backend="nccl" if resources.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpu,
            resources_per_worker={"CPU": resources.cpus} | ({"GPU": 1} if resources.gpu else {}),
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=recipe.keep_checkpoints),
        ),
    )
    failure: TrainingFailedError | None = None
    checkpoint = None
    try:
        checkpoint = trainer.fit().checkpoint
    except SystemExit:  # Ray Train's answer to Ctrl-C, once its workers have ended
        raise KeyboardInterrupt from None
    except TrainingFailedError as error:
        failure = error
    if (folder / FAILURE_FILE).is_file():
        said = json.loads((folder / FAILURE_FILE).read_text())
        raise (UsageError if said["usage"] else BitreelError)(said["message"])
    if failure is not None:
        lines = [line for line in str(failure).strip().splitlines() if line.strip()]
        raise BitreelError(
            f"training '{folder.name}' failed {MAX_FAILURES + 1} times and gave up: {lines[-1].strip()}"
        ) from failure
    return Path(checkpoint.path) if checkpoint else None


def _result(checkpoint: Path | None, name: str, recipe: Recipe, run_id: str) -> TrainingResult:
    """The finished run; raises TrainingStopped where it was (Ctrl-C ends Ray Train without an error)."""
    if checkpoint is None:
        raise TrainingStopped(
            f"training '{name}' was stopped before its first checkpoint; --resume {name} begins it again"
        )
    state = load_training_state(checkpoint)
    if state.step < recipe.total_steps:
        raise TrainingStopped(
            f"training '{name}' was stopped at step {state.step} of {recipe.total_steps}; go on with --resume {name}"
        )
    return TrainingResult(checkpoint, state.metrics, run_id)


def _worker(config: dict[str, Any]) -> None:
    """What each Ray worker runs. A failure that a person must mend is written down and not tried again."""
    import ray.train
    import ray.train.torch

    folder = Path(config["folder"])
    if (folder / FAILURE_FILE).is_file():
        return
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    recipe = recipe_from_dict(config["recipe"])
    tracking: RunTrackerSpec | None = config["tracking"]
    tracker = tracking.open() if tracking is not None and rank == 0 else None
    try:
        start = _last_state()
        init_from = Path(config["init_from"]) if config["init_from"] else None
        codec = fresh_codec(recipe) if start else starting_codec(recipe, init_from)
        hooks = _RayHooks(folder, rank, recipe, tracker)
        batches = PhaseBatches(Path(config["store"]), recipe, rank, world)
        device = ray.train.torch.get_device()
        train(codec, recipe, batches, hooks, device=device, rank=rank, world=world, start=start)
    except BitreelError as error:
        write_json_atomically(folder / FAILURE_FILE, {"message": str(error), "usage": isinstance(error, UsageError)})
        raise
    finally:
        if tracker is not None:
            tracker.close()


def _last_state() -> TrainingState | None:
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return load_training_state(Path(folder))


class _RayHooks:
    """Every rank takes part in Ray's report, which waits for all; rank 0 alone writes."""

    def __init__(self, folder: Path, rank: int, recipe: Recipe, tracker: RunTracker | None) -> None:
        self.folder = folder
        self.rank = rank
        self.recipe = recipe
        self.tracker = tracker

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        if self.rank == 0:
            write_json_atomically(self.folder / PROGRESS_FILE, {"step": step, "metrics": metrics})
        if self.tracker is not None:
            self.tracker.log(step, metrics)

    def on_pictures(self, step: int, pictures: Pictures) -> None:
        if self.tracker is not None:
            self.tracker.pictures(step, pictures)

    def on_checkpoint(self, snapshot: Snapshot) -> None:
        import ray.train

        if self.rank != 0:
            ray.train.report({"step": snapshot.step})
            return
        scratch = Path(tempfile.mkdtemp(prefix="bitreel-checkpoint-"))
        try:
            written = scratch / "checkpoint"
            snapshot.write(written)
            if self.tracker is not None and conditions_at(self.recipe, snapshot.step - 1).ends_phase:
                self.tracker.checkpoint(snapshot.step, written)
            request_validation(written, self.folder, self.recipe, snapshot.step)
            checkpoint = ray.train.Checkpoint.from_directory(str(written))
            ray.train.report({"step": snapshot.step} | snapshot.metrics, checkpoint=checkpoint)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def should_stop(self) -> bool:
        return False  # Ray stops workers from outside


@contextlib.contextmanager
def _watch_progress(path: Path, on_progress: Callable[[int, dict[str, float]], None] | None) -> Iterator[None]:
    """Tell `on_progress` of each new state that rank 0 writes down, from a thread, while the block runs."""
    if on_progress is None:
        yield
        return
    over = threading.Event()

    def look(last: int) -> int:
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            return last
        if state["step"] != last:
            on_progress(state["step"], state["metrics"])
        return int(state["step"])

    def watch() -> None:
        last = -1
        while not over.wait(0.5):
            last = look(last)
        look(last)

    thread = threading.Thread(target=watch, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
