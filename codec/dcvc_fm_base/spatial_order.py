"""The order in which a latent's places are coded: four steps, in each a quarter of the places of every channel.

Channels are in four quarters. Each quarter takes the four places of every 2x2 cell in an order of its own, so that at
every step each place has a channel that is known there, or beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec.dcvc_fm_base.config import LATENT_QUARTERS
from codec.exact.kept import kept

ORDERS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))  # quarter → places by step (DCVC-FM)


@kept(16)
def four_steps(channels: int, h: int, w: int, device: torch.device) -> tuple[Tensor, ...]:
    """Flat places of each of the four steps in an h x w grid, both even: four of (channels, h·w/4) int64.

    channels: a multiple of 4. Place 0 of a cell is its upper left, 1 its upper right, 2 its lower left.
    """
    cells = [
        (torch.arange(row, h, 2)[:, None] * w + torch.arange(column, w, 2)[None]).flatten()
        for row in (0, 1) for column in (0, 1)
    ]  # fmt: skip
    quarter = channels // LATENT_QUARTERS
    return tuple(
        torch.stack([cells[ORDERS[c // quarter][step]] for c in range(channels)]).to(device) for step in range(4)
    )
