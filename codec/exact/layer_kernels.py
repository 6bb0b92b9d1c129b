"""What exact layers do around their matrix products, compiled by numba: in whole numbers, the same as `layers`."""

from __future__ import annotations

import numpy as np
from numba import float32, int8, int32

from codec.rans import compiled, inner, read_only

_LIMIT = np.int32(127)


@inner
def _settle(sums, bias, shift, out):  # type: ignore[no-untyped-def]
    """out = activation((sums + bias) / 2^shift), rounded half up."""
    half = np.int32(bias + ((1 << shift) >> 1))
    for i in range(len(out)):
        value = np.int32(np.int32(sums[i] + half) >> shift)
        out[i] = min(max(value, -_LIMIT), _LIMIT)


@compiled(int32[:, ::1], read_only(int32), read_only(int32), float32[:, ::1])
def settle(sums, bias, shifts, out):  # type: ignore[no-untyped-def]
    """Activations (O, n) of sums of products (O, n), whose unit is 2^-shift as that of bias; both (O,)."""
    for k in range(len(sums)):
        _settle(sums[k], bias[k], shifts[k], out[k])


@compiled(int32[:, ::1], read_only(int32), read_only(int32), int8[:, ::1])
def settle_positive(sums, bias, shifts, out):  # type: ignore[no-untyped-def]
    """As `settle`, negative values becoming zero."""
    for k in range(len(sums)):
        half, row, into = np.int32(bias[k] + ((1 << shifts[k]) >> 1)), sums[k], out[k]
        for i in range(len(into)):
            into[i] = np.int8(min(max(np.int32(np.int32(row[i] + half) >> shifts[k]), np.int32(0)), _LIMIT))


@compiled(int32[:, ::1], read_only(int32), read_only(int32), float32[:, ::1], float32[:, ::1])
def settle_onto(sums, bias, shifts, onto, out):  # type: ignore[no-untyped-def]
    """As `settle`, added to the activations `onto` as `operations.add` does it."""
    for k in range(len(sums)):
        half, row, under, into = np.int32(bias[k] + ((1 << shifts[k]) >> 1)), sums[k], onto[k], out[k]
        for i in range(len(into)):
            value = min(max(np.int32(np.int32(row[i] + half) >> shifts[k]), -_LIMIT), _LIMIT)
            total = np.int32(value + np.int32(under[i]))
            into[i] = np.float32(min(max(total, -_LIMIT), _LIMIT))


@inner
def _nine_products(x, without_last, without_first, weights, width, sums):  # type: ignore[no-untyped-def]
    """Sums of weights (9,) times x; what reaches over a row's end reads where the other row's column is zero."""
    a, b, c, d, e = weights[0], weights[1], weights[2], weights[3], weights[4]
    f, g, h, i = weights[5], weights[6], weights[7], weights[8]
    one, two = np.uint64(1), np.uint64(2)  # places without a sign need no look at it
    for k in range(len(sums)):
        up = np.uint64(k)
        here, down = up + np.uint64(width), up + np.uint64(2 * width)
        left = np.int32(a * without_last[up] + d * without_last[here] + g * without_last[down])
        middle = np.int32(b * x[up + one] + e * x[here + one] + h * x[down + one])
        right = np.int32(c * without_first[up + two] + f * without_first[here + two] + i * without_first[down + two])
        sums[k] = np.int32(np.int32(left + middle) + right)


@compiled([
    (float32[:, :, ::1], int32[:, ::1], read_only(int32), read_only(int32), float32[:, :, ::1]),
    (float32[:, :, ::1], int32[:, ::1], read_only(int32), read_only(int32), int8[:, :, ::1]),
])  # fmt: skip
def depthwise(x, weights, bias, shifts, out):  # type: ignore[no-untyped-def]
    """Activations (C, h, w) of a depthwise 3x3 convolution of whole numbers (C, h, w); weights (C, 9)."""
    channels, height, width = x.shape
    places, before = height * width, width + 1
    grown = np.zeros((3, places + 2 * before), np.int32)  # rows one after the other, zeros before and behind
    sums = np.empty(places, np.int32)
    # Each loop runs over a whole channel: rows are short.
    for channel in range(channels):
        source = x[channel].reshape(-1)
        for copy in range(3):
            into = grown[copy, before:]
            for at in range(places):
                into[at] = np.int32(source[at])
        for row in range(height):
            grown[1, before + row * width + width - 1] = 0
            grown[2, before + row * width] = 0
        _nine_products(grown[0], grown[1], grown[2], weights[channel], width, sums)
        _settle(sums, bias[channel], shifts[channel], out[channel].reshape(-1))


@compiled(int32[:, ::1], int32[:, ::1], read_only(int32), int32, float32[:, ::1])
def settle_wide(high, low, shifts, limit, out):  # type: ignore[no-untyped-def]
    """Wide values (O, n) of sums of products of the inputs' high and low parts, each rounded by itself; unit as of
    `settle`."""
    for k in range(len(high)):
        shift = shifts[k]
        half, above, below, into = np.int32((1 << shift) >> 1), high[k], low[k], out[k]
        for i in range(len(into)):
            # As 64-bit numbers: 128 times a sum leaves 32 bits.
            value = ((np.int64(above[i]) * 128 + half) >> shift) + ((below[i] + half) >> shift)
            into[i] = np.float32(min(max(value, -np.int64(limit)), np.int64(limit)))


@compiled(float32[::1], int8[:, ::1])
def split_wide(x, parts):  # type: ignore[no-untyped-def]
    """Whole values (n,) within ±8191 as parts (2, n): high · 128 + low, -64 <= low < 64."""
    high, low = parts[0], parts[1]
    for i in range(len(x)):
        value = np.int32(x[i])
        above = np.int32(np.int32(value + 64) >> 7)
        high[i] = np.int8(above)
        low[i] = np.int8(value - (above << 7))
