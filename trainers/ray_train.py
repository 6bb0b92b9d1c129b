"""The training loop on Ray Train: N workers, checkpoints to shared storage, on from the last one after a worker dies.

driver: train_on_ray ─▶ TorchTrainer ─▶ N × trainers.ray_worker.run_worker ─▶ trainers.loop.train
             ▲                              │
             └── the run's folder ◀─────────┘   (below `storage`; see trainers.ray_worker for what lies in it)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from codec.api import Codec, save_codec
from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError, UsageError
from pipeline.ray_session import ray_session
from trainers.loop import check_resumable
from trainers.phase_batches import PhaseBatches
from trainers.ray_validation import OnResult, validations_beside
from trainers.ray_worker import FAILURE_FILE, PROGRESS_FILE, RunTrackerSpec, checkpoint_folder, run_worker
from trainers.ray_workers import Resources, Workers, choose_resources
from trainers.recipe import Recipe, recipe_from_dict
from trainers.run_clips import pin_clips
from trainers.run_events import note_event, read_events
from trainers.starting_codec import starting_codec
from trainers.step_requests import Request
from trainers.stop_notice import ask, withdraw
from trainers.validation import check_held_out, waiting_validations

RUN_FILE = "run.json"
START_FOLDER = "start"  # the model whose weights the run began with, so that going on with it needs no other
MAX_FAILURES = 3  # worker deaths in a row that a run survives without a new checkpoint between them
COLLECTIVE_TIMEOUT = 600  # seconds until ranks that wait for one that no longer answers give up
RESIZE_INTERVAL = 15.0  # seconds between looks for machines that came


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
    workers: Workers = None,
    address: str | None = None,
    init_from: Path | None = None,
    tracking: RunTrackerSpec | None = None,
    on_progress: Callable[[int, dict[str, float]], None] | None = None,
    on_event: Callable[[str], None] | None = None,
    on_validation: OnResult | None = None,
    on_stop: Callable[[], None] | None = None,
    beside: int = 1,
) -> TrainingResult:
    """Train by `recipe` on the clips of `store` and wait for the end.

    The run lives in `storage/name`, which every machine of the cluster must see; a run of that name that stopped
    early goes on from its last checkpoint, with any number of workers. `workers` is a number, or the least and the most
    to train with as machines come and go; None means one per GPU, or one where there is none. `init_from` is a
    checkpoint folder whose weights the run starts from; they are copied into the run's folder, and a run that goes on
    needs it no more. `on_progress` gets finished steps and the last figures, `on_event` a line on what happened to
    workers or store, `on_validation` what validations found, from threads. `beside`: how many runs of this kind share
    the cluster.

    SIGTERM to this process stops the run with a checkpoint, and validations at once; where no worker has begun, or at a
    second SIGTERM, all ends at once. `on_stop` hears of it first, from a thread. Raises UsageError where recipe, store,
    weights or a run of that name do not fit together, BitreelError where training fails for good or is stopped.
    """
    folder = storage.resolve() / name
    if address is None and not ray.is_initialized():
        # One process less to start: nobody gives notice before taking this machine away.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    with _stopping_on_sigterm(folder, on_stop) as stopped, ray_session(address):
        resources = choose_resources(workers, recipe.batch_size, beside)
        check_resumable(recipe, None, resources.most)
        PhaseBatches(store, recipe, 0, resources.least)
        check_held_out(store, recipe)
        start = starting_codec(recipe, init_from)
        kept = prepare_run(folder, recipe, store, start if init_from else None)
        pin_clips(folder, store, on_event)
        with (
            _watching(folder, on_progress, on_event),
            validations_beside(recipe, store, folder, on_validation, stopped),
        ):
            _fit_while_it_advances(recipe, store, folder, resources, kept, tracking)
        checkpoint_folder(folder, recipe).prune()  # validations that came after the last checkpoint
        return _result(folder, recipe, tracking.run_id if tracking else "")


def prepare_run(folder: Path, recipe: Recipe, store: Path, start: Codec | None) -> Path | None:
    """Note what the run is and keep the weights it starts from, or check that it is the one that stopped here, which
    `start` need not be given for again. Gives the folder of those weights, None for fresh ones.

    `train_on_ray` does it; whoever tells people of the run before that does it first, or a run that is stopped in
    between would go on from other weights. Raises UsageError where another run of that name is there.
    """
    run_file = folder / RUN_FILE
    facts: dict[str, Any] = {
        "recipe": recipe.to_dict(),
        "store": str(store.resolve()),
        "init_from": start.model_hash().hex() if start else None,
    }
    if run_file.is_file():
        before = json.loads(run_file.read_text())
        if start is None:
            facts["init_from"] = before["init_from"]
        same = recipe_from_dict(before["recipe"]).identity() == recipe.identity()
        differing = [key for key in ("store", "init_from") if before.get(key) != facts[key]]
        if not same or differing:
            raise UsageError(
                f"run '{folder.name}' was started with another {', '.join([*([] if same else ['recipe']), *differing])}"
                "; resume it with the same, or start a new run"
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    withdraw(folder)
    if start is not None and not run_file.is_file():
        save_codec(start, folder / START_FOLDER)
    write_json_atomically(run_file, facts)
    return folder / START_FOLDER if facts["init_from"] else None


def _fit_while_it_advances(
    recipe: Recipe,
    store: Path,
    folder: Path,
    resources: Resources,
    init_from: Path | None,
    tracking: RunTrackerSpec | None,
) -> None:
    """Run the workers to their end. Deaths of workers end it only where several in a row bring no new checkpoint."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    config = {
        "recipe": recipe.to_dict(),
        "store": str(store.resolve()),
        "folder": str(folder),
        "init_from": str(init_from) if init_from else None,
        "threads": resources.cpus,
        "tracking": tracking,
    }
    while True:
        steps = checkpoint_folder(folder, recipe).steps()
        failure: TrainingFailedError | None = None
        try:
            _fit(folder, config, resources)
        except SystemExit:  # Ray Train's answer to Ctrl-C, once its workers have ended
            raise KeyboardInterrupt from None
        except TrainingFailedError as error:
            failure = error
        if (folder / FAILURE_FILE).is_file():
            said = json.loads((folder / FAILURE_FILE).read_text())
            raise (UsageError if said["usage"] else BitreelError)(said["message"])
        if failure is None:
            return
        # Not the newest alone: training may have gone back behind a damaged one.
        if set(checkpoint_folder(folder, recipe).steps()) <= set(steps):
            lines = [line for line in str(failure).strip().splitlines() if line.strip()]
            raise BitreelError(
                f"training '{folder.name}' failed {MAX_FAILURES + 1} times without a new checkpoint and gave up: "
                f"{lines[-1].strip()}"
            ) from failure


