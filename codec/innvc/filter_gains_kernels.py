"""The inner loops of the filter's gains, compiled by numba: coding a segment's values, and choosing them.

`codec.innvc.filter_gains` says what they are. The walk over the values goes both ways.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float64, int64, njit, uint16, uint32, uint64

from codec.adaptive_bit_kernels import adaptive_bit
from codec.rans import compiled, inner, read_only

_CONTEXTS = 13  # of a channel


@inner
def _near(values, channel, row, column):  # type: ignore[no-untyped-def]
    """The values above and to the left."""
    above = values[channel, row - 1, column] if row else np.int64(0)
    left = values[channel, row, column - 1] if column else np.int64(0)
    return above, left


@inner
def _zero_context(channel, above, left, before):  # type: ignore[no-untyped-def]
    near = np.int64(above != 0) + np.int64(left != 0)
    return _CONTEXTS * channel + 3 * np.int64(before != 0) + near


@inner
def _sign_context(channel, above, left, before):  # type: ignore[no-untyped-def]
    leaning = above + left + 2 * before
    return _CONTEXTS * channel + 7 + np.int64(leaning > 0) - np.int64(leaning < 0)


@compiled(
    boolean, int64[:, :, ::1], int64[:, :, ::1], int64, int64[::1], int64[::1], uint32[::1], read_only(uint16),
    uint64[::1],
)  # fmt: skip
def code_gains(decoding, values, before, largest, chances, seen, intervals, words, state):  # type: ignore[no-untyped-def]
    """Code or find values (channels, rows, columns), -largest..largest; gives the number of intervals.

    before: those of the segment before. chances, seen: each context's chance of a one in 65536ths, and how many bits
    that rests on; both change. intervals, words, state: see `codec.rans`.
    """
    used = np.zeros(1, np.int64)
    coder = (decoding, chances, seen, intervals, used, words, state)
    for row in range(values.shape[1]):
        for column in range(values.shape[2]):
            for channel in range(values.shape[0]):
                above, left = _near(values, channel, row, column)
                last, value = before[channel, row, column], values[channel, row, column]
                magnitude, found = abs(value), np.int64(0)
                if adaptive_bit(coder, np.int64(value != 0), _zero_context(channel, above, left, last)):
                    found = np.int64(1)
                    negative = adaptive_bit(coder, np.int64(value < 0), _sign_context(channel, above, left, last))
                    while found < largest:
                        context = _CONTEXTS * channel + 9 + min(found - 1, np.int64(3))
                        if not adaptive_bit(coder, np.int64(magnitude > found), context):
                            break
                        found += 1
                    if negative:
                        found = -found
                values[channel, row, column] = found
    return used[0]


@njit
def _prices(bits, channel, above, left, before, largest, found):  # type: ignore[no-untyped-def]
    """Fill found (2 · largest + 1,) with what the values -largest..largest take."""
    zero, sign = _zero_context(channel, above, left, before), _sign_context(channel, above, left, before)
    found[largest] = bits[zero, 0]
    total = bits[zero, 1]
    for size in range(1, largest + 1):
        context = _CONTEXTS * channel + 9 + min(size - 1, 3)
        end = bits[context, 0] if size < largest else 0.0
        found[largest + size] = total + end + bits[sign, 0]
        found[largest - size] = total + end + bits[sign, 1]
        total += bits[context, 1]


@compiled(float64[:, :, :, ::1], float64[:, :, ::1], int64[:, :, ::1], int64, int64[::1], int64, int64[:, :, ::1])
def choose_gains(squares, products, before, largest, chances, sweeps, values):  # type: ignore[no-untyped-def]
    """Fill values (channels, rows, columns) with what saves most, bits that they take themselves included.

    squares: (rows, columns, channels, channels), products: (rows, columns, channels), see `filter_gains.Wanted`.
    chances: see `code_gains`; they stay. Value by value, each the best beside those around it as they are.
    """
    channels, rows, columns = values.shape
    bits = np.empty((len(chances), 2))
    for context in range(len(chances)):
        one = chances[context] / 65536
        bits[context, 0], bits[context, 1] = -np.log2(1 - one), -np.log2(one)
    price = np.empty(2 * largest + 1)
    values[:] = 0
    for _ in range(sweeps):
        for row in range(rows):
            for column in range(columns):
                square, product = squares[row, column], products[row, column]
                for channel in range(channels):
                    above, left = _near(values, channel, row, column)
                    _prices(bits, channel, above, left, before[channel, row, column], largest, price)
                    pull = product[channel]
                    for other in range(channels):
                        if other != channel:
                            pull -= square[channel, other] * values[other, row, column]
                    best, chosen = np.inf, np.int64(0)
                    for value in range(-largest, largest + 1):
                        cost = square[channel, channel] * value * value - 2 * pull * value + price[value + largest]
                        if cost < best:
                            best, chosen = cost, np.int64(value)
                    values[channel, row, column] = chosen
