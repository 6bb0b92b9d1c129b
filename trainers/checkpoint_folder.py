"""The checkpoints of one run: which there are, which stay, and the newest that is whole.

FOLDER/step-00001200/    one checkpoint; the name sorts by step
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codec.errors import BitreelError, UsageError
from trainers.checkpoint import Snapshot, TrainingState, load_training_state, read_state

_NAME = "step-{:08d}"


@dataclass(frozen=True)
class KeepingPolicy:
    """Which checkpoints stay: the newest `last`, the best by "loss" or by "validation" ("" for none), and one every
    `hours` (0: none) counted from the oldest."""

    last: int
    best: str = ""
    hours: float = 0.0


@dataclass(frozen=True)
class Validated:
    """What validations have found. costs: of the steps that can be compared; waiting: steps still to be measured, any
    of which may turn out the best."""

    costs: Mapping[int, float] = field(default_factory=dict)
    waiting: frozenset[int] = frozenset()


@dataclass(frozen=True)
class CheckpointNote:
    """What a policy looks at. taken: seconds since 1970."""

    step: int
    taken: float
    metrics: dict[str, float]


def steps_to_keep(
    notes: Sequence[CheckpointNote], policy: KeepingPolicy, validated: Validated = Validated()
) -> set[int]:
    """Steps of the checkpoints that stay. Phases weigh rate and distortion differently, so losses are compared only
    within the newest one's phase; validations measure all phases alike."""
    notes = sorted(notes, key=lambda note: note.step)
    kept = {note.step for note in notes[-policy.last :]}
    costs: dict[int, float] = {}
    if policy.best == "validation":
        costs = {note.step: validated.costs[note.step] for note in notes if note.step in validated.costs}
        kept |= {note.step for note in notes if note.step in validated.waiting}
    elif policy.best == "loss":
        phase = notes[-1].metrics.get("phase") if notes else None
        costs = {n.step: n.metrics["loss"] for n in notes if "loss" in n.metrics and n.metrics.get("phase") == phase}
    if costs:
        kept.add(min(costs, key=lambda step: costs[step]))
    due = float("-inf")
    for note in notes if policy.hours else ():
        if note.taken >= due:
            kept.add(note.step)
            due = note.taken + 3600 * policy.hours
    return kept


class CheckpointFolder:
    """Checkpoints below one folder. One process writes; any may read. `validated` tells what is known when one is to
    be removed."""

    def __init__(self, folder: Path, policy: KeepingPolicy, validated: Callable[[], Validated] = Validated) -> None:
        self.folder, self.policy, self._validated = folder, policy, validated

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, rising, damaged ones too."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted(int(path.name.removeprefix("step-")) for path in found if path.name[5:].isdigit())

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lies."""
        return self.folder / _NAME.format(step)

    def write(self, snapshot: Snapshot) -> Path:
        """Write one and remove those that the policy lets go. Raises OSError where it can't be written."""
        for unfinished in self.folder.glob(".step-*.part"):  # of a process that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        path = self.path(snapshot.step)
        snapshot.write(path)
        self.prune()
        return path

    def newest_whole(self) -> tuple[Path, TrainingState] | None:
        """The newest checkpoint that is as it was written, and its content; damaged ones are told of and passed over.

        None where there is none at all. Raises BitreelError where all there are are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.path(step), load_training_state(self.path(step))
            except (BitreelError, UsageError) as error:
                logging.getLogger(__name__).warning("%s; going back to the one before", error)
        if steps:
            raise BitreelError(f"no checkpoint in '{self.folder}' is whole; start a new run")
        return None

    def prune(self) -> None:
        """Remove those that the policy lets go. For who writes, and for others when nobody writes any more."""
        validated = self._validated()  # before the look at what is there: no newer one is judged by an older finding
        notes = []
        for step in self.steps():
            try:
                state = read_state(self.path(step))
            except (BitreelError, UsageError):
                continue  # neither counted nor removed: a person may want to look at it
            notes.append(CheckpointNote(step, state["taken"], state["metrics"]))
        kept = steps_to_keep(notes, self.policy, validated)
        for note in notes:
            if note.step not in kept:
                shutil.rmtree(self.path(note.step), ignore_errors=True)
