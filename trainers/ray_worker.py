"""What each Ray worker of a training runs, and what it leaves in the run's folder.

progress.json     the last logged step                 rank 0
checkpoints/      see trainers.checkpoint_folder       rank 0, from a thread of its own
events.jsonl      see trainers.run_events              every rank
failure.json      what a person must mend              every rank
"""

from __future__ import annotations

from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError, UsageError
from trainers.checkpoint import Snapshot, TrainingState, load_training_state
from trainers.checkpoint_folder import CheckpointFolder, KeepingPolicy
from trainers.checkpoint_writer import CheckpointWriter
from trainers.loop import Pictures, fresh_codec, train
from trainers.phase_batches import PhaseBatches
from trainers.recipe import Recipe, recipe_from_dict
from trainers.run_clips import pinned_clips
from trainers.run_events import note_event
from trainers.schedule import conditions_at
from trainers.starting_codec import starting_codec
from trainers.stop_notice import MachineLeaving, Notices
from trainers.validation import request_validation, standing

PROGRESS_FILE = "progress.json"
FAILURE_FILE = "failure.json"
CHECKPOINTS = "checkpoints"


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


def run_worker(config: dict[str, Any]) -> None:
    """Train as one of the ranks. A failure that a person must mend is written down and not tried again.

    Raises MachineLeaving once all is saved where this worker's machine is about to go.
    """
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
    notices = Notices(folder, rank)
    device = ray.train.torch.get_device()
    try:
        start = _agree_on_start(checkpoint_folder(folder, recipe), rank, world, device)
        if rank == 0:
            begins = f"go on from step {start.step}" if start else "begin"
            note_event(folder, "started", f"{world} workers {begins}", workers=world, step=start.step if start else 0)
        init_from = Path(config["init_from"]) if config["init_from"] else None
        codec = fresh_codec(recipe) if start else starting_codec(recipe, init_from)
        with (
            closing(PhaseBatches(Path(config["store"]), recipe, rank, world, pinned_clips(folder))) as batches,
            _RayHooks(folder, rank, recipe, tracker, notices) as hooks,
        ):
            if start and rank == 0:  # who wrote it may have been killed before this
                hooks.ask_validation(start.step, checkpoint_folder(folder, recipe).path(start.step))
            train(codec, recipe, batches, hooks, device=device, rank=rank, world=world, start=start)
        if world > 1:
            torch.distributed.barrier()  # the last checkpoint is written before any rank leaves
        if notices.leaving:
            note_event(folder, "leaving", f"rank {rank} has to leave its machine; all is saved", rank=rank)
            raise MachineLeaving(f"rank {rank} has to leave its machine")
    except MachineLeaving:
        raise
    except BitreelError as error:
        with suppress(OSError):  # on a full disk; then it is tried again, and told as what it is
            write_json_atomically(
                folder / FAILURE_FILE, {"message": str(error), "usage": isinstance(error, UsageError)}
            )
        raise
    finally:
        if tracker is not None:
            tracker.close()


def checkpoint_folder(folder: Path, recipe: Recipe) -> CheckpointFolder:
    """The checkpoints of the run in `folder`."""
    policy = KeepingPolicy(recipe.keep_checkpoints, recipe.keeps_by, recipe.keep_every_hours)
    return CheckpointFolder(folder / CHECKPOINTS, policy, partial(standing, folder))


def _agree_on_start(checkpoints: CheckpointFolder, rank: int, world: int, device: torch.device) -> TrainingState | None:
    """The newest whole checkpoint as rank 0 sees it: another rank may see older files, or newer ones."""
    found = checkpoints.newest_whole() if rank == 0 else None
    if world == 1:
        return found[1] if found else None
    step = torch.tensor([found[1].step if found else -1], device=device)
    torch.distributed.broadcast(step, 0)
    if rank == 0 or int(step) < 0:
        return found[1] if found else None
    return load_training_state(checkpoints.path(int(step)))


class _RayHooks:
    """Rank 0 alone writes; as a context manager it waits for the last checkpoint."""

    def __init__(self, folder: Path, rank: int, recipe: Recipe, tracker: RunTracker | None, notices: Notices) -> None:
        self.folder, self.rank, self.recipe, self.tracker, self.notices = folder, rank, recipe, tracker, notices
        self.request = notices.request
        self._writer = CheckpointWriter(checkpoint_folder(folder, recipe), self._written, self._not_written)

    def __enter__(self) -> _RayHooks:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._writer.close()

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        if self.rank == 0:
            try:
                # Only to be shown: training does not wait for the disk to have it.
                state = {"step": step, "metrics": metrics}
                write_json_atomically(self.folder / PROGRESS_FILE, state, durable=False)
            except OSError as error:  # a full disk must not end a training that could go on
                note_event(self.folder, "problem", f"can't write {PROGRESS_FILE}: {error.strerror or error}")
        if self.tracker is not None:
            self.tracker.log(step, metrics)

    def on_pictures(self, step: int, pictures: Pictures) -> None:
        if self.tracker is not None:
            self.tracker.pictures(step, pictures)

    def on_checkpoint(self, snapshot: Snapshot) -> None:
        self._writer.submit(snapshot)

    def _written(self, step: int, folder: Path) -> None:
        note_event(self.folder, "checkpoint", f"checkpoint after step {step}", step=step)
        if self.tracker is not None and conditions_at(self.recipe, step - 1).ends_phase:
            self.tracker.checkpoint(step, folder)
        self.ask_validation(step, folder)

    def ask_validation(self, step: int, folder: Path) -> None:
        """Have the checkpoint in `folder` validated, where the recipe wants it."""
        try:
            request_validation(folder, self.folder, self.recipe, step)
        except OSError as error:
            note_event(self.folder, "problem", f"step {step} is not validated: {error.strerror or error}", step=step)

    def _not_written(self, step: int, reason: str) -> None:
        note_event(self.folder, "problem", f"{reason}; training goes on", step=step)
