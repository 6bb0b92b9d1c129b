"""Checkpoints: a folder with the codec as everybody loads it, and what only a resumed training needs beside it.

    model.safetensors, config.json    the codec (codec.api.load_codec): averaged weights where the recipe averages
    training.safetensors              "optimizer/parameter/slot"; "weights/name" where the codec's are averaged ones
    training.json                     completed steps, the recipe, the last figures, SHA-256 of the other three files

Step counts and the recipe decide every random draw, so these four files are all that an exact resume needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.api import CONFIG_FILE, WEIGHTS_FILE, Codec, load_codec, save_codec
from codec.errors import BitreelError, UsageError
from trainers.adamw import AdamW
from trainers.recipe import Recipe

TENSORS_FILE = "training.safetensors"
STATE_FILE = "training.json"
FORMAT = 2
_FILES = (WEIGHTS_FILE, CONFIG_FILE, TENSORS_FILE)


class OtherFormat(UsageError):
    """A checkpoint that another version of this program wrote; it may be whole."""


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands: `step` steps are done. optimizer: "parameter/slot" → tensor.

    window: sums of the figures since the last log. average: averaged parameters, empty where none are kept.
    """

    step: int
    world: int
    skipped_steps: int
    recipe: dict[str, Any]
    metrics: dict[str, float]
    window: list[float]
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A training at one moment, in tensors of its own on the CPU: may be written later, by another thread."""

    codec: Codec  # its family and settings; its weights go on changing
    recipe: Recipe
    step: int
    world: int
    skipped_steps: int
    metrics: dict[str, float]
    window: list[float]
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    taken: float = field(default_factory=time.time)  # seconds since 1970

    def write(self, folder: Path) -> None:
        """Write the checkpoint to `folder`, which appears only when whole; one that is there is replaced.

        Raises OSError where the disk is full or can't be written; nothing is left behind then.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            self._write_files(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)

    def _write_files(self, folder: Path) -> None:
        save_codec(self.codec, folder, weights=self.weights | self.average)
        tensors = {f"optimizer/{key}": value for key, value in self.optimizer.items()}
        if self.average:
            tensors |= {f"weights/{key}": self.weights[key] for key in self.average}
        try:
            save_file(tensors, str(folder / TENSORS_FILE))
        except SafetensorError as error:  # how a full disk shows itself there
            raise OSError(str(error)) from error
        state = {
            "format": FORMAT,
            "step": self.step,
            "world": self.world,
            "skipped_steps": self.skipped_steps,
            "taken": self.taken,
            "metrics": self.metrics,
            "window": self.window,
            "files": {name: _sha256(folder / name) for name in _FILES},
            "recipe": self.recipe.to_dict(),
        }
        (folder / STATE_FILE).write_text(json.dumps(state | {"sha256": _sha256_of(state)}, indent=2) + "\n")
        for entry in (folder / TENSORS_FILE, folder / STATE_FILE, folder):
            _sync(entry)


def optimizer_tensors(codec: Codec, optimizer: AdamW) -> dict[str, Tensor]:
    """The optimizer's state as "parameter/slot" → tensor, not copied."""
    return {
        f"{name}/{slot}": value.detach()
        for name, parameter in codec.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that no later step changes."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def load_training_state(folder: Path) -> TrainingState:
    """Read a checkpoint folder to go on from it, once every file in it has the hash it was written with.

    Raises UsageError where `folder` is no training checkpoint, BitreelError where a file in it is damaged.
    """
    state = read_state(folder)
    for name, written in state["files"].items():
        if _sha256(folder / name) != written:
            raise BitreelError(f"checkpoint '{folder}' is damaged: {name} is not what was written")
    weights = load_codec(folder).state_dict()
    try:
        tensors = load_file(str(folder / TENSORS_FILE))
        kept = _below("weights", tensors)
        return TrainingState(
            step=state["step"],
            world=state["world"],
            skipped_steps=state["skipped_steps"],
            recipe=state["recipe"],
            metrics=state["metrics"],
            window=state["window"],
            weights=weights | kept,
            average={name: weights[name] for name in kept},
            optimizer=_below("optimizer", tensors),
        )
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BitreelError(f"checkpoint '{folder}' is damaged: {str(error).splitlines()[0]}") from error


def read_state(folder: Path) -> dict[str, Any]:
    """What training.json says. Raises as `load_training_state`."""
    lacking = [name for name in (STATE_FILE, *_FILES) if not (folder / name).is_file()]
    incomplete = UsageError(f"'{folder}' can't be resumed from: no {', '.join(lacking)} in it")
    if STATE_FILE in lacking:
        raise incomplete
    try:
        state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
        written = state["format"]
        whole = written != FORMAT or state.pop("sha256") == _sha256_of(state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BitreelError(f"checkpoint '{folder}' is damaged: {STATE_FILE} can't be read") from error
    if written != FORMAT:
        raise OtherFormat(f"'{folder}' is checkpoint format {written}; this version reads {FORMAT}")
    if lacking:
        raise incomplete
    if not whole:
        raise BitreelError(f"checkpoint '{folder}' is damaged: {STATE_FILE} is not what was written")
    return state


def restore_optimizer(codec: Codec, optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    """Put saved optimizer tensors back, on each parameter's device. Raises BitreelError for an unknown parameter."""
    parameters = dict(codec.named_parameters())
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition("/")
        if name not in parameters:
            raise BitreelError(f"the checkpoint's optimizer state is for a parameter '{name}' that the codec lacks")
        # The step count is kept on the CPU; every other slot lives beside its parameter.
        value = tensor if slot == "step" else tensor.to(parameters[name].device)
        optimizer.state.setdefault(parameters[name], {})[slot] = value


def _below(group: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{group}/"): value for key, value in tensors.items() if key.startswith(f"{group}/")}


def _sha256_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise BitreelError(f"checkpoint '{path.parent}' is damaged: {path.name}: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
