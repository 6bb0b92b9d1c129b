"""The walk over a frame's blocks that codes their motion, compiled by numba. Import only where something is coded.

The same walk goes both ways, so encoder and decoder cannot come apart. The syntax: `codec.motion_coding`.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, uint8, uint16, uint32, uint64

from codec.motion import LARGEST_VECTOR
from codec.motion_context_kernels import ACROSS, DOWN, Walk, at, bits_of, place_votes, sign_of, voted_bit
from codec.motion_context_kernels import APART as APART_KIND
from codec.motion_context_kernels import MOVED as MOVED_KIND
from codec.motion_context_kernels import NEIGHBOUR as NEIGHBOUR_KIND
from codec.motion_context_kernels import REFERENCE as REFERENCE_KIND
from codec.motion_context_kernels import SECOND as SECOND_KIND
from codec.motion_context_kernels import SECOND_REFERENCE
from codec.motion_context_kernels import SPLIT as SPLIT_KIND
from codec.rans import chance_bit, compiled, even_bits, inner, read_only

TOO_FAR = -1  # what the kernel returns instead of a count
SIGN_KIND, LOWER_KIND = 9, 10
_LARGEST_POWER = 16  # bits of a difference between two vectors
_MOST_SEEN = 64  # bits that a chance rests on; so it forgets
_LEAST = 32  # 65536ths: no bit is rarer

# Where each kind of bit has its contexts; `codec.motion_coding` says what they are.
MOVED, NEIGHBOUR, POWER, LOWER, SIGN, REFERENCE, SECOND, SECOND_REFERENCE_AT, APART = (
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
def _difference(coder, mixer, walk, y, x, wanted, context, lean, not_zero, kind, hints):  # type: ignore[no-untyped-def]
    """One axis's difference from what is predicted: how many bits it has, the bits below the first one, the sign.

    hints: by how much the frame before, here and beyond, and the neighbours differ from it on this axis; the other
    axis's difference; place.
    """
    earlier, beyond, left, up, corner, other, place = hints
    axis = 1 if kind == ACROSS else 0
    magnitude = abs(wanted)
    power = not_zero
    near = min(bits_of(at(walk.off[axis], y, x - 1)) + bits_of(at(walk.off[axis], y - 1, x)), 15)
    told, told_2 = bits_of(earlier), bits_of(beyond)
    wide = max(bits_of(left), bits_of(up), bits_of(corner))
    narrow = min(bits_of(left), bits_of(up))
    whole = 1 if place == 0 else 0
    while power < _LARGEST_POWER:
        k = min(power, 8)
        place_votes(
            mixer, kind, (k * 9 + told) * 9 + told_2, (k * 9 + wide) * 9 + narrow, (k * 16 + near) * 2 + whole,
            (k * 10 + bits_of(other)) * 9 + told, (k * 9 + bits_of(left)) * 9 + bits_of(up), (k * 9 + told) * 9 + wide,
        )  # fmt: skip
        if not voted_bit(coder, mixer, magnitude >> power, context + min(power, 7), kind * 2 + walk.fresh):
            break
        power += 1
    if power == 0:
        return np.int64(0)
    value = np.int64(1) << (power - 1)
    for low in range(power - 2, max(power - 4, -1), -1):
        same = (value >> (low + 1)) & 3
        hint = (abs(earlier) >> low) & 1 if told == power else 2
        hint_2 = (abs(beyond) >> low) & 1 if told_2 == power else 2
        p = min(power, 8)
        first = 1 if low == power - 2 else 0
        base = ((p * 2 + first) * 4 + same)
        place_votes(
            mixer, LOWER_KIND, base, base * 3 + hint, base * 3 + hint_2, base * 9 + hint * 3 + hint_2,
            base * 9 + bits_of(left), base * 9 + bits_of(other),
        )  # fmt: skip
        value |= voted_bit(coder, mixer, magnitude >> low & 1, LOWER, kind * 2 + walk.fresh) << low
    if power > 3:
        value |= even_bits(coder, magnitude & ((1 << (power - 3)) - 1), power - 3)
    p = min(power, 8)
    closer = 0 if abs(earlier) < value else 1 if abs(earlier) == value else 2
    axis_kind = 1 if kind == ACROSS else 0 if kind == DOWN else 2
    own = sign_of(at(walk.off[axis], y, x - 1)) * 3 + sign_of(at(walk.off[axis], y - 1, x))
    place_votes(
        mixer, SIGN_KIND, (axis_kind * 9 + sign_of(earlier) * 3 + closer) * 9 + p,
        (axis_kind * 3 + sign_of(left)) * 9 + sign_of(up) * 3 + sign_of(corner), axis_kind * 9 + own,
        (axis_kind * 9 + sign_of(earlier) * 3 + sign_of(beyond)) * 3 + sign_of(lean),
        (axis_kind * 3 + sign_of(left)) * 9 + min(bits_of(left), 8),
        ((axis_kind * 3 + sign_of(lean)) * 3 + sign_of(earlier)) * 9 + own,
    )  # fmt: skip
    negative = voted_bit(coder, mixer, np.int64(wanted < 0), SIGN + sign_of(lean), kind * 2 + walk.fresh)
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
def _vector(coder, mixer, walk, near, y, x, place, reference, wanted):  # type: ignore[no-untyped-def]
    """Code or find the vector of the block at (y, x) in 8x8 blocks; gives it and whether it is off the median."""
    left, up, corner = (near[0], near[1]), (near[2], near[3]), (near[4], near[5])
    low = min(left[0], up[0], corner[0]), min(left[1], up[1], corner[1])
    high = max(left[0], up[0], corner[0]), max(left[1], up[1], corner[1])
    total = left[0] + up[0] + corner[0], left[1] + up[1] + corner[1]
    median = total[0] - low[0] - high[0], total[1] - low[1] - high[1]
    apart = high[0] - low[0] + high[1] - low[1]
    spread = 0 if apart == 0 else 1 if apart < 3 else 2 if apart < 17 else 3
    moved, before = walk.moved, walk.before
    around = (moved[y, x - 1] if x else 0) + (moved[y - 1, x] if y else 0)
    size = 1 if place else 2
    # What the frame before had at the block's last quarter, and beyond its lower right corner.
    distance = walk.distances[reference]
    ey, ex = y + size - 1, x + size - 1
    by, bx = min(y + size, before.shape[1] - 1), min(x + size, before.shape[2] - 1)
    earlier = scaled(before[0, ey, ex], distance, 1), scaled(before[1, ey, ex], distance, 1)
    beyond = scaled(before[0, by, bx], distance, 1), scaled(before[1, by, bx], distance, 1)
    far = abs(earlier[0] - median[0]) + abs(earlier[1] - median[1])
    farther = abs(beyond[0] - median[0]) + abs(beyond[1] - median[1])
    told, told_2, whole = bits_of(far), bits_of(farther), 1 if place == 0 else 0
    corners = around + 3 * (at(moved, y - 1, x + size) + 2 * at(moved, y - 1, x - 1))
    kind = (spread * 5 + place) * 3
    place_votes(
        mixer, MOVED_KIND, (told * 4 + spread) * 5 + place, (told * 9 + told_2) * 3 + around, corners * 5 + place,
        (min(bits_of(apart), 8) * 3 + around) * 9 + told, (min(reference, 2) * 4 + spread) * 5 + place,
        (bits_of(at(walk.off[0], y, x - 1)) * 9 + bits_of(at(walk.off[0], y - 1, x))) * 4 + spread,
    )  # fmt: skip
    wants = np.int64(wanted[0] != median[0] or wanted[1] != median[1])
    if not voted_bit(coder, mixer, wants, MOVED + kind + around, MOVED_KIND * 2 + walk.fresh):
        return median[0], median[1], 0
    for i in range(3):
        candidate = left if i == 0 else up if i == 1 else corner
        fresh = candidate != median and (i == 0 or candidate != left) and (i < 2 or candidate != up)
        if not fresh:
            continue
        away = abs(candidate[0] - median[0]) + abs(candidate[1] - median[1])
        of_earlier = abs(candidate[0] - earlier[0]) + abs(candidate[1] - earlier[1])
        of_beyond = abs(candidate[0] - beyond[0]) + abs(candidate[1] - beyond[1])
        place_votes(
            mixer, NEIGHBOUR_KIND, (i * 9 + bits_of(of_earlier)) * 9 + told, (i * 9 + bits_of(away)) * 5 + place,
            (i * 9 + bits_of(of_beyond)) * 9 + bits_of(of_earlier), (i * 3 + around) * 4 + spread,
            (i * 9 + bits_of(away)) * 9 + bits_of(of_earlier), (i * 16 + corners) * 2 + whole,
        )  # fmt: skip
        wants = np.int64(wanted[0] == candidate[0] and wanted[1] == candidate[1])
        if voted_bit(coder, mixer, wants, NEIGHBOUR + kind + i, NEIGHBOUR_KIND * 2 + walk.fresh):
            return candidate[0], candidate[1], 1
    context = POWER + spread * 8
    hints = (earlier[0] - median[0], beyond[0] - median[0], left[0] - median[0], up[0] - median[0],
             corner[0] - median[0], np.int64(0), place)  # fmt: skip
    lean = total[0] - 3 * median[0]
    down = _difference(coder, mixer, walk, y, x, wanted[0] - median[0], context, lean, 0, DOWN, hints)
    context = POWER + (4 + spread * 2 + (1 if down else 0)) * 8
    hints = (earlier[1] - median[1], beyond[1] - median[1], left[1] - median[1], up[1] - median[1],
             corner[1] - median[1], down, place)  # fmt: skip
    lean = total[1] - 3 * median[1]
    least = 0 if down else 1
    across = _difference(coder, mixer, walk, y, x, wanted[1] - median[1], context, lean, least, ACROSS, hints)
    walk.off[0, y : y + size, x : x + size] = down
    walk.off[1, y : y + size, x : x + size] = across
    return median[0] + down, median[1] + across, 1


@inner
def _reference(coder, mixer, walk, y, x, whole, wanted, count, context, step, first):  # type: ignore[no-untyped-def]
    """first: the first hypothesis's where this is the second's, else -1."""
    found = np.int64(0)
    plane = 2 if first < 0 else 5
    left = walk.blocks[plane, y, x - 1] + 1 if x else 0
    up = walk.blocks[plane, y - 1, x] + 1 if y else 0
    corner = walk.blocks[plane, y - 1, x - 1] + 1 if x and y else 0
    before = walk.before[2 if first < 0 else 3, y, x] + 1
    other = walk.before[2 if first < 0 else 3, min(y + 1, walk.before.shape[1] - 1), min(x + 1, walk.before.shape[2] - 1)] + 1
    kind = REFERENCE_KIND if first < 0 else SECOND_REFERENCE
    while found < count - 1:
        k = found * 2 + whole
        place_votes(
            mixer, kind, (k * 7 + left) * 7 + up, (k * 7 + before) * 7 + other, ((k * 7 + left) * 7 + up) * 7 + before,
            (k * 7 + corner) * 7 + before, (k * 7 + left) * 7 + corner, (k * 6 + first + 1) * 7 + up,
        )  # fmt: skip
        if not voted_bit(coder, mixer, np.int64(wanted > found), context + step * min(found, 2), kind * 2 + walk.fresh):
            break
        found += 1
    return found


@inner
def _second(coder, mixer, walk, y, x, place, wanted, first, context):  # type: ignore[no-untyped-def]
    """The second hypothesis, if there is one; context: of whether. Gives dy, dx, reference."""
    distances, blocks, before = walk.distances, walk.blocks, walk.before
    whole = 1 if place == 0 else 0
    left = min(blocks[5, y, x - 1], 0) + 1 if x else 0
    up = min(blocks[5, y - 1, x], 0) + 1 if y else 0
    corner = min(blocks[5, y - 1, x - 1], 0) + 1 if x and y else 0
    both = left * 4 + up * 2 + corner
    was = min(before[3, y, x], 0) + 1
    moved = at(walk.moved, y, x - 1) + at(walk.moved, y - 1, x)
    off = bits_of(first[0]) if bits_of(first[0]) > bits_of(first[1]) else bits_of(first[1])
    place_votes(
        mixer, SECOND_KIND, ((both * 2 + was) * 5 + place) * 5 + first[2], (first[2] * 3 + left + up) * 2 + whole,
        (off * 2 + whole) * 8 + both, (was * 6 + before[2, y, x]) * 5 + first[2], (moved * 8 + both) * 5 + place,
        (before[3, y, x] + 1) * 8 + both,
    )  # fmt: skip
    if not voted_bit(coder, mixer, np.int64(wanted[2] >= 0), context, SECOND_KIND * 2 + walk.fresh):
        return np.int64(0), np.int64(0), np.int64(-1)
    reference = _reference(
        coder, mixer, walk, y, x, whole, wanted[2], len(distances), SECOND_REFERENCE_AT + 3 * min(first[2], 3), 1,
        first[2],
    )  # fmt: skip
    distance, of = distances[reference], distances[first[2]]
    near_y, near_x = scaled(first[0], distance, of), scaled(first[1], distance, of)
    none = np.int64(0)
    hints = none, none, none, none, none, none, place
    down = _difference(coder, mixer, walk, y, x, wanted[0] - near_y, APART, none, 0, APART_KIND, hints)
    hints = none, none, none, none, none, down + 1 if down >= 0 else down, place
    context = APART + (16 if down else 8)
    across = _difference(coder, mixer, walk, y, x, wanted[1] - near_x, context, none, 0, APART_KIND, hints)
    return near_y + down, near_x + across, reference


@inner
def around_of(blocks, y, x, plane, least):  # type: ignore[no-untyped-def]
    """How many of the left and the upper block have at least `least` there: 0..2."""
    return (1 if x and blocks[plane, y, x - 1] >= least else 0) + (1 if y and blocks[plane, y - 1, x] >= least else 0)


@compiled()
def code_motion(decoding, blocks, split, before, fresh, distances, chances, seen, mixer, intervals, words, state):  # type: ignore[no-untyped-def]
    """Walk the blocks of one frame; gives the number of intervals, or TOO_FAR."""
    rows, columns = split.shape
    used = np.zeros(1, np.int64)
    coder = (decoding, chances, seen, intervals, used, words, state)
    moved, off = np.zeros((2 * rows, 2 * columns), np.int64), np.zeros((2, 2 * rows, 2 * columns), np.int64)
    walk = Walk(blocks, moved, off, before, split, distances, fresh)
    several = len(distances) > 1
    for row in range(rows):
        for column in range(columns):
            y, x = 2 * row, 2 * column
            left = np.int64(split[row, column - 1]) if column else np.int64(0)
            up = np.int64(split[row - 1, column]) if row else np.int64(0)
            corner = np.int64(split[row - 1, column - 1]) if row and column else np.int64(0)
            corner_2 = np.int64(split[row - 1, column + 1]) if row and column + 1 < columns else np.int64(0)
            near = near_vectors(blocks, distances, y, x, 0, 0)
            apart = max(near[0], near[2], near[4]) - min(near[0], near[2], near[4])
            apart += max(near[1], near[3], near[5]) - min(near[1], near[3], near[5])
            was = before[4, y, x]
            right = before[4, y, x + 2] if column + 1 < columns else np.int64(0)
            below = before[4, y + 2, x] if row + 1 < rows else np.int64(0)
            across = at(moved, y, x - 1) + at(moved, y + 1, x - 1) + at(moved, y - 1, x) + at(moved, y - 1, x + 1)
            around = ((left * 2 + up) * 2 + corner) * 2 + corner_2
            place_votes(
                mixer, SPLIT_KIND, around * 2 + was, bits_of(apart) * 16 + around, (bits_of(apart) * 2 + was) * 5 + across,
                ((was * 2 + right) * 2 + below) * 3 + left + up, (across * 3 + left + up) * 2 + was, around * 8 + was * 4 + right * 2 + below,
            )  # fmt: skip
            divided = voted_bit(coder, mixer, np.int64(split[row, column]), left + up, SPLIT_KIND * 2 + fresh)
            split[row, column] = divided
            size = 1 if divided else 2
            for quarter in range(4 if divided else 1):
                y, x = 2 * row + (quarter >> 1), 2 * column + (quarter & 1)
                place = quarter + 1 if divided else 0
                whole = 0 if divided else 1
                reference, down_2, across_2, reference_2 = np.int64(0), np.int64(0), np.int64(0), np.int64(-1)
                # What is wanted has no meaning when decoding.
                if several:
                    context = REFERENCE + 9 * whole + around_of(blocks, y, x, 2, 1)
                    reference = _reference(
                        coder, mixer, walk, y, x, whole, blocks[2, y, x], len(distances), context, 3, np.int64(-1)
                    )
                near = near_vectors(blocks, distances, y, x, place, reference)
                wanted = blocks[0, y, x], blocks[1, y, x]
                down, across, other = _vector(coder, mixer, walk, near, y, x, place, reference, wanted)
                if several:
                    context = SECOND + 3 * whole + around_of(blocks, y, x, 5, 0)
                    wanted_2 = blocks[3, y, x], blocks[4, y, x], blocks[5, y, x]
                    first = down, across, reference
                    down_2, across_2, reference_2 = _second(coder, mixer, walk, y, x, place, wanted_2, first, context)
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
