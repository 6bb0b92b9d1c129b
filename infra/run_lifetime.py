"""From when to when a training is RUNNING in MLflow, and how it ended, whoever was killed meanwhile."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from codec.errors import UsageError
from infra.outbox import Outbox, last_status, left_behind, note_status
from infra.stop_signals import stops_ignored
from infra.tracking import OUTBOX, RUN_NOTE, TrackedRun, noted_run, without_login
from infra.training_tracker import TrainingTracker
from trainers.ray_train import TrainingStopped

PATIENCE = 120.0  # seconds that the end of a training waits for MLflow to take everything
_HASTE = 5.0  # who was told to end is killed soon
_SETTLE_PATIENCE = 20.0
_LOCK = "driver.lock"


@contextmanager
def followed_run(run: TrackedRun, patience: float = PATIENCE) -> Iterator[TrainingTracker]:
    """The driver's tracker of a training that is RUNNING in MLflow while the block runs.

    Afterwards it is FINISHED, KILLED (Ctrl-C, SIGTERM) or FAILED, once everything before has arrived; what MLflow does
    not take within `patience` seconds stays on disk, for `settle_runs`. Raises UsageError where another process trains
    this run.
    """
    if run.folder is None:
        raise ValueError("a run without a folder can't be followed")
    lock = _lock(run.folder)
    if lock is None:
        raise UsageError(f"run '{run.folder.name}' is being trained by another process")
    status = "FAILED"
    try:
        tracker = run.open_as("driver")
        tracker.outbox.append({"kind": "status", "status": "RUNNING"})
        try:
            yield tracker
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit, TrainingStopped):
            status, patience = "KILLED", min(patience, _HASTE)
            raise
        finally:
            with stops_ignored() if status == "KILLED" else nullcontext():
                note_status(run.folder / OUTBOX, status)  # first: from here on nothing can change it
                tracker.close()
                _send(run, patience)
    finally:
        os.close(lock)


def settle_runs(storage: Path) -> None:
    """Send what trainings below `storage` could not send before they ended. One whose driver was killed becomes KILLED.

    Runs that go on are left alone. Gives up at the first that MLflow does not answer for.
    """
    for note in sorted(storage.glob(f"*/{RUN_NOTE}")):
        folder = note.parent
        run, status = noted_run(folder), last_status(folder / OUTBOX)
        dead = status == "RUNNING"
        if run is None or not (dead or left_behind(folder / OUTBOX)):
            continue
        lock = _lock(folder)
        if lock is None:
            continue
        try:
            if dead:
                note_status(folder / OUTBOX, "KILLED")
            if not _send(run, _SETTLE_PATIENCE):
                return
        finally:
            os.close(lock)


def _send(run: TrackedRun, patience: float) -> bool:
    """Send everything that any process of a run has left; whether all has arrived."""
    assert run.folder is not None
    done = Outbox(run.uri, run.run_id, run.folder / OUTBOX, "").close(patience)
    if not done:
        logging.getLogger(__name__).warning(
            "MLflow at %s does not answer: what it has not got waits in %s; the next training here sends it",
            without_login(run.uri),
            run.folder / OUTBOX,
        )
    return done


def _lock(folder: Path) -> int | None:
    """A descriptor whose lock the system itself lifts when this process ends; None where another one has it."""
    (folder / OUTBOX).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / OUTBOX / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
