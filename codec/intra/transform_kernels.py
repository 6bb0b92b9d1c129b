"""The lifting transform of `codec.lifting`, block by block, for kernels that go through a frame in order."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from codec.lifting import block_rotations
from codec.rans import inner

_HALF, _SHIFT = 1 << 13, 14


@lru_cache
def transform_tables() -> tuple[NDArray[np.int64], ...]:
    """For 8 and for 4 samples: rotations (n, 4) of i, j, shear, sine; sources and signs of the outputs."""
    found: list[Any] = []
    for size in (8, 4):
        rotations, sources, signs = block_rotations(size)
        found += [np.array(rotations, np.int64), np.array(sources, np.int64), np.array(signs, np.int64)]
    return tuple(found)


@inner
def _line_forward(x, y, rotations, sources, signs):  # type: ignore[no-untyped-def]
    for r in range(len(rotations)):
        i, j, shear, sine = rotations[r, 0], rotations[r, 1], rotations[r, 2], rotations[r, 3]
        x[i] += (x[j] * shear + _HALF) >> _SHIFT
        x[j] += (x[i] * sine + _HALF) >> _SHIFT
        x[i] += (x[j] * shear + _HALF) >> _SHIFT
    for k in range(len(sources)):
        y[k] = x[sources[k]] * signs[k]


@inner
def _line_inverse(y, x, rotations, sources, signs):  # type: ignore[no-untyped-def]
    for k in range(len(sources)):
        x[sources[k]] = y[k] * signs[k]
    for r in range(len(rotations) - 1, -1, -1):
        i, j, shear, sine = rotations[r, 0], rotations[r, 1], rotations[r, 2], rotations[r, 3]
        x[i] -= (x[j] * shear + _HALF) >> _SHIFT
        x[j] -= (x[i] * sine + _HALF) >> _SHIFT
        x[i] -= (x[j] * shear + _HALF) >> _SHIFT


@njit
def forward_block(block, size, tables):  # type: ignore[no-untyped-def]
    """In place: block (64,) int64, its first size² values a block row by row, into its coefficients."""
    rotations, sources, signs = tables[0], tables[1], tables[2]
    if size == 4:
        rotations, sources, signs = tables[3], tables[4], tables[5]
    x, y = np.empty(8, np.int64), np.empty(8, np.int64)
    for column in range(size):  # down first, then across, as `codec.lifting` does
        for row in range(size):
            x[row] = block[row * size + column]
        _line_forward(x, y, rotations, sources, signs)
        for row in range(size):
            block[row * size + column] = y[row]
    for row in range(size):
        for column in range(size):
            x[column] = block[row * size + column]
        _line_forward(x, y, rotations, sources, signs)
        for column in range(size):
            block[row * size + column] = y[column]


@njit
def inverse_block(block, size, tables):  # type: ignore[no-untyped-def]
    """The exact inverse of `forward_block`, in place."""
    rotations, sources, signs = tables[0], tables[1], tables[2]
    if size == 4:
        rotations, sources, signs = tables[3], tables[4], tables[5]
    x, y = np.empty(8, np.int64), np.empty(8, np.int64)
    for row in range(size):
        for column in range(size):
            y[column] = block[row * size + column]
        _line_inverse(y, x, rotations, sources, signs)
        for column in range(size):
            block[row * size + column] = x[column]
    for column in range(size):
        for row in range(size):
            y[row] = block[row * size + column]
        _line_inverse(y, x, rotations, sources, signs)
        for row in range(size):
            block[row * size + column] = x[row]
