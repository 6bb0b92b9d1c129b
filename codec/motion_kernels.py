"""The walk over a frame's blocks that codes their motion, compiled by numba. Import only where something is coded.

The same walk goes both ways, so encoder and decoder cannot come apart. The syntax: `codec.motion_coding`.
"""

from __future__ import annotations

import numpy as np

from codec.motion import LARGEST_VECTOR
from codec.motion_context_kernels import (
    APART,
    MOVED,
    MOVED_BIT,
    NEIGHBOUR,
    NEIGHBOUR_BIT,
    POWER,
    REFERENCE,
    REFERENCE_BIT,
    SECOND,
    SECOND_BIT,
    SECOND_REFERENCE,
    SECOND_REFERENCE_BIT,
    SPLIT,
    SPLIT_BIT,
    Walk,
    at,
    bits_of,
    place_votes,
    voted_bit,
)
from codec.motion_difference_kernels import code_difference
from codec.rans import compiled, inner

TOO_FAR = -1  # what the kernel returns instead of a count


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
def _earlier_vectors(walk, y, x, place, reference):  # type: ignore[no-untyped-def]
    """What the inter frame before had at the block's last quarter, and beyond that (dy, dx, dy, dx), scaled."""
    before, distance = walk.before, walk.distances[reference]
    size = 1 if place else 2
    last_y, last_x = y + size - 1, x + size - 1
    far_y, far_x = min(y + size, before.shape[1] - 1), min(x + size, before.shape[2] - 1)
    return (
        scaled(before[0, last_y, last_x], distance, 1), scaled(before[1, last_y, last_x], distance, 1),
        scaled(before[0, far_y, far_x], distance, 1), scaled(before[1, far_y, far_x], distance, 1),
    )  # fmt: skip


@inner
def _hints(near, earlier, axis, predicted, other):  # type: ignore[no-untyped-def]
    """See `code_difference`. axis: 0 or 1."""
    return (
        earlier[axis] - predicted, earlier[2 + axis] - predicted, near[axis] - predicted, near[2 + axis] - predicted,
        near[4 + axis] - predicted, other,
    )  # fmt: skip


@inner
def _apart(one_y, one_x, other_y, other_x):  # type: ignore[no-untyped-def]
    """Bits of the sum of both axes' differences."""
    return bits_of(abs(one_y - other_y) + abs(one_x - other_x))


@inner
def _spread(near):  # type: ignore[no-untyped-def]
    apart = max(near[0], near[2], near[4]) - min(near[0], near[2], near[4])
    return apart + max(near[1], near[3], near[5]) - min(near[1], near[3], near[5])


@inner
def _vector(coder, mixer, walk, y, x, place, reference, wanted):  # type: ignore[no-untyped-def]
    """Code or find the vector of the block at (y, x) in 8x8 blocks; gives it and whether it is off the median."""
    near = near_vectors(walk.blocks, walk.distances, y, x, place, reference)
    total_y, total_x = near[0] + near[2] + near[4], near[1] + near[3] + near[5]
    middle_y = total_y - min(near[0], near[2], near[4]) - max(near[0], near[2], near[4])
    middle_x = total_x - min(near[1], near[3], near[5]) - max(near[1], near[3], near[5])
    apart = _spread(near)
    spread = np.int64(0 if apart == 0 else 1 if apart < 3 else 2 if apart < 17 else 3)
    earlier = _earlier_vectors(walk, y, x, place, reference)
    told = _apart(earlier[0], earlier[1], middle_y, middle_x)
    beyond = _apart(earlier[2], earlier[3], middle_y, middle_x)
    moved, off, fresh = walk.moved, walk.off, walk.fresh
    size, whole = (1, np.int64(0)) if place else (2, np.int64(1))
    around = at(moved, y, x - 1) + at(moved, y - 1, x)
    corners = around + 3 * (at(moved, y - 1, x + size) + 2 * at(moved, y - 1, x - 1))
    kind = (spread * 5 + place) * 3
    place_votes(
        mixer, MOVED_BIT, (told * 4 + spread) * 5 + place, (told * 9 + beyond) * 3 + around, corners * 5 + place,
        (bits_of(apart) * 3 + around) * 9 + told, (min(reference, 2) * 4 + spread) * 5 + place,
        (bits_of(at(off[0], y, x - 1)) * 9 + bits_of(at(off[0], y - 1, x))) * 4 + spread,
    )  # fmt: skip
    wants = np.int64(wanted[0] != middle_y or wanted[1] != middle_x)
    if not voted_bit(coder, mixer, MOVED_BIT, fresh, MOVED + kind + around, wants):
        return middle_y, middle_x, np.int64(0)
    for i in range(3):
        down, across = near[2 * i], near[2 * i + 1]
        known = down == middle_y and across == middle_x
        for j in range(i):
            known = known or (down == near[2 * j] and across == near[2 * j + 1])
        if known:
            continue
        away = _apart(down, across, middle_y, middle_x)
        of_earlier = _apart(down, across, earlier[0], earlier[1])
        of_beyond = _apart(down, across, earlier[2], earlier[3])
        place_votes(
            mixer, NEIGHBOUR_BIT, (i * 9 + of_earlier) * 9 + told, (i * 9 + away) * 5 + place,
            (i * 9 + of_beyond) * 9 + of_earlier, (i * 3 + around) * 4 + spread,
            (i * 9 + away) * 9 + of_earlier, (i * 12 + corners) * 2 + whole,
        )  # fmt: skip
        wants = np.int64(wanted[0] == down and wanted[1] == across)
        if voted_bit(coder, mixer, NEIGHBOUR_BIT, fresh, NEIGHBOUR + kind + i, wants):
            return down, across, np.int64(1)
    hints = _hints(near, earlier, 0, middle_y, np.int64(0))
    lean, context = total_y - 3 * middle_y, POWER + spread * 8
    down = code_difference(coder, mixer, walk, y, x, whole, 0, wanted[0] - middle_y, context, lean, 0, hints)
    hints = _hints(near, earlier, 1, middle_x, bits_of(down))
    other = np.int64(1 if down else 0)
    lean, context = total_x - 3 * middle_x, POWER + (4 + spread * 2 + other) * 8
    across = code_difference(coder, mixer, walk, y, x, whole, 1, wanted[1] - middle_x, context, lean, 1 - other, hints)
    off[0, y : y + size, x : x + size] = down
    off[1, y : y + size, x : x + size] = across
    return middle_y + down, middle_x + across, np.int64(1)


