"""The checkpoints of one run: which there are, which stay, and the newest that is whole.

FOLDER/step-00001200/            one checkpoint; the name sorts by step
FOLDER/damaged-step-00001300/    one that was passed over; nothing counts or removes it
FOLDER/.step-00001400.part/      being written, or being removed
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codec.errors import BitreelError, UsageError
from trainers.checkpoint import OtherFormat, Snapshot, TrainingState, load_training_state, read_state

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
        """Steps of the checkpoints there are, rising, damaged ones too until `newest_whole` sets them aside."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted(int(path.name.removeprefix("step-")) for path in found if path.name[5:].isdigit())

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lies."""
        return self.folder / _NAME.format(step)

    def write(self, snapshot: Snapshot) -> Path:
        """Write one and remove those that the policy lets go. Raises OSError where it can't be written."""
        self._clear()
        path = self.path(snapshot.step)
        snapshot.write(path)
        self.prune()
        return path

    def newest_whole(self) -> tuple[Path, TrainingState] | None:
        """The newest checkpoint that is as it was written, and its content; damaged ones after it are told of and set
        aside.

        None where there is none at all. Raises BitreelError where all there are are damaged. For who writes, and for
        others when nobody writes any more.
        """
        steps = self.steps()
        damaged = []
        for step in reversed(steps):
            try:
                state = load_training_state(self.path(step))
            except (BitreelError, UsageError) as error:
                logging.getLogger(__name__).warning("%s; going back to the one before", error)
                if not isinstance(error, OtherFormat):
                    damaged.append(self.path(step))
                continue
            for path in damaged:
                self._set_aside(path)
            return self.path(step), state
        if steps:
            raise BitreelError(f"no checkpoint in '{self.folder}' is whole; start a new run")
        return None

    def prune(self) -> None:
        """Remove those that the policy lets go. For who writes, and for others when nobody writes any more."""
        self._clear()
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
                self._remove(self.path(note.step))

    def _set_aside(self, path: Path) -> None:
        """Left under its name it would count as the newest, and what training writes after the one before it would be
        pruned as older."""
        aside, again = path.with_name(f"damaged-{path.name}"), 1
        while aside.exists():
            again += 1
            aside = path.with_name(f"damaged-{path.name}-{again}")
        try:
            path.rename(aside)
        except OSError as error:
            logging.getLogger(__name__).warning("'%s' can't be set aside: %s", path, error.strerror or error)

    def _remove(self, path: Path) -> None:
        """First the name goes: half of it, of a process that was killed, must not look like a checkpoint."""
        gone = path.with_name(f".{path.name}.part")
        with contextlib.suppress(OSError):  # then it stays until the next time
            path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what a process that was killed left half written or half removed."""
        for unfinished in self.folder.glob(".step-*.part"):
            shutil.rmtree(unfinished, ignore_errors=True)
