"""What a frame is predicted from: earlier frames moved with overlap, and three further guesses that a mean may lean to.

    0  overlapped compensation: each sample by its own block's vector and its neighbours' (the base)
    1  plain block compensation: sharper where neighbours move differently
    2  plain compensation of the *memory*, a running average along the motion that has less noise than any one frame
    3  the base, smoothed: for edges between blocks, and for detail that was never there

The transform codes what the base leaves. What the others differ from it by, coefficient by coefficient and each times
a gate of the prior network, is a mean like any other coupling's: the path stays invertible. Everything is whole
numbers, so training and coding, batch or single frame, see the very same samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.motion import MOST_REFERENCES, Motion
from codec.motion_compensation import Planes, compensate_all

GUESSES = 3  # beside the base
_MEMORY_SHARE = 38  # of 64: what the memory keeps of itself where nothing has changed
_TOLERANCE = 4  # grey levels, beside a quantization step, from which on a change is none of noise


@dataclass(frozen=True)
class Reference:
    """What is kept from frame to frame: frames, the last one first; how many frames ago each was; the memory."""

    frames: tuple[Planes, ...]
    distances: tuple[int, ...]
    memory: Planes

    @staticmethod
    def after_intra(frame: Planes) -> Reference:
        return Reference((frame,), (1,), frame)

    @property
    def last(self) -> Planes:
        return self.frames[0]

    def followed_by(self, frame: Planes, memory: Planes, gone: int) -> Reference:
        """The reference a frame later. gone: the number of the frame that makes room, or one too large for none."""
        stay = [number for number in range(len(self.frames)) if number != gone]
        frames, distances = [self.frames[n] for n in stay], [self.distances[n] + 1 for n in stay]
        assert len(frames) < MOST_REFERENCES
        return Reference((frame, *frames), (1, *distances), memory)


@dataclass(frozen=True)
class Prediction:
    """base, and `GUESSES` further ones (none for an intra frame, whose base is mid grey)."""

    base: Planes
    guesses: tuple[Planes, ...]

    @staticmethod
    def flat(like: Planes) -> Prediction:
        return Prediction((torch.full_like(like[0], 128.0), torch.full_like(like[1], 128.0)), ())


def predict(reference: Reference, motion: Motion) -> Prediction:
    """A frame's prediction. motion: of a batch, with the reference's frames."""
    base, plain, memory = compensate_all(reference.frames, reference.memory, motion.blocks)
    return Prediction(base, (plain, memory, (_smooth(base[0]), _smooth(base[1]))))


def renew(before: Reference | None, prediction: Prediction, frame: Planes, step: Tensor, gone: int) -> Reference:
    """The reference after `frame` was decoded; step: (B,) whole luma quantization steps, in sample units; gone: see
    `Reference.followed_by`. before: None for an intra frame.
    """
    if before is None:
        return Reference.after_intra(frame)
    moved = prediction.guesses[1]
    reach = (step + _TOLERANCE).int().view(-1, 1, 1)
    luma = _average(frame[0], moved[0], reach)
    return before.followed_by(frame, (luma, _average(frame[1], moved[1], reach[:, None])), gone)


def _average(frame: Tensor, moved: Tensor, reach: Tensor) -> Tensor:
    # In integers: a GPU may divide floats as a product with a rounded reciprocal.
    difference = (moved - frame).int()
    share = torch.div((reach - difference.abs()).clamp_min(0) * _MEMORY_SHARE, reach, rounding_mode="floor")
    return frame + ((difference * share + 32) >> 6).float()


def _smooth(plane: Tensor) -> Tensor:
    """Binomial 3x3, borders repeated; the last two dimensions are rows and columns."""
    lead = plane.shape[:-2]
    wide = F.pad(plane.reshape(-1, 1, *plane.shape[-2:]), (1, 1, 1, 1), mode="replicate")[:, 0]
    across = wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]
    total = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    return torch.floor((total + 8) / 16).reshape(*lead, *plane.shape[-2:])
