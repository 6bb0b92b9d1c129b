"""The walk over a plane's samples that codes them, compiled by numba. Import only where something is coded.

The same walk goes both ways, so encoder and decoder cannot come apart. `codec.sample_coding` says what it does and why;
this file has the numbers. It is one long function because calls with arrays cost more than what they would do here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import boolean, int16, int32, int64, types, uint8, uint16, uint32, uint64

from codec.rans import compiled, read_only
from codec.sample_filter_kernels import BLOCK, WEIGHT_BITS, enter_block, improve, learn_sample, leave_block
from codec.sample_measure_kernels import LEVELS, in_range, level_of, median, signed_class, tail_place

FRACTION = 6  # bits below a grey level in predictions and errors
GUIDES = 6  # predictions that a distribution stands around
COUNTERS, PLACES = 8, 512  # contexts of a bit, and how many values each has at most
NUMBERS = 32  # kinds of bits: 0 other?, 1 sign, 2.. beyond a bucket?, 18.. within a bucket
SETS, CHOICES = 3, 64  # sets of weights that a bit is mixed by, and how many each is picked from
VOTES = GUIDES + COUNTERS + 1
BIASES = 343
TOP, PAD = 3, 3  # rows above a plane and columns on either side
MOST_BITS = 24  # of a sample
SQUASH_LIMIT = 2815  # 256ths
LOG_BITS = 14  # of the arguments that the table of logarithms has
_LOG_STEP, _LOG_SHIFT = 887, 5  # 256 ln 32
_WHOLE = 1 << 24  # of a distribution
_HALF = 1 << (FRACTION - 1)
_BRIGHTEST = 255 << FRACTION
_LOW_BITS = 18
_MOST_SEEN = 255  # bits that a counter rests on; so it forgets
_RATES = 1024


@compiled(
    boolean, uint8[:, ::1], int16[:, ::1], int32[::1], int64[::1], int64[:, ::1], types.UniTuple(int64[::1], 7),
    types.Tuple((uint32[::1], int32[::1], int32[::1])),
    types.Tuple((int64[:, :, ::1], int64[:, ::1], int64[:, ::1], int64[:, :, :, ::1], int64[:, :, ::1])),
    types.Tuple((int64[:, ::1], int64[:, ::1], int64[:, :, ::1], int64[:, ::1])),
    int64, int64, uint32[::1], read_only(uint16), uint64[::1],
)  # fmt: skip
def code_rows(  # type: ignore[no-untyped-def]
    decoding, samples, residuals, stack, layout, taps, tables, mixing, filters, history, first, last,
    intervals, words, state,
):  # fmt: skip
    """Code rows first .. last - 1 of a plane; gives the number of intervals.

    samples: (H, W), read, or filled when decoding. residuals: filled with what the samples differ by from the centre.
    stack, layout, taps: `codec.sample_planes.Stack`. tables, mixing, filters, history: `codec.sample_planes`; all but
    the tables change. intervals: room for MOST_BITS a sample when encoding. words, state: the decoder's.
    """
    width = samples.shape[1]
    inter, anchor_at, kind = layout[0] != 0, layout[1], layout[2]
    guess_at, second_at, third_at, side_at, other_side_at = layout[3], layout[4], layout[5], layout[6], layout[7]
    squash, stretch, tails, logs, shares, trusts, rates = tables
    counters, weights, steps = mixing
    squares, products, lines, kept_squares, kept_products = filters
    line = squares[0], products[0], lines[0]
    around = squares[1], products[1], lines[1]
    line_weights, around_weights = lines[0], lines[1]
    scales, biases, errors, rests = history
    count = len(taps)
    tap = np.zeros(count, np.int64)
    guides, scale_places, inverses = np.zeros(GUIDES, np.int64), np.zeros(GUIDES, np.int64), np.zeros(GUIDES, np.int64)
    below, above, tail = np.zeros(GUIDES, np.int64), np.zeros(GUIDES, np.int64), np.zeros(GUIDES, np.int64)
    ones, zeros = np.zeros(GUIDES, np.int64), np.zeros(GUIDES, np.int64)  # shares of what a bit says, and of the other
    votes, places, sets = np.zeros(VOTES, np.int64), np.zeros(COUNTERS, np.int64), np.zeros(SETS, np.int64)
    x, word = state[0], np.int64(state[1])
    stride = width + 2 * PAD
    used = np.int64(0)
    for row in range(first, last):
        begin = (row + TOP) * stride + PAD
        now, up, second_up = row % 3, (row + 2) % 3, (row + 1) % 3
        edge = stack[begin - stride]
        if inter:
            edge += stack[guess_at + begin] - stack[guess_at + begin - stride]
        for i in range(PAD):
            stack[begin - 1 - i] = edge
            rests[now, i] = rests[up, PAD]
            for k in range(GUIDES):
                errors[k, now, i] = errors[k, up, PAD]
        for column in range(width):
            at, e = begin + column, column + PAD
            if column % BLOCK == 0:
                enter_block(column // BLOCK, squares[1], products[1], kept_squares, kept_products)

            # What is known around the sample, and what it may be.
            west, north = np.int64(stack[at - 1]), np.int64(stack[at - stride])
            corner, east = np.int64(stack[at - stride - 1]), np.int64(stack[at - stride + 1])
            west2, north2 = np.int64(stack[at - 2]), np.int64(stack[at - 2 * stride])
            if inter:
                here = guess_at + at
                guess = np.int64(stack[here])
                off_west, off_north = west - stack[here - 1], north - stack[here - stride]
                off_corner, off_east = corner - stack[here - stride - 1], east - stack[here - stride + 1]
                still = off_west == 0 and off_north == 0 and off_corner == 0 and off_east == 0
                quiet = np.int64(0)
                if still:
                    quiet += 1 + (west2 == stack[here - 2] and north2 == stack[here - 2 * stride])
                guides[2] = (guess + median(off_west, off_north, off_corner)) << FRACTION
                guides[3] = guess << FRACTION
                guides[4] = np.int64(stack[second_at + at] + stack[third_at + at]) << (FRACTION - 1)
            else:
                guess, still, quiet = north, False, np.int64(0)
                off_west, off_north = west - corner, north - north2
                guides[2] = median(west, north, corner) << FRACTION
                guides[3] = (2 * (west + north) + east - corner) << (FRACTION - 2)
                guides[4] = (west + ((east - corner) >> 1)) << FRACTION
            straight, rounded = np.int64(0), np.int64(0)
            for i in range(count):
                tap[i] = stack[at + taps[i, 0]] - stack[at + taps[i, 1]]
                straight += tap[i] * line_weights[i]
                rounded += tap[i] * around_weights[i]
            anchor = np.int64(stack[at + anchor_at])
            guides[0] = (anchor << FRACTION) + (straight >> (WEIGHT_BITS - FRACTION))
            guides[1] = (anchor << FRACTION) + (rounded >> (WEIGHT_BITS - FRACTION))

            # The predictions by how well they did nearby, less the bias that they had in such places.
            total, weight, local = np.int64(0), np.int64(0), np.int64(0)
            for k in range(GUIDES):
                local = 2 * (errors[k, now, e - 1] + errors[k, up, e]) + errors[k, up, e - 1] + errors[k, up, e + 1]
                local += errors[k, now, e - 2] + errors[k, second_up, e]
                scale_places[k] = level_of(local >> 3)
                if k < GUIDES - 1:
                    guides[k] = in_range(guides[k], 0, _BRIGHTEST)
                    share = (np.int64(1) << 40) // (local * local + 64) >> (0 if k < 2 else 2)
                    total += guides[k] * share
                    weight += share
            mixed = total // weight  # 2^40 is more than four times any (local² + 64): no weight is zero
            level = scale_places[GUIDES - 1]
            r_west, r_north, r_corner = rests[now, e - 1], rests[up, e], rests[up, e - 1]
            r_east, r_west2, r_north2 = rests[up, e + 1], rests[now, e - 2], rests[second_up, e]
            one_bias = signed_class(r_west, 1, 3, 8) * 49 + signed_class(r_north, 1, 3, 8) * 7
            one_bias += signed_class(guides[2] - mixed, 32, 128, 512)
            other_bias = signed_class(off_west, 1, 3, 9) * 49 + signed_class(off_north, 1, 3, 9) * 7
            other_bias += signed_class(guides[0] - mixed, 16, 64, 256)
            mixed = in_range(mixed + ((biases[0, one_bias] + biases[1, other_bias]) >> 11), 0, _BRIGHTEST)
            if still:
                mixed = guess << FRACTION
            center = (mixed + _HALF) >> FRACTION
            guides[GUIDES - 1] = mixed

            # The contexts.
            texture = level_of((abs(west - corner) + abs(north - corner) + abs(north - east)) << 4)
            for k in range(GUIDES):
                scale_places[k] = scale_places[k] * LEVELS + level if k else level * LEVELS + texture
                # A logistic distribution of scale 1 has a mean error of 89/64.
                mean_error = max(int(scales[k, scale_places[k]] >> 10), 2)
                inverses[k] = (np.int64(512 << 16) * 89) // (mean_error * 64)
            side, other_side = np.int64(stack[side_at + at]), np.int64(stack[other_side_at + at])
            lean = signed_class(guides[0] - mixed, 8, 24, 72)
            places[0] = level * 9 + ((mixed - (center << FRACTION) + _HALF) >> 3)
            places[1] = (
                signed_class(r_west, 1, 2, 5) * 49 + signed_class(r_north, 1, 2, 5) * 7 + signed_class(r_east, 1, 2, 5)
            )
            places[2] = min(texture, 15) * 12 + (level >> 1)
            places[3] = (
                signed_class(guides[2] - mixed, 32, 96, 320) * 56
                + signed_class(guides[3] - mixed, 32, 96, 320) * 8
                + lean
            )
            places[4] = signed_class(off_west, 1, 2, 5) * 49 + signed_class(off_north, 1, 2, 5) * 7
            places[4] += signed_class((mixed >> FRACTION) - guess, 1, 2, 5)
            if kind == 0:
                places[5] = min(abs(r_west2), 7) * 64 + min(abs(r_north2), 7) * 8 + min(abs(r_corner), 7)
            else:
                places[5] = (
                    signed_class(side, 1, 2, 5) * 56 + signed_class(other_side, 1, 2, 5) * 8 + min(level // 3, 7)
                )
            nearby = (abs(r_corner) + abs(r_east) + abs(r_west2) + abs(r_north2)) >> 1
            places[6] = min(abs(r_west) + abs(r_north), 15) * 16 + min(nearby, 15)
            places[7] = center * 2 + (quiet > 0)
            for k in range(COUNTERS):
                places[k] = (k * PLACES + places[k]) * NUMBERS
            sets[0] = (level >> 1) * 3 + quiet
            sets[1] = min(texture >> 1, 7) * 4 + min(abs(guides[0] - guides[1]) >> 4, 3)
            sets[2] = in_range(abs(side) + abs(other_side), 0, 5) * 3 + min((abs(r_west) + abs(r_north) + 1) >> 1, 2)
            for k in range(SETS):
                sets[k] = (k * CHOICES + sets[k]) * NUMBERS

            # The bits: other than the centre? below it? beyond this bucket, and the next? where in the bucket?
            residual = np.int64(samples[row, column]) - center  # when decoding: of no meaning
            magnitude, wanted = abs(residual), residual != 0
            for k in range(GUIDES):
                middle = (center << FRACTION) - guides[k]
                below[k] = tails[tail_place(_HALF - middle, inverses[k])]
                above[k] = tails[tail_place(_HALF + middle, inverses[k])]
                ones[k] = below[k] + above[k]
                zeros[k] = _WHOLE - ones[k]
            number: Any = np.int64(0)
            sign, room, start = np.int64(1), np.int64(0), np.int64(0)
            bits, half_way = np.int64(0), np.int64(0)
            while True:
                for k in range(GUIDES):
                    share, rest = max(ones[k], 1), max(zeros[k], 1)
                    coarse = np.int64(0) if share < 1 << LOG_BITS else np.int64(1) if share < 1 << 19 else np.int64(2)
                    finer = np.int64(0) if rest < 1 << LOG_BITS else np.int64(1) if rest < 1 << 19 else np.int64(2)
                    votes[k] = logs[share >> (coarse * _LOG_SHIFT)] - logs[rest >> (finer * _LOG_SHIFT)]
                    votes[k] += (coarse - finer) * _LOG_STEP
                for k in range(COUNTERS):
                    counter = np.int64(counters[places[k] + number])
                    votes[GUIDES + k] = (stretch[counter >> 20] * trusts[counter & 1023]) >> 8
                votes[VOTES - 1] = 256
                pick0, pick1, pick2 = sets[0] + number, sets[1] + number, sets[2] + number
                at0, at1, at2 = pick0 * VOTES, pick1 * VOTES, pick2 * VOTES
                odds0, odds1, odds2 = np.int64(0), np.int64(0), np.int64(0)
                for k in range(VOTES):
                    odds0 += np.int64(weights[at0 + k]) * votes[k]
                    odds1 += np.int64(weights[at1 + k]) * votes[k]
                    odds2 += np.int64(weights[at2 + k]) * votes[k]
                odds0 = in_range(odds0 >> 16, -SQUASH_LIMIT, SQUASH_LIMIT)
                odds1 = in_range(odds1 >> 16, -SQUASH_LIMIT, SQUASH_LIMIT)
                odds2 = in_range(odds2 >> 16, -SQUASH_LIMIT, SQUASH_LIMIT)
                chance = squash[(odds0 + odds1 + odds2) // 3 + SQUASH_LIMIT]
                rest = 65536 - chance
                if decoding:
                    slot = np.int64(x & np.uint64(0xFFFF))
                    one = slot >= rest
                    x = np.uint64(chance if one else rest) * (x >> np.uint64(16)) + np.uint64(
                        slot - rest if one else slot
                    )
                    if x < np.uint64(1 << 32) and word < len(words):
                        x = x << np.uint64(16) | np.uint64(words[word])
                        word += 1
                else:
                    one = wanted
                    intervals[used] = np.uint32(chance << 16 | rest if one else rest << 16)
                    used += 1

                target = np.int64(65536 if one else 0)
                wrong0 = (target - squash[odds0 + SQUASH_LIMIT]) * rates[steps[pick0]]
                wrong1 = (target - squash[odds1 + SQUASH_LIMIT]) * rates[steps[pick1]]
                wrong2 = (target - squash[odds2 + SQUASH_LIMIT]) * rates[steps[pick2]]
                steps[pick0] = min(steps[pick0] + 1, _RATES - 1)
                steps[pick1] = min(steps[pick1] + 1, _RATES - 1)
                steps[pick2] = min(steps[pick2] + 1, _RATES - 1)
                for k in range(VOTES):
                    weights[at0 + k] += (votes[k] * wrong0 + (1 << 23)) >> 24
                    weights[at1 + k] += (votes[k] * wrong1 + (1 << 23)) >> 24
                    weights[at2 + k] += (votes[k] * wrong2 + (1 << 23)) >> 24
                target = np.int64((1 << 22) - 1 if one else 0)
                for k in range(COUNTERS):
                    counter = np.int64(counters[places[k] + number])
                    seen, chance = counter & 1023, counter >> 10
                    chance += ((target - chance) * shares[seen]) >> 16
                    counters[places[k] + number] = chance << 10 | min(seen + 1, _MOST_SEEN)

                if number == 0:
                    if not one:
                        residual = np.int64(0)
                        break
                    if 0 < center < 255:
                        for k in range(GUIDES):
                            ones[k], zeros[k] = below[k], above[k]
                        wanted, number = residual < 0, np.int64(1)
                        continue
                    one = center == 255
                if number < 2:
                    sign, room = (np.int64(-1), center) if one else (np.int64(1), 255 - center)
                    for k in range(GUIDES):
                        tail[k] = below[k] if one else above[k]
                    number, one = np.int64(1), True
                if number < _LOW_BITS:
                    if one:
                        start += 1 << bits
                        number += 1
                        bits = np.int64(max((number >> 1) - 2, 0))
                        beyond = start + (1 << bits)
                        for k in range(GUIDES):
                            above[k] = tail[k]
                            tail[k] = 0
                        if beyond <= room:
                            for k in range(GUIDES):
                                distance = (beyond << FRACTION) - _HALF + sign * ((center << FRACTION) - guides[k])
                                tail[k] = tails[tail_place(distance, inverses[k])]
                                ones[k], zeros[k] = tail[k], above[k] - tail[k]
                            wanted = magnitude >= beyond
                            continue
                elif one:
                    start = half_way
                    for k in range(GUIDES):
                        above[k] = below[k]
                else:
                    for k in range(GUIDES):
                        tail[k] = below[k]
                while bits > 0 and start + (1 << (bits - 1)) > room:
                    bits -= 1
                if bits == 0:
                    residual = sign * start
                    break
                bits -= 1
                number, half_way = _LOW_BITS + bits, start + (1 << bits)
                for k in range(GUIDES):
                    distance = (half_way << FRACTION) - _HALF + sign * ((center << FRACTION) - guides[k])
                    below[k] = tails[tail_place(distance, inverses[k])]
                    ones[k], zeros[k] = below[k] - tail[k], above[k] - below[k]
                wanted = magnitude >= half_way

            # What is learned from the sample.
            value = center + residual
            if decoding:
                samples[row, column] = value
            stack[at] = value
            residuals[row, column] = residual
            rests[now, e] = residual
            for k in range(GUIDES):
                error = abs((value << FRACTION) - guides[k])
                errors[k, now, e] = error
                scales[k, scale_places[k]] += ((error << 10) - scales[k, scale_places[k]]) >> 6
            if not still:
                wrong = ((value << FRACTION) - mixed) << 10
                biases[0, one_bias] += (wrong - biases[0, one_bias]) >> 7
                biases[1, other_bias] += (wrong - biases[1, other_bias]) >> 7
            importance = np.int64(1 << 15) // ((local >> 2) * (local >> 2) // 256 + local + 64)
            learn_sample(tap, value - anchor, importance, line, around)
            if not still or residual != 0:
                improve(line)
                improve(around)
            if (column + 1) % BLOCK == 0 or column + 1 == width:
                leave_block(column // BLOCK, squares[1], products[1], kept_squares, kept_products)
        for i in range(PAD):
            stack[begin + width + i] = stack[begin + width - 1]
            rests[now, PAD + width + i] = rests[now, PAD + width - 1]
            for k in range(GUIDES):
                errors[k, now, PAD + width + i] = errors[k, now, PAD + width - 1]
    state[0], state[1] = x, np.uint64(word)
    return used
