"""The walk over a frame's blocks that codes their motion, compiled by numba. Import only where something is coded.

The same walk goes both ways, so encoder and decoder cannot come apart. The syntax: `codec.motion_coding`.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, uint8, uint16, uint32, uint64

from codec.motion import LARGEST_VECTOR
from codec.rans import chance_bit, compiled, even_bits, inner, read_only

TOO_FAR = -1  # what the kernel returns instead of a count
_LARGEST_POWER = 16  # bits of a difference between two vectors
_MOST_SEEN = 64  # bits that a chance rests on; so it forgets
_LEAST = 32  # 65536ths: no bit is rarer

# Where each kind of bit has its contexts; `codec.motion_coding` says what they are.
MOVED, NEIGHBOUR, POWER, LOWER, SIGN, REFERENCE, SECOND, SECOND_REFERENCE, APART = (
    3, 63, 123, 219, 220, 223, 241, 247, 259,
)  # fmt: skip


@inner
def adaptive_bit(coder, wanted, context):  # type: ignore[no-untyped-def]
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


@inner
def _difference(coder, wanted, context, lean, not_zero):  # type: ignore[no-untyped-def]
    """One axis's difference from the median: how many bits it has, the bits below the first one, the sign."""
    magnitude = abs(wanted)
    power = not_zero
    while power < _LARGEST_POWER and adaptive_bit(coder, magnitude >> power, context + min(power, 7)):
        power += 1
    if power == 0:
        return np.int64(0)
    value = np.int64(1) << (power - 1)
    if power > 1:
        value |= adaptive_bit(coder, magnitude >> (power - 2) & 1, LOWER) << (power - 2)
    if power > 2:
        value |= even_bits(coder, magnitude & ((1 << (power - 2)) - 1), power - 2)
    negative = adaptive_bit(coder, wanted < 0, SIGN + (0 if lean < 0 else 1 if lean == 0 else 2))
    return -value if negative else value


