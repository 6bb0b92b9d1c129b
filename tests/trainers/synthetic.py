"""Small recipes and endless made-up clips for the training tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.checkpoint import Snapshot
from trainers.loop import Pictures
from trainers.recipe import Recipe, recipe_from_dict
from trainers.schedule import conditions_at
from trainers.shares import share_of
from trainers.step_requests import Request


def tiny_recipe(**changes: Any) -> Recipe:
    """Two phases of 6 and 4 steps on the tiny codec."""
    data: dict[str, Any] = {
        "name": "tiny",
        "codec": {"family": "tiny"},
        "batch_size": 4,
        "log_every": 2,
        "checkpoint_every": 4,
        "pictures_every": 8,
        "phases": [
            {"name": "one", "steps": 6, "learning_rate": [1e-3, 1e-3], "crop": 32, "warmup_steps": 2},
            {
                "name": "two", "steps": 4, "learning_rate": [1e-3, 1e-4], "crop": 32, "clip_frames": 3,
                "mask_fraction": [1.0, 0.5], "frozen": ["down."],
            },
        ],
    }  # fmt: skip
    return recipe_from_dict(data | changes)


@dataclass
class MadeUpClips:
    luma: Tensor
    chroma: Tensor


class MadeUpBatches:
    """Smooth random pictures, a pure function of the step; a rank has its share of them."""

    def __init__(self, recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        self.recipe, self.share = recipe, share_of(recipe.batch_size, rank, world)

    def batch(self, step: int) -> MadeUpClips:
        phase = conditions_at(self.recipe, step).phase
        draw = np.random.default_rng(step)
        shape = (self.recipe.batch_size, phase.clip_frames, 3, phase.crop // 8, phase.crop // 8)
        coarse = torch.from_numpy(draw.integers(0, 256, shape, dtype=np.uint8))[self.share]
        full = coarse.repeat_interleave(8, -1).repeat_interleave(8, -2)
        return MadeUpClips(full[:, :, :1], full[:, :, 1:, ::2, ::2].contiguous())


@dataclass
class Recorder:
    """Hooks that remember; `folder` takes the checkpoints where given. stop_after: steps of this process."""

    folder: Any = None
    stop_after: int | None = None
    asked: int = 0
    logs: dict[int, dict[str, float]] = field(default_factory=dict)
    pictures: dict[int, Pictures] = field(default_factory=dict)
    checkpoints: list[int] = field(default_factory=list)

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        assert step not in self.logs
        self.logs[step] = metrics

    def on_pictures(self, step: int, pictures: Pictures) -> None:
        self.pictures[step] = pictures

    def on_checkpoint(self, snapshot: Snapshot) -> None:
        self.checkpoints.append(snapshot.step)
        if self.folder is not None:
            snapshot.write(self.folder / f"step-{snapshot.step:06d}")

    def request(self) -> Request:
        self.asked += 1
        return Request.STOP if self.asked == self.stop_after else Request.NOTHING
