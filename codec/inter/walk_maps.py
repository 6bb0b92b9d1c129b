"""Where the walk's maps are worked out by compiled kernels: on CPUs with numba, outside `floating`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.distributions import SCALE_COUNT, ScaleTables
from codec.exact.operations import is_floating
from codec.inter.scale_index import HEAD_UNITS, whole_index

NOTHING: NDArray[np.float32] = np.zeros((1, 0, 0), np.float32)  # a map that is not there


class QPBase(NamedTuple):
    """What scale heads are added to, in sixteenths of an index. table: (QPs, n) float32; qps: (places,) int64, which
    row of it; trim: (n,) int64."""

    table: Tensor
    qps: Tensor
    trim: Tensor


def kernels_for(x: Tensor) -> Any:
    """The kernels (`walk_kernels`), or None where x has to be worked on by PyTorch."""
    return None if x.device.type != "cpu" or is_floating() else walk_kernels()


@lru_cache
def walk_kernels() -> Any:
    """The same, whatever is to be worked on."""
    try:
        from codec.inter import walk_kernels
    except ImportError:
        return None
    return walk_kernels


def look_up(
    scales: ScaleTables, heads: Tensor, base: QPBase, alive: int, means: Tensor, flat: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale indices, their tables' numbers and the means of the places flat (n, m): int64 of that shape each.

    heads: (1, n, h, w) activations; means: (n, h·w) int64; channels from `alive` on have index 0.
    """
    if (kernels := kernels_for(heads)) is None:
        added = base.table[base.qps].T + base.trim.float()[:, None]
        index = whole_index((heads[0].flatten(1) * HEAD_UNITS + added).gather(1, flat))
        index[alive:] = 0
        return index, scales.number(index), means.gather(1, flat)
    index, numbers, gathered = (torch.empty(flat.shape, dtype=torch.int64) for _ in range(3))
    kernels.look_up(
        plain(heads[0].flatten(1)), HEAD_UNITS, *(plain(part) for part in base), alive,
        plain(scales.number(torch.arange(SCALE_COUNT))), plain(means), plain(flat), index.numpy(), numbers.numpy(),
        gathered.numpy(),
    )  # fmt: skip
    return index, numbers, gathered


def flat_map(values: Tensor, kind: torch.dtype) -> NDArray[Any]:
    """(..., channels, h, w) → (m, channels, h·w), whole numbers of that type; the very same memory where it can be."""
    return values.to(kind).contiguous().view(-1, values.shape[-3], values.shape[-2] * values.shape[-1]).numpy()


def flat_steps(steps: Tensor) -> NDArray[np.int64]:
    """(channels, h, w) or (channels, 1, 1) int64 → (channels, places) or (channels, 1)."""
    return steps.contiguous().view(len(steps), -1).numpy()


def plain(values: Tensor) -> NDArray[Any]:
    """As it is, contiguous."""
    return values.contiguous().numpy()
