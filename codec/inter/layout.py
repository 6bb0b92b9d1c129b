"""Which coefficient comes when: channels by importance, groups of channels, and the pyramid of intra DC values.

Channels are the packed transform's: 64 luma, 16 U, 16 V. Group 0 is the three DC channels. In an intra frame these
come in a pyramid over the block grid: a coarse lattice first, then the points between, each predicted from its four
nearest known neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.exact.kept import kept

GROUP_SIZES = (3, 9, 20, 32, 32)
LUMA_CHANNELS = 64
TOP_STRIDE = 8
_ALL_ALIVE_QP = 20


def _importance(channel: int) -> float:
    """Smaller is more important: squared frequency in cycles a block; chroma stands a little behind luma."""
    if channel < LUMA_CHANNELS:
        v, u = divmod(channel, 8)
        return (u * u + v * v) / 64
    v, u = divmod((channel - LUMA_CHANNELS) % 16, 4)
    return (u * u + v * v) / 16 * 1.5 + 1e-3


ORDER: tuple[int, ...] = tuple(sorted(range(96), key=_importance))
GROUP_STARTS: tuple[int, ...] = tuple(sum(GROUP_SIZES[:g]) for g in range(len(GROUP_SIZES)))
assert ORDER[:3] == (0, 64, 80), "group 0 is DC"


def live_channels(fraction: float, qp: int) -> int:
    """How many channels, in order of importance, are alive at this QP; rises from the fraction at QP 0 to all at 20."""
    share = fraction + (1 - fraction) * min(qp / _ALL_ALIVE_QP, 1.0)
    return max(GROUP_SIZES[0], math.ceil(share * 96))


@dataclass(frozen=True)
class PyramidStep:
    """One step of the DC pyramid: flat positions (n,), their neighbours (n, 4), which of these exist (n, 4)."""

    level: int
    positions: Tensor
    neighbours: Tensor
    valid: Tensor

    def predict(self, known: Tensor) -> Tensor:
        """Rounded mean of the known neighbours: (..., h·w) whole numbers → (..., n); zero where there are none."""
        count = self.valid.sum(1)
        total = (known[..., self.neighbours] * self.valid).sum(-1)
        divided = torch.div(2 * total + count, (2 * count).clamp_min(1), rounding_mode="floor")
        return torch.where(count > 0, divided, torch.zeros_like(divided))

    def predict_float(self, known: Tensor) -> Tensor:
        """The same without rounding, for training."""
        total = (known[..., self.neighbours] * self.valid).sum(-1)
        return total / self.valid.sum(1).clamp_min(1)


PYRAMID_LEVELS = 1 + 2 * int(math.log2(TOP_STRIDE))


@kept(4)
def dc_pyramid(h: int, w: int, device: torch.device) -> tuple[PyramidStep, ...]:
    """The steps for an h x w grid; together they visit each position once. Levels without positions are left out."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    steps = [_step(0, rows, columns, (rows % TOP_STRIDE == 0) & (columns % TOP_STRIDE == 0), ())]
    stride, level = TOP_STRIDE, 1
    while stride > 1:
        half = stride // 2
        odd_row, odd_column = rows % stride == half, columns % stride == half
        even_row, even_column = rows % stride == 0, columns % stride == 0
        corners = ((-half, -half), (-half, half), (half, -half), (half, half))
        sides = ((-half, 0), (half, 0), (0, -half), (0, half))
        steps.append(_step(level, rows, columns, odd_row & odd_column, corners))
        steps.append(_step(level + 1, rows, columns, (odd_row & even_column) | (even_row & odd_column), sides))
        stride, level = half, level + 2
    return tuple(
        PyramidStep(s.level, s.positions.to(device), s.neighbours.to(device), s.valid.to(device))
        for s in steps
        if len(s.positions)
    )


def _step(
    level: int, rows: Tensor, columns: Tensor, chosen: Tensor, offsets: tuple[tuple[int, int], ...]
) -> PyramidStep:
    h, w = rows.shape
    r, c = rows[chosen], columns[chosen]
    positions = r * w + c
    if not offsets:
        none = torch.zeros(len(positions), 4, dtype=torch.int64)
        return PyramidStep(level, positions, none, none)
    near_r = torch.stack([r + dy for dy, _ in offsets], 1)
    near_c = torch.stack([c + dx for _, dx in offsets], 1)
    inside = (near_r >= 0) & (near_r < h) & (near_c >= 0) & (near_c < w)
    flat = torch.where(inside, near_r * w + near_c, 0)
    return PyramidStep(level, positions, flat, inside.long())
