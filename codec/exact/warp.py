"""A recurrent state moved along transmitted vectors: bilinear in fixed point, so it stays whole and exact."""

from __future__ import annotations

import torch
from torch import Tensor

from codec.exact.operations import round_half_up

STEPS = 32  # vectors count quarter luma samples, a cell of the state is 8 of them wide


def warp(state: Tensor, vectors: Tensor) -> Tensor:
    """State (B, S, h, w), whole numbers within ±127; vectors (B, 2, h, w) int64 (dy, dx) in 1/32 of a cell.

    Returns the state at the places pointed to, rounded; beyond its edges the state repeats its border.
    """
    batch, channels, h, w = state.shape
    rows = torch.arange(h, device=state.device).view(1, h, 1) * STEPS + vectors[:, 0]
    columns = torch.arange(w, device=state.device).view(1, 1, w) * STEPS + vectors[:, 1]
    rows, columns = rows.clamp(0, (h - 1) * STEPS), columns.clamp(0, (w - 1) * STEPS)
    top, left = rows >> 5, columns >> 5
    down, across = (rows & 31).float(), (columns & 31).float()
    below, right = (top + 1).clamp_max(h - 1), (left + 1).clamp_max(w - 1)
    flat = state.flatten(2)

    def at(r: Tensor, c: Tensor) -> Tensor:
        return flat.gather(2, (r * w + c).view(batch, 1, h * w).expand(-1, channels, -1)).unflatten(2, (h, w))

    down, across = down[:, None], across[:, None]
    upper = at(top, left) * (STEPS - across) + at(top, right) * across
    lower = at(below, left) * (STEPS - across) + at(below, right) * across
    return round_half_up((upper * (STEPS - down) + lower * down) / (STEPS * STEPS))