def _fit(folder: Path, config: dict[str, Any], resources: Resources) -> None:
    from ray.train.torch import TorchTrainer

    # As `ray.train` gives them where its second version is on, which type checkers can't see there.
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

    from trainers.ray_backend import CheckpointBeforeResize, NoticingTorchConfig

    elastic = resources.least != resources.most
    trainer = TorchTrainer(
        run_worker,
        train_loop_config=config,
        torch_config=NoticingTorchConfig(backend="nccl" if resources.gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT),
        scaling_config=ScalingConfig(
            num_workers=(resources.least, resources.most) if elastic else resources.least,
            use_gpu=resources.gpu,
            resources_per_worker={"CPU": resources.cpus} | ({"GPU": 1} if resources.gpu else {}),
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[CheckpointBeforeResize(folder)] if elastic else [],  # type: ignore[list-item]
        ),
    )
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_ctrl_c)  # Ray Train leaves its own there


def _result(folder: Path, recipe: Recipe, run_id: str) -> TrainingResult:
    """The finished run; raises TrainingStopped where it was."""
    found = checkpoint_folder(folder, recipe).newest_whole()
    again = f"--resume {folder.name}"
    if found is None:
        raise TrainingStopped(
            f"training '{folder.name}' was stopped before its first checkpoint; {again} begins it again"
        )
    path, state = found
    if state.step < recipe.total_steps:
        raise TrainingStopped(
            f"training '{folder.name}' was stopped at step {state.step} of {recipe.total_steps}; go on with {again}"
        )
    if recipe.validate_every and (left := len(waiting_validations(folder))):
        raise TrainingStopped(f"training '{folder.name}' was stopped with {left} validations to do; go on with {again}")
    return TrainingResult(path, state.metrics, run_id)


@contextlib.contextmanager
def _stopping_on_sigterm(folder: Path, on_stop: Callable[[], None] | None) -> Iterator[threading.Event]:
    """SIGTERM asks for a checkpoint and the end of the run, while the block runs, and sets the event it is given.

    Raises TrainingStopped in the block where no worker could hear of that, and at a second SIGTERM.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    _, place = read_events(folder)

    def stop(number: int, frame: object) -> None:
        again = stopped.is_set()
        stopped.set()
        if on_stop is not None and not again:
            # In a thread: what this one was just doing may hold a lock that it needs.
            threading.Thread(target=on_stop, name="training-stops").start()
        begun = any(event["event"] == "started" for event in read_events(folder, place)[0])
        if again or not begun:
            raise KeyboardInterrupt  # where Ray waits it lets no other error through
        ask(folder, Request.STOP)
        note_event(folder, "stopping", "asked to end: a checkpoint, then the end")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped
    except KeyboardInterrupt:
        if not stopped.is_set():
            raise
        raise TrainingStopped(f"training '{folder.name}' was stopped; go on with --resume {folder.name}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _watching(
    folder: Path,
    on_progress: Callable[[int, dict[str, float]], None] | None,
    on_event: Callable[[str], None] | None,
) -> Iterator[None]:
    """Tell of each new state and event that workers write down, from a thread, while the block runs."""
    over = threading.Event()
    _, place = read_events(folder)

    def look(last: int) -> int:
        nonlocal place
        events, place = read_events(folder, place)
        for event in events:
            if on_event is not None and event["event"] != "checkpoint":
                on_event(event["text"])
        try:
            state = json.loads((folder / PROGRESS_FILE).read_text())
        except (OSError, ValueError):
            return last
        if on_progress is not None and state["step"] != last:
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
