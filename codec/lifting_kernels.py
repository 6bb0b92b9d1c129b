"""The lifting transform compiled by numba: the same numbers as `lifting`'s tensors, many times faster.

A row of blocks at a time: with all samples of the same place in their blocks side by side, every shear is one loop
without a branch over a row of numbers.
"""

from __future__ import annotations

import numpy as np
from numba import int32, int64

from codec.rans import compiled, inlined, inner

_SHIFT = 14  # as in `lifting`
_HALF = 1 << (_SHIFT - 1)


@inner
def _round_up(length):  # type: ignore[no-untyped-def]
    """To what vector instructions take at a time, lest the rest of a loop takes longer than the loop."""
    return (length + 63) // 64 * 64


@inlined
def _part(source, factor):  # type: ignore[no-untyped-def]
    # Products wrap at 32 bits, as the tensors' do, whatever a stream claims.
    return np.int32(np.int32(source * factor + _HALF) >> _SHIFT)


@inner
def _shear(lines, i, j, width, factor):  # type: ignore[no-untyped-def]
    for x in range(width):
        lines[i, x] = np.int32(lines[i, x] + _part(lines[j, x], factor))


@inner
def _shear_back(lines, i, j, width, factor):  # type: ignore[no-untyped-def]
    for x in range(width):
        lines[i, x] = np.int32(lines[i, x] - _part(lines[j, x], factor))


@inner
def _rotate(lines, first, width, steps):  # type: ignore[no-untyped-def]
    """All rotations, on lines from `first` on; of each, `width` numbers."""
    for k in range(len(steps)):
        i, j = first + steps[k, 0], first + steps[k, 1]
        shear, sine = np.int32(steps[k, 2]), np.int32(steps[k, 3])
        _shear(lines, i, j, width, shear)
        _shear(lines, j, i, width, sine)
        _shear(lines, i, j, width, shear)


@inner
def _rotate_back(lines, first, width, steps):  # type: ignore[no-untyped-def]
    for k in range(len(steps) - 1, -1, -1):
        i, j = first + steps[k, 0], first + steps[k, 1]
        shear, sine = np.int32(steps[k, 2]), np.int32(steps[k, 3])
        _shear_back(lines, i, j, width, shear)
        _shear_back(lines, j, i, width, sine)
        _shear_back(lines, i, j, width, shear)


@inner
def _turn(lines, outputs):  # type: ignore[no-untyped-def]
    """Turn the signs that the first direction's outputs want: rounding makes it matter that they turn in between."""
    for k in range(len(outputs)):
        if outputs[k, 1] < 0:
            source = outputs[k, 0]
            for x in range(lines.shape[1]):
                lines[source, x] = np.int32(-lines[source, x])


@compiled(int32[:, ::1], int64, int64[:, ::1], int64[:, ::1], int32[:, :, ::1])
def forward_plane(plane, fraction_bits, steps, outputs, found):  # type: ignore[no-untyped-def]
    """Fill found (n·n, H/n, W/n) with the coefficients of a plane (H, W).

    steps: (rotations, 4) first, second, shear, sine. outputs: (n, 2), of each the source and its sign.
    """
    size, columns = len(outputs), found.shape[2]
    width = _round_up(columns)
    lines = np.zeros((size * size, width), np.int32)
    wide = lines.reshape(size, size * width)  # the first direction's lines are whole rows of blocks
    for row in range(found.shape[1]):
        for i in range(size):
            for j in range(size):
                for x in range(columns):
                    lines[i * size + j, x] = np.int32(plane[row * size + i, x * size + j] << fraction_bits)
        _rotate(wide, 0, size * width, steps)
        _turn(wide, outputs)
        for i in range(size):
            _rotate(lines, i * size, width, steps)
        for v in range(size):
            for u in range(size):
                source, sign = outputs[v, 0] * size + outputs[u, 0], np.int32(outputs[u, 1])
                for x in range(columns):
                    found[v * size + u, row, x] = np.int32(lines[source, x] * sign)


@compiled(int32[:, :, ::1], int64, int64[:, ::1], int64[:, ::1], int32[:, ::1])
def inverse_plane(coefficients, fraction_bits, steps, outputs, plane):  # type: ignore[no-untyped-def]
    """Fill a plane (H, W) with what these coefficients (n·n, H/n, W/n) were made of; see `forward_plane`."""
    size, columns = len(outputs), coefficients.shape[2]
    half = np.int32((1 << fraction_bits) >> 1)
    width = _round_up(columns)
    lines = np.zeros((size * size, width), np.int32)
    wide = lines.reshape(size, size * width)
    for row in range(coefficients.shape[1]):
        for v in range(size):
            for u in range(size):
                source, sign = outputs[v, 0] * size + outputs[u, 0], np.int32(outputs[u, 1])
                for x in range(columns):
                    lines[source, x] = np.int32(coefficients[v * size + u, row, x] * sign)
        for i in range(size):
            _rotate_back(lines, i * size, width, steps)
        _turn(wide, outputs)
        _rotate_back(wide, 0, size * width, steps)
        for i in range(size):
            for j in range(size):
                for x in range(columns):
                    value = np.int32(lines[i * size + j, x] + half)
                    plane[row * size + i, x * size + j] = np.int32(value >> fraction_bits)