@inner
def _reference(coder, mixer, walk, y, x, whole, wanted, first, context, step):  # type: ignore[no-untyped-def]
    """The number of the reference. first: the first vector's where this is the second one's, else -1."""
    known, kept, kind = (2, 2, REFERENCE_BIT) if first < 0 else (5, 3, SECOND_REFERENCE_BIT)
    references, before = walk.blocks[known], walk.before[kept]
    left = references[y, x - 1] + 1 if x else np.int64(0)
    up = references[y - 1, x] + 1 if y else np.int64(0)
    corner = references[y - 1, x - 1] + 1 if x and y else np.int64(0)
    size = 1 + whole
    told = before[y + size - 1, x + size - 1] + 1
    beyond = before[min(y + size, before.shape[0] - 1), min(x + size, before.shape[1] - 1)] + 1
    found = np.int64(0)
    while found < len(walk.distances) - 1:
        k = found * 2 + whole
        place_votes(
            mixer, kind, (k * 6 + left) * 6 + up, (k * 6 + told) * 6 + beyond, ((k * 6 + left) * 6 + up) * 6 + told,
            (k * 6 + corner) * 6 + told, (k * 6 + left) * 6 + corner, (k * 6 + first + 1) * 6 + up,
        )  # fmt: skip
        if not voted_bit(coder, mixer, kind, walk.fresh, context + step * min(found, 2), np.int64(wanted > found)):
            break
        found += 1
    return found


@inner
def _second(coder, mixer, walk, y, x, place, wanted, first, context):  # type: ignore[no-untyped-def]
    """The second vector and its reference (dy, dx, reference), if there is one. context: of whether."""
    distances, before = walk.distances, walk.before
    size, whole = (1, np.int64(0)) if place else (2, np.int64(1))
    seconds = walk.blocks[5]
    left = np.int64(1 if x and seconds[y, x - 1] >= 0 else 0)
    up = np.int64(1 if y and seconds[y - 1, x] >= 0 else 0)
    corner = np.int64(1 if x and y and seconds[y - 1, x - 1] >= 0 else 0)
    around = left * 4 + up * 2 + corner
    told, told_first = before[3, y + size - 1, x + size - 1] + 1, before[2, y + size - 1, x + size - 1]
    was = np.int64(1 if told else 0)
    moved = at(walk.moved, y, x - 1) + at(walk.moved, y - 1, x)
    place_votes(
        mixer, SECOND_BIT, ((around * 2 + was) * 5 + place) * 5 + first[2], (first[2] * 3 + left + up) * 2 + whole,
        (max(bits_of(first[0]), bits_of(first[1])) * 2 + whole) * 8 + around, (was * 5 + told_first) * 5 + first[2],
        (moved * 8 + around) * 5 + place, told * 8 + around,
    )  # fmt: skip
    if not voted_bit(coder, mixer, SECOND_BIT, walk.fresh, context, np.int64(wanted[2] >= 0)):
        return np.int64(0), np.int64(0), np.int64(-1)
    context = SECOND_REFERENCE + 3 * min(first[2], 3)
    reference = _reference(coder, mixer, walk, y, x, whole, wanted[2], first[2], context, 1)
    near = near_vectors(walk.blocks, distances, y, x, place, reference)
    earlier = _earlier_vectors(walk, y, x, place, reference)
    distance, of = distances[reference], distances[first[2]]
    from_y, from_x = scaled(first[0], distance, of), scaled(first[1], distance, of)
    level, hints = np.int64(0), _hints(near, earlier, 0, from_y, np.int64(0))
    down = code_difference(coder, mixer, walk, y, x, whole, 2, wanted[0] - from_y, APART, level, 0, hints)
    context, hints = APART + (16 if down else 8), _hints(near, earlier, 1, from_x, bits_of(down))
    across = code_difference(coder, mixer, walk, y, x, whole, 3, wanted[1] - from_x, context, level, 0, hints)
    walk.off[2, y : y + size, x : x + size] = down
    walk.off[3, y : y + size, x : x + size] = across
    return from_y + down, from_x + across, reference


