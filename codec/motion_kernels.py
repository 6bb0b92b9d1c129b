"""The walk over a frame's blocks that codes their motion, compiled by numba. Import only where something is coded.

The same walk goes both ways, so encoder and decoder cannot come apart. The syntax: `codec.motion_coding`.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, njit, uint8, uint16, uint32, uint64

from codec.rans import chance_bit, compiled, even_bits, read_only

TOO_FAR = -1  # what the kernel returns instead of a count
_LARGEST_VECTOR = 1 << 14  # quarter samples; beyond it a stream is not sound
_LARGEST_POWER = 16  # bits of a difference between two such vectors
_MOST_SEEN = 64  # bits that a chance rests on; so it forgets
_LEAST = 32  # 65536ths: no bit is rarer

# Where each kind of bit has its contexts; `codec.motion_coding` says what they are.
_MOVED, _NEIGHBOUR, _POWER, _SECOND, _SIGN = 3, 63, 123, 219, 220


@njit
def _bit(coder, wanted, context):  # type: ignore[no-untyped-def]
    """Code a bit, or find it, with its context's chance of a one; the chance learns from it."""
    _, chances, seen, _, _, _, _ = coder
    chance = chances[context]
    one = chance_bit(coder, chance, wanted)
    weight = seen[context] + 2
    if one:
        chances[context] = min(chance + (65536 - chance) // weight, 65536 - _LEAST)
    else:
        chances[context] = max(chance - chance // weight, _LEAST)
    seen[context] = min(seen[context] + 1, _MOST_SEEN)
    return one


@njit
def _difference(coder, wanted, context, lean, not_zero):  # type: ignore[no-untyped-def]
    """One axis's difference from the median: how many bits it has, the bits below the first one, the sign."""
    magnitude = abs(wanted)
    power = not_zero
    while power < _LARGEST_POWER and _bit(coder, magnitude >> power, context + min(power, 7)):
        power += 1
    if power == 0:
        return np.int64(0)
    value = np.int64(1) << (power - 1)
    if power > 1:
        value |= _bit(coder, magnitude >> (power - 2) & 1, _SECOND) << (power - 2)
    if power > 2:
        value |= even_bits(coder, magnitude & ((1 << (power - 2)) - 1), power - 2)
    negative = _bit(coder, wanted < 0, _SIGN + (0 if lean < 0 else 1 if lean == 0 else 2))
    return -value if negative else value


@njit
def _known(vectors, y, x):  # type: ignore[no-untyped-def]
    if y >= 0 and x >= 0 and x < vectors.shape[2]:
        return vectors[0, y, x], vectors[1, y, x]
    return np.int64(0), np.int64(0)


@njit
def _vector(coder, vectors, moved, y, x, place):  # type: ignore[no-untyped-def]
    """Code or find the vector of the block at (y, x) in 8x8 blocks; gives it and whether it is off the median."""
    size = 1 if place else 2
    # The block to the right of a lower right quarter is not known yet: the upper left stands in.
    unknown = place == 4 and x + 1 < vectors.shape[2]
    left, up = _known(vectors, y, x - 1), _known(vectors, y - 1, x)
    corner = _known(vectors, y - 1, x - 1 if unknown else x + size)
    low = min(left[0], up[0], corner[0]), min(left[1], up[1], corner[1])
    high = max(left[0], up[0], corner[0]), max(left[1], up[1], corner[1])
    total = left[0] + up[0] + corner[0], left[1] + up[1] + corner[1]
    median = total[0] - low[0] - high[0], total[1] - low[1] - high[1]
    apart = high[0] - low[0] + high[1] - low[1]
    spread = 0 if apart == 0 else 1 if apart < 3 else 2 if apart < 17 else 3
    around = (moved[y, x - 1] if x else 0) + (moved[y - 1, x] if y else 0)
    wanted = vectors[0, y, x], vectors[1, y, x]  # when decoding: of no meaning
    kind = (spread * 5 + place) * 3
    if not _bit(coder, wanted != median, _MOVED + kind + around):
        return median[0], median[1], 0
    if left != median and _bit(coder, wanted == left, _NEIGHBOUR + kind):
        return left[0], left[1], 1
    if up != median and up != left and _bit(coder, wanted == up, _NEIGHBOUR + kind + 1):
        return up[0], up[1], 1
    fresh = corner != median and corner != left and corner != up
    if fresh and _bit(coder, wanted == corner, _NEIGHBOUR + kind + 2):
        return corner[0], corner[1], 1
    context = _POWER + spread * 8
    down = _difference(coder, wanted[0] - median[0], context, total[0] - 3 * median[0], 0)
    context = _POWER + (4 + spread * 2 + (1 if down else 0)) * 8
    across = _difference(coder, wanted[1] - median[1], context, total[1] - 3 * median[1], 0 if down else 1)
    return median[0] + down, median[1] + across, 1


@compiled(boolean, int64[:, :, ::1], uint8[:, ::1], int64[::1], int64[::1], uint32[::1], read_only(uint16), uint64[::1])
def code_motion(decoding, vectors, split, chances, seen, intervals, words, state):  # type: ignore[no-untyped-def]
    """Walk the blocks of one frame; gives the number of intervals, or TOO_FAR.

    vectors: (2, 2·rows, 2·columns) and split: (rows, columns) of 0 and 1; read, or filled when decoding. chances,
    seen: each context's chance of a one in 65536ths, and how many bits that rests on; both change. intervals: filled
    when encoding, as far as there is room. words, state: the decoder's.
    """
    rows, columns = split.shape
    moved = np.zeros((2 * rows, 2 * columns), np.int64)
    used = np.zeros(1, np.int64)
    coder = (decoding, chances, seen, intervals, used, words, state)
    for row in range(rows):
        for column in range(columns):
            context = np.int64(split[row - 1, column] if row else 0) + np.int64(split[row, column - 1] if column else 0)
            split[row, column] = divided = _bit(coder, np.int64(split[row, column]), context)
            size = 1 if divided else 2
            for quarter in range(4 if divided else 1):
                y, x = 2 * row + (quarter >> 1), 2 * column + (quarter & 1)
                down, across, other = _vector(coder, vectors, moved, y, x, quarter + 1 if divided else 0)
                if max(abs(down), abs(across)) > _LARGEST_VECTOR:
                    return TOO_FAR
                vectors[0, y : y + size, x : x + size] = down
                vectors[1, y : y + size, x : x + size] = across
                moved[y : y + size, x : x + size] = other
    return used[0]
