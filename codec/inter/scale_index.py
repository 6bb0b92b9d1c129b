"""Scale indices: in which units networks say how widely a symbol is spread, and where they begin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codec.distributions import LOG2_STEP, SCALE_COUNT, SMALLEST_SCALE
from codec.inter.layout import ORDER
from codec.inter.quantization import COARSEST_STEP

INDEX_UNITS = 16  # scale indices are computed in sixteenths
HEAD_UNITS = 8  # one activation of a scale head is half a scale index
TOLD_GUESSES = 2  # of the guesses, what a network is told the magnitudes of: the smoothed base says nothing new


def natural_scale_index(knot: int, share: float) -> Tensor:
    """Scale indices, (96,) in order of importance, of `share` of what natural images roughly have, at a knot's step."""
    spread = torch.tensor([_natural_spread(c) for c in ORDER])
    return scale_index_of(spread * share / (COARSEST_STEP * 2.0**-knot))


def _natural_spread(channel: int) -> float:
    """Rough Laplace scale of a transform coefficient of natural images, in 8-bit sample units."""
    size, index = (8, channel) if channel < 64 else (4, (channel - 64) % 16)
    v, u = divmod(index, size)
    frequency = math.hypot(u, v) * 8 / size
    return (60.0 if size == 8 else 12.0) / (1 + frequency) ** 1.4


def scale_index_of(scale: Tensor) -> Tensor:
    """Real-valued index of scales in steps."""
    return torch.log2(scale.clamp_min(SMALLEST_SCALE) / SMALLEST_SCALE) / LOG2_STEP


def whole_index(raw: Tensor) -> Tensor:
    """Round scale indices in sixteenths to the tables' index, int64, 0..63."""
    return torch.floor(raw / INDEX_UNITS + 0.5).clamp(0, SCALE_COUNT - 1).long()
