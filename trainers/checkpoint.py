"""Checkpoints: a folder with the codec as everybody loads it, and what only a resumed training needs beside it.

    model.safetensors, config.json    the codec (codec.api.load_codec)
    training.safetensors              optimizer state, one tensor per parameter and slot
    training.json                     completed steps, the recipe, the last figures

Step counts and the recipe decide every random draw, so these four files are all that an exact resume needs.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from codec.api import Codec, load_codec, save_codec
from codec.errors import BitreelError, UsageError
from trainers.recipe import Recipe

OPTIMIZER_FILE = "training.safetensors"
STATE_FILE = "training.json"
FORMAT = 1


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands: `step` steps are done. optimizer: "parameter/slot" → tensor."""

    step: int
    world: int
    skipped_steps: int
    recipe: dict[str, Any]
    metrics: dict[str, float]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A training at this moment, not yet written. `write` must run before the next step changes the tensors."""

    codec: Codec
    optimizer: Optimizer
    recipe: Recipe
    step: int
    world: int
    skipped_steps: int
    metrics: dict[str, float]

    def write(self, folder: Path) -> None:
        """Write the checkpoint to `folder`, which appears only when whole; one that is there is replaced."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        save_codec(self.codec, temporary)
        save_file(_optimizer_tensors(self.codec, self.optimizer), str(temporary / OPTIMIZER_FILE))
        state = {
            "format": FORMAT,
            "step": self.step,
            "world": self.world,
            "skipped_steps": self.skipped_steps,
            "metrics": self.metrics,
            "recipe": self.recipe.to_dict(),
        }
        (temporary / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n")
        for entry in (temporary / OPTIMIZER_FILE, temporary / STATE_FILE, temporary):
            _sync(entry)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)


def load_training_state(folder: Path) -> TrainingState:
    """Read a checkpoint folder to go on from it.

    Raises UsageError where `folder` is no training checkpoint, BitreelError where a file in it is damaged.
    """
    state_path, optimizer_path = folder / STATE_FILE, folder / OPTIMIZER_FILE
    if not state_path.is_file() or not optimizer_path.is_file():
        raise UsageError(f"'{folder}' can't be resumed from: {STATE_FILE} and {OPTIMIZER_FILE} are not both there")
    weights = load_codec(folder).state_dict()
    try:
        state = json.loads(state_path.read_text())
        if state["format"] != FORMAT:
            raise UsageError(f"'{folder}' is checkpoint format {state['format']}; this version reads {FORMAT}")
        return TrainingState(
            step=int(state["step"]),
            world=int(state["world"]),
            skipped_steps=int(state["skipped_steps"]),
            recipe=state["recipe"],
            metrics=state["metrics"],
            weights=weights,
            optimizer=load_file(str(optimizer_path)),
        )
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BitreelError(f"checkpoint '{folder}' is damaged: {str(error).splitlines()[0]}") from error


def restore_optimizer(codec: Codec, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put saved optimizer tensors back, on each parameter's device. Raises BitreelError for an unknown parameter."""
    parameters = dict(codec.named_parameters())
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition("/")
        if name not in parameters:
            raise BitreelError(f"the checkpoint's optimizer state is for a parameter '{name}' that the codec lacks")
        # AdamW keeps its step count on the CPU; every other slot lives beside its parameter.
        value = tensor if slot == "step" else tensor.to(parameters[name].device)
        optimizer.state[parameters[name]][slot] = value


def _optimizer_tensors(codec: Codec, optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{slot}": value.detach().cpu().contiguous()
        for name, parameter in codec.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