@inner
def scaled(vector, distance, of):  # type: ignore[no-untyped-def]
    """One axis of a vector over `of` frames, over `distance` frames."""
    if of == distance:
        return vector
    return min(max((2 * vector * distance + of) // (2 * of), -LARGEST_VECTOR), LARGEST_VECTOR)


@inner
def _neighbour(blocks, distances, y, x, distance):  # type: ignore[no-untyped-def]
    if y < 0 or x < 0 or x >= blocks.shape[2]:
        return np.int64(0), np.int64(0)
    of = distances[blocks[2, y, x]]
    return scaled(blocks[0, y, x], distance, of), scaled(blocks[1, y, x], distance, of)


@inner
def near_vectors(blocks, distances, y, x, place, reference):  # type: ignore[no-untyped-def]
    """Left, upper and corner neighbour's first vector (dy, dx, dy, …), scaled to the reference's distance."""
    size = 1 if place else 2
    # The block to the right of a lower right quarter is not known yet: the upper left stands in.
    unknown = place == 4 and x + 1 < blocks.shape[2]
    distance = distances[reference]
    left = _neighbour(blocks, distances, y, x - 1, distance)
    up = _neighbour(blocks, distances, y - 1, x, distance)
    corner = _neighbour(blocks, distances, y - 1, x - 1 if unknown else x + size, distance)
    return left[0], left[1], up[0], up[1], corner[0], corner[1]


@inner
def _vector(coder, near, moved, y, x, place, wanted):  # type: ignore[no-untyped-def]
    """Code or find the vector of the block at (y, x) in 8x8 blocks; gives it and whether it is off the median."""
    left, up, corner = (near[0], near[1]), (near[2], near[3]), (near[4], near[5])
    low = min(left[0], up[0], corner[0]), min(left[1], up[1], corner[1])
    high = max(left[0], up[0], corner[0]), max(left[1], up[1], corner[1])
    total = left[0] + up[0] + corner[0], left[1] + up[1] + corner[1]
    median = total[0] - low[0] - high[0], total[1] - low[1] - high[1]
    apart = high[0] - low[0] + high[1] - low[1]
    spread = 0 if apart == 0 else 1 if apart < 3 else 2 if apart < 17 else 3
    around = (moved[y, x - 1] if x else 0) + (moved[y - 1, x] if y else 0)
    kind = (spread * 5 + place) * 3
    if not adaptive_bit(coder, wanted != median, MOVED + kind + around):
        return median[0], median[1], 0
    if left != median and adaptive_bit(coder, wanted == left, NEIGHBOUR + kind):
        return left[0], left[1], 1
    if up != median and up != left and adaptive_bit(coder, wanted == up, NEIGHBOUR + kind + 1):
        return up[0], up[1], 1
    fresh = corner != median and corner != left and corner != up
    if fresh and adaptive_bit(coder, wanted == corner, NEIGHBOUR + kind + 2):
        return corner[0], corner[1], 1
    context = POWER + spread * 8
    down = _difference(coder, wanted[0] - median[0], context, total[0] - 3 * median[0], 0)
    context = POWER + (4 + spread * 2 + (1 if down else 0)) * 8
    across = _difference(coder, wanted[1] - median[1], context, total[1] - 3 * median[1], 0 if down else 1)
    return median[0] + down, median[1] + across, 1


@inner
def _reference(coder, wanted, count, context, step):  # type: ignore[no-untyped-def]
    found = np.int64(0)
    while found < count - 1 and adaptive_bit(coder, wanted > found, context + step * min(found, 2)):
        found += 1
    return found


@inner
def _second(coder, wanted, distances, first, context):  # type: ignore[no-untyped-def]
    """The second hypothesis, if there is one; context: of whether. Gives dy, dx, reference."""
    if not adaptive_bit(coder, wanted[2] >= 0, context):
        return np.int64(0), np.int64(0), np.int64(-1)
    reference = _reference(coder, wanted[2], len(distances), SECOND_REFERENCE + 3 * min(first[2], 3), 1)
    distance, of = distances[reference], distances[first[2]]
    near_y, near_x = scaled(first[0], distance, of), scaled(first[1], distance, of)
    down = _difference(coder, wanted[0] - near_y, APART, np.int64(0), 0)
    across = _difference(coder, wanted[1] - near_x, APART + (16 if down else 8), np.int64(0), 0)
    return near_y + down, near_x + across, reference


@inner
def around_of(blocks, y, x, plane, least):  # type: ignore[no-untyped-def]
    """How many of the left and the upper block have at least `least` there: 0..2."""
    return (1 if x and blocks[plane, y, x - 1] >= least else 0) + (1 if y and blocks[plane, y - 1, x] >= least else 0)


@compiled(
    boolean, int64[:, :, ::1], uint8[:, ::1], read_only(int64), int64[::1], int64[::1], uint32[::1], read_only(uint16),
    uint64[::1],
)  # fmt: skip
def code_motion(decoding, blocks, split, distances, chances, seen, intervals, words, state):  # type: ignore[no-untyped-def]
    """Walk the blocks of one frame; gives the number of intervals, or TOO_FAR.

    blocks: (6, 2·rows, 2·columns) as `codec.motion` has them and split: (rows, columns) of 0 and 1; read, or filled
    when decoding. distances: each reference's, in frames. chances, seen: each context's chance of a one in 65536ths,
    and how many bits that rests on; both change. intervals: filled when encoding, as far as there is room. words,
    state: the decoder's.
    """
    rows, columns = split.shape
    moved = np.zeros((2 * rows, 2 * columns), np.int64)
    used = np.zeros(1, np.int64)
    coder = (decoding, chances, seen, intervals, used, words, state)
    several = len(distances) > 1
    for row in range(rows):
        for column in range(columns):
            context = np.int64(split[row - 1, column] if row else 0) + np.int64(split[row, column - 1] if column else 0)
            split[row, column] = divided = adaptive_bit(coder, np.int64(split[row, column]), context)
            size = 1 if divided else 2
            for quarter in range(4 if divided else 1):
                y, x = 2 * row + (quarter >> 1), 2 * column + (quarter & 1)
                place = quarter + 1 if divided else 0
                whole = 0 if divided else 1
                reference, down_2, across_2, reference_2 = np.int64(0), np.int64(0), np.int64(0), np.int64(-1)
                # What is wanted has no meaning when decoding.
                if several:
                    context = REFERENCE + 9 * whole + around_of(blocks, y, x, 2, 1)
                    reference = _reference(coder, blocks[2, y, x], len(distances), context, 3)
                near = near_vectors(blocks, distances, y, x, place, reference)
                wanted = blocks[0, y, x], blocks[1, y, x]
                down, across, other = _vector(coder, near, moved, y, x, place, wanted)
                if several:
                    context = SECOND + 3 * whole + around_of(blocks, y, x, 5, 0)
                    wanted_2 = blocks[3, y, x], blocks[4, y, x], blocks[5, y, x]
                    first = down, across, reference
                    down_2, across_2, reference_2 = _second(coder, wanted_2, distances, first, context)
                if max(abs(down), abs(across), abs(down_2), abs(across_2)) > LARGEST_VECTOR:
                    return TOO_FAR
                blocks[0, y : y + size, x : x + size] = down
                blocks[1, y : y + size, x : x + size] = across
                blocks[2, y : y + size, x : x + size] = reference
                blocks[3, y : y + size, x : x + size] = down_2
                blocks[4, y : y + size, x : x + size] = across_2
                blocks[5, y : y + size, x : x + size] = reference_2
                moved[y : y + size, x : x + size] = other
    return used[0]