@inner
def around_of(blocks, y, x, plane, least):  # type: ignore[no-untyped-def]
    """How many of the left and the upper block have at least `least` there: 0..2."""
    return (1 if x and blocks[plane, y, x - 1] >= least else 0) + (1 if y and blocks[plane, y - 1, x] >= least else 0)


@inner
def _split(coder, mixer, walk, split, row, column, wanted):  # type: ignore[no-untyped-def]
    """Whether the 16x16 block is split. split: of the blocks so far."""
    y, x, before = 2 * row, 2 * column, walk.before[4]
    left, up = np.int64(at(split, row, column - 1)), np.int64(at(split, row - 1, column))
    around = left * 8 + up * 4 + np.int64(at(split, row - 1, column - 1)) * 2 + np.int64(at(split, row - 1, column + 1))
    apart = bits_of(_spread(near_vectors(walk.blocks, walk.distances, y, x, 0, 0)))
    was, right, below = before[y, x], at(before, y, x + 2), at(before, y + 2, x)
    moved = walk.moved
    moves = at(moved, y, x - 1) + at(moved, y + 1, x - 1) + at(moved, y - 1, x) + at(moved, y - 1, x + 1)
    place_votes(
        mixer, SPLIT_BIT, around * 2 + was, apart * 16 + around, (apart * 2 + was) * 5 + moves,
        ((was * 2 + right) * 2 + below) * 3 + left + up, (moves * 3 + left + up) * 2 + was,
        around * 8 + was * 4 + right * 2 + below,
    )  # fmt: skip
    return voted_bit(coder, mixer, SPLIT_BIT, walk.fresh, SPLIT + left + up, wanted)


@compiled()
def code_motion(given, mixer, learned, blocks, split, distances, before, fresh):  # type: ignore[no-untyped-def]
    """Walk the blocks of one frame; gives the number of intervals, or TOO_FAR.

    given: whether to decode, intervals, words, state, as in `codec.rans`. mixer: a `Mixer`'s parts; learned: each
    adaptive context's chance of a one in 65536ths and how many bits that rests on, both int64; all of them change.
    blocks: int64 (6, 2·rows, 2·columns) as `codec.motion` has them and split: uint8 (rows, columns) of 0 and 1; read,
    or filled when decoding. distances: int64, each reference's, in frames. before, fresh: see `Walk`.
    """
    decoding, intervals, words, state = given
    rows, columns = split.shape
    used = np.zeros(1, np.int64)
    coder = (decoding, learned[0], learned[1], intervals, used, words, state)
    moved, off = np.zeros((2 * rows, 2 * columns), np.int64), np.zeros((4, 2 * rows, 2 * columns), np.int64)
    walk = Walk(blocks, distances, moved, off, before, fresh)
    several = len(distances) > 1
    for row in range(rows):
        for column in range(columns):
            # What is wanted has no meaning when decoding.
            divided = _split(coder, mixer, walk, split, row, column, np.int64(split[row, column]))
            split[row, column] = divided
            size, whole = (1, np.int64(0)) if divided else (2, np.int64(1))
            for quarter in range(4 if divided else 1):
                y, x = 2 * row + (quarter >> 1), 2 * column + (quarter & 1)
                place = np.int64(quarter + 1 if divided else 0)
                reference, down_2, across_2, reference_2 = np.int64(0), np.int64(0), np.int64(0), np.int64(-1)
                if several:
                    context = REFERENCE + 9 * whole + around_of(blocks, y, x, 2, 1)
                    reference = _reference(coder, mixer, walk, y, x, whole, blocks[2, y, x], np.int64(-1), context, 3)
                wanted = blocks[0, y, x], blocks[1, y, x]
                down, across, other = _vector(coder, mixer, walk, y, x, place, reference, wanted)
                if several:
                    context = SECOND + 3 * whole + around_of(blocks, y, x, 5, 0)
                    wanted_2, first = (blocks[3, y, x], blocks[4, y, x], blocks[5, y, x]), (down, across, reference)
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
