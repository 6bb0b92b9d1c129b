"""Motion compensation that gradients go through, for training: how a predicted sample depends on its references.

Coding predicts in whole numbers, which have no gradient. Here each block is moved by bilinear interpolation: near
enough to the true filters to say which reference samples a predicted one comes from. Only the gradient is of use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codec.motion_compensation import BLOCK, Planes


def with_gradient(exact: Tensor, soft: Tensor) -> Tensor:
    """The values of `exact`, the gradient of `soft`: same shape (a straight-through estimate)."""
    return exact + (soft - soft.detach())


def soft_compensation(references: Sequence[Planes], blocks: Tensor) -> Planes:
    """About what `codec.motion_compensation.compensate` predicts.

    references: luma (N, H, W) and chroma (N, 2, H/2, W/2), float32. blocks: (N, 6, H/8, W/8), see
    `codec.motion.Motion`. Gives luma and chroma of the same shapes.
    """
    n, _, height, width = references[0][1].shape
    luma = torch.stack([planes[0] for planes in references])
    chroma = torch.stack([planes[1].reshape(n * 2, height, width) for planes in references])
    predicted = _both(luma, blocks, BLOCK, 4)
    return predicted, _both(chroma, blocks.repeat_interleave(2, dim=0), BLOCK // 2, 8).unflatten(0, (n, 2))


def _both(references: Tensor, blocks: Tensor, block: int, units: int) -> Tensor:
    first = _moved(references, blocks[:, :3], block, units)
    second = blocks[:, 5:] >= 0
    if not second.any():
        return first
    other = _moved(references, torch.where(second, blocks[:, 3:], blocks[:, :3]), block, units)
    return (first + other) / 2


def _moved(references: Tensor, moves: Tensor, block: int, units: int) -> Tensor:
    """references (R, N, H, W), moves (N, 3, h, w) in 1/units of a sample → (N, H, W)."""
    _, n, height, width = references.shape
    dense = moves.repeat_interleave(block, 2).repeat_interleave(block, 3)
    rows = torch.arange(height, device=moves.device).view(1, -1, 1) * units + dense[:, 0]
    columns = torch.arange(width, device=moves.device).view(1, 1, -1) * units + dense[:, 1]
    rows, columns = rows.clamp(0, (height - 1) * units), columns.clamp(0, (width - 1) * units)
    top, left = rows // units, columns // units
    down, across = (rows % units) / units, (columns % units) / units
    below, right = (top + 1).clamp_max(height - 1), (left + 1).clamp_max(width - 1)
    start = (dense[:, 2] * n + torch.arange(n, device=moves.device).view(n, 1, 1)) * (height * width)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return torch.take(references, start + row * width + column)

    upper = at(top, left) * (1 - across) + at(top, right) * across
    lower = at(below, left) * (1 - across) + at(below, right) * across
    return upper * (1 - down) + lower * down
