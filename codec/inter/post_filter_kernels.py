"""The post filter's inner loops, compiled by numba: classes of cells, filtered samples, which blocks are filtered.

`codec.inter.post_filter` says what they are. The walk over the flags goes both ways.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float64, int32, int64, njit, uint8, uint16, uint32, uint64

from codec.adaptive_bit_kernels import adaptive_bit
from codec.rans import compiled, inlined, inner, read_only

BORDER = 3  # samples around a plane that taps may reach for; they repeat the border


@njit
def _wide(plane):  # type: ignore[no-untyped-def]
    height, width = plane.shape
    wide = np.empty((height + 2 * BORDER, width + 2 * BORDER), np.int32)
    for y in range(height + 2 * BORDER):
        row = plane[min(max(y - BORDER, 0), height - 1)]
        for x in range(BORDER):
            wide[y, x] = row[0]
            wide[y, width + BORDER + x] = row[width - 1]
        for x in range(width):
            wide[y, x + BORDER] = row[x]
    return wide


@inner
def _add_bends(up, here, down, guess, told, sums):  # type: ignore[no-untyped-def]
    """Add what a row bends by in four directions, and what it differs by from a guess, to sums (5, W)."""
    one, two = np.uint64(1), np.uint64(2)  # places without a sign need no look at it
    vertical, horizontal, falling, rising, changed = sums[0], sums[1], sums[2], sums[3], sums[4]
    for x in range(len(vertical)):
        left = np.uint64(x)
        middle, right = left + one, left + two
        twice = np.int32(2 * here[middle])
        vertical[left] += abs(np.int32(np.int32(twice - up[middle]) - down[middle]))
        horizontal[left] += abs(np.int32(np.int32(twice - here[left]) - here[right]))
        falling[left] += abs(np.int32(np.int32(twice - up[left]) - down[right]))
        rising[left] += abs(np.int32(np.int32(twice - down[left]) - up[right]))
    if told:
        for x in range(len(changed)):
            changed[x] += abs(np.int32(here[np.uint64(x) + one] - np.int32(guess[x])))


@njit
def _bends(wide, guesses, cell, rows, columns):  # type: ignore[no-untyped-def]
    """Of each cell what it bends by and differs by from a guess, (5, rows + 2, columns + 2) with borders repeated."""
    found = np.empty((5, rows + 2, columns + 2), np.int32)
    sums = np.empty((5, columns * cell), np.int32)
    told = len(guesses) > 0
    guess = guesses[0] if told else np.empty((1, 0), np.uint8)
    for row in range(rows):
        sums[:] = 0
        for y in range(row * cell, row * cell + cell):
            first = y + BORDER - 1
            up, here, down = wide[first], wide[first + 1], wide[first + 2]
            of = guess[y if told else 0]
            _add_bends(up[BORDER - 1 :], here[BORDER - 1 :], down[BORDER - 1 :], of, told, sums)
        for k in range(5):
            into, given = found[k, row + 1], sums[k]
            for column in range(columns):
                total = np.int32(0)
                for x in range(cell):
                    total += given[column * cell + x]
                into[column + 1] = total
            into[0], into[columns + 1] = into[1], into[columns]
    found[:, 0], found[:, rows + 1] = found[:, 1], found[:, rows]
    return found


@inner
def _sum_around(above, here, below, sums):  # type: ignore[no-untyped-def]
    """Sums over three columns of three rows."""
    one, two = np.uint64(1), np.uint64(2)
    for x in range(len(sums)):
        left = np.uint64(x)
        middle, right = left + one, left + two
        first = np.int32(above[left] + above[middle] + above[right])
        second = np.int32(here[left] + here[middle] + here[right])
        third = np.int32(below[left] + below[middle] + below[right])
        sums[left] = np.int32(np.int32(first + second) + third)


@compiled(uint8[:, ::1], uint8[:, :, ::1], int64, int64, int64[::1], int64[::1], int64[::1], int64[:, ::1])
def classify(plane, guesses, cell, step, levels, leans, changes, classes):  # type: ignore[no-untyped-def]
    """Fill classes (H/cell, W/cell) of a plane (H, W).

    guesses: (G, H, W), of which the first one counts, if there is one. step: in 16ths. levels, leans, changes: bounds,
    see `post_filter`.
    """
    rows, columns = classes.shape
    wide = _wide(plane)
    bends = _bends(wide, guesses, cell, rows, columns)
    sums = np.empty((5, columns), np.int32)
    for row in range(rows):
        for k in range(5):
            _sum_around(bends[k, row], bends[k, row + 1], bends[k, row + 2], sums[k])
        for column in range(columns):
            up_down, left_right = np.int64(sums[0, column]), np.int64(sums[1, column])
            falling, rising = np.int64(sums[2, column]), np.int64(sums[3, column])
            level = np.int64(0)
            for bound in levels:
                level += np.int64((up_down + left_right) * 1024 >= bound * 9 * cell * cell * step)
            straight = max(up_down, left_right), min(up_down, left_right) + 1
            oblique = max(falling, rising), min(falling, rising) + 1
            if straight[0] * oblique[1] >= oblique[0] * straight[1]:
                most, least, way = straight[0], straight[1], 0 if up_down >= left_right else 1
            else:
                most, least, way = oblique[0], oblique[1], 2 if falling >= rising else 3
            strength = np.int64(0)
            for bound in leans:
                strength += np.int64(16 * most >= bound * least)
            lean = 0 if strength == 0 else 1 + way * len(leans) + strength - 1
            classes[row, column] = level * (1 + 4 * len(leans)) + lean
            if len(guesses):
                change = np.int64(0)
                for bound in changes:
                    change += np.int64(np.int64(sums[4, column]) * 1024 >= bound * 9 * cell * cell * step)
                classes[row, column] += change * (len(levels) + 1) * (1 + 4 * len(leans))


@njit
def _taps_of(plane, guesses, pairs, near, far):  # type: ignore[no-untyped-def]
    """What `_sum_parts` looks up: see there."""
    wide = _wide(plane)
    shifts = pairs[:, 0] * wide.shape[1] + pairs[:, 1]
    size, wings = near.shape[2], far.shape[2]
    # Clipping by a table, and places without a sign: both spare the loop its branches.
    to_near, to_far = np.empty(511, np.int64), np.empty(511, np.int64)
    for k in range(511):
        to_near[k] = min(max(k - 255, -(size // 2)), size // 2) + size // 2
        to_far[k] = min(max(k - 255, -(wings // 2)), wings // 2) + wings // 2
    return wide.reshape(-1), guesses.reshape(-1), near.reshape(-1), far.reshape(-1), shifts, to_near, to_far


@inlined
def _sum_near(looked, at, here, size, first, last):  # type: ignore[no-untyped-def]
    """Responses, in 1024ths, to pairs first .. last - 1 around the sample at a place of the widened plane."""
    samples, _, taps, _, shifts, to_near, _ = looked
    base = 255 - np.int64(samples[np.uint64(at)])
    total = np.int32(0)
    for k in range(first, last):
        shift, row = shifts[np.uint64(k)], here + k * size
        one = to_near[np.uint64(base + samples[np.uint64(at + shift)])]
        other = to_near[np.uint64(base + samples[np.uint64(at - shift)])]
        total += taps[np.uint64(row + one)] + taps[np.uint64(row + other)]
    return np.int64(total)


@inlined
def _far(looked, own, row, place):  # type: ignore[no-untyped-def]
    """Response, in 1024ths, to a guess at a place of all guesses."""
    _, others, _, spans, _, _, to_far = looked
    return np.int64(spans[np.uint64(row + to_far[np.uint64(255 - own + others[np.uint64(place)])])])


@compiled(
    uint8[:, ::1], uint8[:, :, ::1], int64, int64[:, ::1], int64[:, ::1], int32[:, :, ::1], int32[:, :, ::1],
    int32[:, :, ::1], int64, uint8[:, ::1], int64, uint8[:, ::1],
)  # fmt: skip
def filter_plane(  # type: ignore[no-untyped-def]
    plane, guesses, cell, classes, pairs, near, far, gains, close, flags, block, out
):
    """Fill out (H, W) with the plane, filtered where flags (of blocks x blocks samples) are set.

    guesses: (G, H, W). pairs: (P, 2) offsets. near: (classes, P, 2 n + 1) and far: (classes, G, 2 m + 1) responses, in
    1024ths, to differences of -n..n or -m..m and beyond. gains: of each block, (rows, columns, 2 + G) in 64ths: of the
    first `close` pairs, of the others and of each guess.
    """
    height, width = plane.shape
    looked = _taps_of(plane, guesses, pairs, near, far)
    stride, count, size, wings = width + 2 * BORDER, pairs.shape[0], near.shape[2], far.shape[2]
    for row in range(classes.shape[0]):
        for column in range(classes.shape[1]):
            top, left = row * cell, column * cell
            down, right = top // block, left // block
            if not flags[down, right]:
                for y in range(top, top + cell):
                    for x in range(left, left + cell):
                        out[y, x] = plane[y, x]
                continue
            here, there = classes[row, column] * count * size, classes[row, column] * guesses.shape[0] * wings
            for y in range(top, top + cell):
                for x in range(left, left + cell):
                    at, own = (y + BORDER) * stride + x + BORDER, np.int64(plane[y, x])
                    total = np.int64(32768)
                    total += _sum_near(looked, at, here, size, 0, close) * gains[down, right, 0]
                    total += _sum_near(looked, at, here, size, close, count) * gains[down, right, 1]
                    for k in range(guesses.shape[0]):
                        place = (k * height + y) * width + x
                        total += _far(looked, own, there + k * wings, place) * gains[down, right, 2 + k]
                    out[y, x] = min(max(own + (total >> 16), 0), 255)


@compiled(
    uint8[:, ::1], uint8[:, :, ::1], int64, int64[:, ::1], int64[:, ::1], int32[:, :, ::1], int32[:, :, ::1], int64,
    uint8[:, ::1], int64, float64[:, :, :, ::1], float64[:, :, ::1],
)  # fmt: skip
def measure_parts(  # type: ignore[no-untyped-def]
    plane, guesses, cell, classes, pairs, near, far, close, source, block, squares, products
):
    """For an encoder: of each block, sums of the products of its parts and of what is missing to the source with them.

    source: (H, W). squares: (rows, columns, 2 + G, 2 + G) and products: (rows, columns, 2 + G), filled, squared
    samples; parts as the gains of `filter_plane`, which also tells the others.
    """
    height, width = plane.shape
    looked = _taps_of(plane, guesses, pairs, near, far)
    stride, count, size, wings = width + 2 * BORDER, pairs.shape[0], near.shape[2], far.shape[2]
    parts = np.empty(2 + guesses.shape[0], np.int64)
    squares[:] = 0
    products[:] = 0
    for row in range(classes.shape[0]):
        for column in range(classes.shape[1]):
            top, left = row * cell, column * cell
            square, product = squares[top // block, left // block], products[top // block, left // block]
            here, there = classes[row, column] * count * size, classes[row, column] * guesses.shape[0] * wings
            for y in range(top, top + cell):
                for x in range(left, left + cell):
                    at, own = (y + BORDER) * stride + x + BORDER, np.int64(plane[y, x])
                    parts[0] = _sum_near(looked, at, here, size, 0, close)
                    parts[1] = _sum_near(looked, at, here, size, close, count)
                    for k in range(guesses.shape[0]):
                        parts[2 + k] = _far(looked, own, there + k * wings, (k * height + y) * width + x)
                    missing = np.int64(source[y, x]) - own
                    for i in range(len(parts)):
                        product[i] += parts[i] * missing
                        for j in range(i + 1):
                            square[i, j] += parts[i] * parts[j]
    for i in range(len(parts)):
        for j in range(i + 1):
            squares[:, :, i, j] /= 1 << 20
            squares[:, :, j, i] = squares[:, :, i, j]
    products /= 1024


@compiled(uint8[:, ::1], uint8[:, :, ::1], int64[:, ::1], int64[::1], int64[::1], int32[:, :, ::1])
def measure_taps(plane, guesses, pairs, bounds, guess_bounds, found):  # type: ignore[no-untyped-def]
    """For fitting: fill found (H, W, taps) with what the weights are to be multiplied by."""
    wide = _wide(plane)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            own, place = np.int32(plane[y, x]), 0
            for k in range(pairs.shape[0]):
                down, right = pairs[k, 0], pairs[k, 1]
                one = wide[y + BORDER + down, x + BORDER + right] - own
                other = wide[y + BORDER - down, x + BORDER - right] - own
                for bound in bounds:
                    found[y, x, place] = min(max(one, -bound), bound) + min(max(other, -bound), bound)
                    place += 1
            for k in range(guesses.shape[0]):
                one = np.int32(guesses[k, y, x]) - own
                for bound in guess_bounds:
                    found[y, x, place] = min(max(one, -bound), bound)
                    place += 1


@compiled(
    boolean, uint8[:, :, ::1], float64[:, :, ::1], int64, int64[::1], int64[::1], uint32[::1], read_only(uint16),
    uint64[::1],
)  # fmt: skip
def code_flags(decoding, flags, gains, first, chances, seen, intervals, words, state):  # type: ignore[no-untyped-def]
    """Walk the blocks of a frame; gives the number of intervals.

    flags: (3, rows, columns), of Y, U, V, filled. gains: of the same shape, bits that a filtered block is better by:
    when encoding a flag is set where this is more than it costs. first: number of the first context. chances, seen:
    each context's chance of a one in 65536ths, and how many bits that rests on; both change. intervals, words, state:
    see `codec.rans`.
    """
    used = np.zeros(1, np.int64)
    coder = (decoding, chances, seen, intervals, used, words, state)
    for row in range(flags.shape[1]):
        for column in range(flags.shape[2]):
            for kind in range(3):
                context = first + 6 * kind
                context += np.int64(flags[kind, row - 1, column] if row else 0)
                context += np.int64(flags[kind, row, column - 1] if column else 0)
                if kind and flags[0, row, column]:
                    context += 3
                wanted = np.int64(0)
                if not decoding:
                    chance = chances[context] / 65536
                    wanted = np.int64(gains[kind, row, column] > np.log2((1 - chance) / chance))
                flags[kind, row, column] = adaptive_bit(coder, wanted, context)
    return used[0]


@compiled(
    boolean, int64[:, ::1], int64[::1], int64, int64[::1], int64[::1], uint32[::1], read_only(uint16), uint64[::1],
)  # fmt: skip
def code_changes(decoding, values, bounds, largest, chances, seen, intervals, words, state):  # type: ignore[no-untyped-def]
    """Code or find changes of weights (rows, taps), -largest..largest; gives the number of intervals.

    bounds: of each tap the number of its bound, 0..7, for its context. The others: see `code_flags`.
    """
    used = np.zeros(1, np.int64)
    coder = (decoding, chances, seen, intervals, used, words, state)
    before = np.zeros(values.shape[1], np.int64)  # what the last row that has any has
    for row in range(values.shape[0]):
        wanted = np.int64(0)
        if not decoding:
            for tap in range(values.shape[1]):
                wanted |= np.int64(values[row, tap] != 0)
        if not adaptive_bit(coder, wanted, 23):
            continue
        for tap in range(values.shape[1]):
            value = values[row, tap]
            magnitude, found = abs(value), np.int64(0)
            context = 2 * bounds[tap] + np.int64(before[tap] != 0)
            while found < largest and adaptive_bit(coder, np.int64(magnitude > found), context):
                found += 1
                context = np.int64(16) + np.int64(found > 1) + np.int64(found > 2) + np.int64(found > 4)
            if found:
                like = np.int64(before[tap] > 0) - np.int64(before[tap] < 0)
                if adaptive_bit(coder, np.int64(value < 0), 21 + like):
                    found = -found
            values[row, tap] = found
            before[tap] = found
    return used[0]
