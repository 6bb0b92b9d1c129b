"""The motion search's walk over a frame, compiled by numba at first use. The search is described in `motion_search`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from codec.motion_context_kernels import REFERENCE, SECOND, SECOND_REFERENCE
from codec.motion_kernels import around_of, near_vectors, scaled
from codec.motion_price_kernels import (
    coding_cost,
    differences,
    off_median,
    pair_cost,
    reference_bits,
    second_bits,
    vector_bits,
)
from codec.rans import compiled, inner

_ROUNDS = 6  # of whole steps towards a better place
_PAIR_TURNS = 4
_COARSE = 4  # the first search is on pictures this much smaller
# Times the least SAD, up to which a reference's vector is made finer, and times the least bits, up to which a pair is.
_WORTH_A_LOOK = np.float32(2.2)
_NOTHING_LEFT = np.float32(0.5)  # bits an 8x8 block: what is this well predicted needs no other reference
CANDIDATES = 9


class Search(NamedTuple):
    """What every block's search looks at."""

    current: Any  # uint8 (H, W)
    planes: Any  # uint8 (slots, 16, H + 48, W + 48): see `quarter_planes`
    slots: Any  # int64 (R,): each reference's place in `planes`
    distances: Any  # int64 (R,): frames
    previous: Any  # int64 (2, H/8, W/8): vectors over one frame of the frame before, or zeros
    chances: Any  # float32 (2, contexts): bits of a zero and of a one
    weight: Any  # float32: SAD that a bit is worth
    scale: Any  # float32: see `block_price`
    candidates: Any  # int64 (CANDIDATES, 2)


class Unit(NamedTuple):
    """A block: place in 8x8 blocks, samples a side, 0 or its quarter 1..4, whose vectors around are off the median."""

    y: Any
    x: Any
    size: Any
    place: Any
    around: Any


class Found(NamedTuple):
    """What a block's search found, by reference."""

    tried: Any  # bool (R,)
    vectors: Any  # int64 (R, 2): candidates before, the best after
    cost: Any  # float32 (R,): SAD, then bits


@inner
def _add_differences(sample, row, costs):  # type: ignore[no-untyped-def]
    for i in range(len(costs)):
        costs[i] += abs(sample - row[i])


@njit
def _coarse(current, reference, reach, vectors):  # type: ignore[no-untyped-def]
    """Whole search at a quarter of the size over ±reach samples, a vector for each 16x16 block."""
    height, width = current.shape[0] // _COARSE, current.shape[1] // _COARSE
    small = np.zeros((2, height, width), np.float32)
    for which in range(2):
        plane = current if which == 0 else reference
        for y in range(height * _COARSE):
            for x in range(width * _COARSE):
                small[which, y // _COARSE, x // _COARSE] += np.float32(plane[y, x])
    side = 16 // _COARSE
    r = reach // _COARSE
    # Borders repeated, and as many columns more as the loop over all shifts of a row takes.
    shifts = (2 * r + 1 + 31) // 32 * 32
    grown = np.empty((height + 2 * r, width + shifts), np.float32)
    for y in range(height + 2 * r):
        for x in range(width + shifts):
            grown[y, x] = small[1, min(max(y - r, 0), height - 1), min(max(x - r, 0), width - 1)]
    costs = np.empty(shifts, np.float32)
    for row in range(vectors.shape[1]):
        for column in range(vectors.shape[2]):
            best = np.float32(1e30)
            # A window wider than the block itself steadies the choice; the tie goes to the shorter vector.
            y0, y1 = max(row * side - 1, 0), min(row * side + side + 1, height)
            x0, x1 = max(column * side - 1, 0), min(column * side + side + 1, width)
            for dy in range(-r, r + 1):
                costs[:] = 0
                for y in range(y0, y1):
                    for x in range(x0, x1):
                        _add_differences(small[0, y, x], grown[y + dy + r, x:], costs)
                for dx in range(-r, r + 1):
                    cost = costs[dx + r] + np.float32(4 * (abs(dy) + abs(dx)))  # whole numbers: in any order the same
                    if cost < best:
                        best = cost
                        vectors[0, row, column] = dy * 4 * _COARSE
                        vectors[1, row, column] = dx * 4 * _COARSE


@inner
def _gather(search, near, unit, reference):  # type: ignore[no-untyped-def]
    """Median, neighbours, zero, and the frame before here and to the right and below."""
    candidates, previous = search.candidates, search.previous
    ly, lx, uy, ux, cy, cx = near
    candidates[0, 0] = ly + uy + cy - min(ly, uy, cy) - max(ly, uy, cy)
    candidates[0, 1] = lx + ux + cx - min(lx, ux, cx) - max(lx, ux, cx)
    candidates[1, 0], candidates[1, 1] = ly, lx
    candidates[2, 0], candidates[2, 1] = uy, ux
    candidates[3, 0], candidates[3, 1] = cy, cx
    candidates[4, 0], candidates[4, 1] = 0, 0
    last_y, last_x = previous.shape[1] - 1, previous.shape[2] - 1
    distance = search.distances[reference]
    for i in range(3):
        y, x = min(unit.y + (2 if i == 2 else 0), last_y), min(unit.x + (2 if i == 1 else 0), last_x)
        candidates[5 + i, 0] = scaled(previous[0, y, x], distance, 1)
        candidates[5 + i, 1] = scaled(previous[1, y, x], distance, 1)
    return 8


@inner
def _best_of(search, planes, unit, near, count):  # type: ignore[no-untyped-def]
    """The candidate of least SAD and vector bits, then whole steps from it."""
    best, down, across = np.float32(1e30), np.int64(0), np.int64(0)
    y, x = 8 * unit.y, 8 * unit.x
    for i in range(count):
        dy, dx = search.candidates[i, 0], search.candidates[i, 1]
        cost = search.weight * vector_bits(near, unit.place, unit.around, dy, dx, search.chances)
        if cost < best:
            cost += differences(search.current, planes, y, x, dy, dx, unit.size, best - cost)
            if cost < best:
                best, down, across = cost, dy, dx
    step = 8
    for _ in range(_ROUNDS):
        centre_y, centre_x = down, across
        for turn in range(4):
            dy = centre_y + (step if turn == 0 else -step if turn == 1 else 0)
            dx = centre_x + (step if turn == 2 else -step if turn == 3 else 0)
            cost = search.weight * vector_bits(near, unit.place, unit.around, dy, dx, search.chances)
            if cost < best:
                cost += differences(search.current, planes, y, x, dy, dx, unit.size, best - cost)
                if cost < best:
                    best, down, across = cost, dy, dx
        if down == centre_y and across == centre_x:
            if step == 4:
                break
            step = 4
    return down, across, best


@inner
def _cost(search, planes, unit, near, down, across, best):  # type: ignore[no-untyped-def]
    """Bits of vector and residual, where the vector's alone are not `best` already."""
    cost = vector_bits(near, unit.place, unit.around, down, across, search.chances)
    if cost >= best:
        return cost
    return cost + coding_cost(
        search.current, planes, 8 * unit.y, 8 * unit.x, down, across, unit.size, search.scale, best - cost
    )  # fmt: skip


@inner
def _finer(search, planes, unit, near, down, across, count):  # type: ignore[no-untyped-def]
    """Half and quarter samples around a vector by coding cost, and the candidates once more, for a vector as predicted
    may win over a closer one; gives the vector and its cost in bits."""
    best = _cost(search, planes, unit, near, down, across, np.float32(1e30))
    for step in (2, 1, 1):
        centre_y, centre_x = down, across
        for dy in (-step, 0, step):
            for dx in (-step, 0, step):
                if dy or dx:
                    cost = _cost(search, planes, unit, near, centre_y + dy, centre_x + dx, best)
                    if cost < best:
                        best, down, across = cost, centre_y + dy, centre_x + dx
    for i in range(count):
        dy, dx = search.candidates[i, 0], search.candidates[i, 1]
        cost = _cost(search, planes, unit, near, dy, dx, best)
        if cost < best:
            best, down, across = cost, dy, dx
    return down, across, best


@inner
def _choose(search, unit, blocks, found, choice):  # type: ignore[no-untyped-def]
    """Fill choice (6,) with the cheapest way to predict the block, as `codec.motion.Motion` has it; gives its bits."""
    references = len(search.distances)
    several = references > 1
    chances = search.chances
    whole = 0 if unit.place else 1
    context = REFERENCE + 9 * whole + around_of(blocks, unit.y, unit.x, 2, 1)
    context_2 = SECOND + 3 * whole + around_of(blocks, unit.y, unit.x, 5, 0)
    alone = chances[0, context_2] if several else np.float32(0)
    best, least = np.float32(1e30), np.float32(1e30)
    for r in range(references):
        if not found.tried[r]:
            continue
        if r and best < _NOTHING_LEFT * (unit.size * unit.size // 64):
            found.tried[r] = False
            continue
        planes = search.planes[search.slots[r]]
        near = near_vectors(blocks, search.distances, unit.y, unit.x, unit.place, r)
        count = _gather(search, near, unit, r)
        search.candidates[count, 0], search.candidates[count, 1] = found.vectors[r, 0], found.vectors[r, 1]
        if r and unit.place == 0:
            search.candidates[count, 0] = scaled(found.vectors[0, 0], search.distances[r], search.distances[0])
            search.candidates[count, 1] = scaled(found.vectors[0, 1], search.distances[r], search.distances[0])
        down, across, sad = _best_of(search, planes, unit, near, count + 1)
        bits = reference_bits(r, references, context, 3, chances) if several else np.float32(0)
        sad += search.weight * bits
        least = min(least, sad)
        if sad > least * _WORTH_A_LOOK:
            found.tried[r] = False
            continue
        down, across, cost = _finer(search, planes, unit, near, down, across, count + (1 if unit.place else 0))
        found.vectors[r, 0], found.vectors[r, 1], found.cost[r] = down, across, cost + bits
        if r == 0:  # how well it is predicted
            rest = cost - vector_bits(near, unit.place, unit.around, down, across, chances)
            if rest < _NOTHING_LEFT * (unit.size * unit.size // 64):
                best = rest
    best = np.float32(1e30)
    choice[3], choice[4], choice[5] = 0, 0, -1
    for r in range(references):
        if found.tried[r] and found.cost[r] + alone < best:
            best = found.cost[r] + alone
            choice[0], choice[1], choice[2] = found.vectors[r, 0], found.vectors[r, 1], r
    if several:
        return _with_second(search, unit, blocks, found, choice, best, context, context_2)
    return best


@inner
def _with_second(search, unit, blocks, found, choice, best, context, context_2):  # type: ignore[no-untyped-def]
    """Try a second hypothesis beside the choice; gives the bits of what is better."""
    references, chances = len(search.distances), search.chances
    r = choice[2]
    first, planes = (choice[0], choice[1]), search.planes[search.slots[r]]
    near = near_vectors(blocks, search.distances, unit.y, unit.x, unit.place, r)
    fixed = vector_bits(near, unit.place, unit.around, first[0], first[1], chances) + chances[1, context_2]
    fixed += reference_bits(r, references, context, 3, chances)
    y, x = 8 * unit.y, 8 * unit.x
    for other in range(references):
        if other == r or not found.tried[other] or fixed >= best:
            continue
        planes_2 = search.planes[search.slots[other]]
        base = fixed + reference_bits(other, references, SECOND_REFERENCE + 3 * min(r, 3), 1, chances)
        second = found.vectors[other, 0], found.vectors[other, 1]
        own, centre = np.float32(1e30), second
        straight = (
            scaled(first[0], search.distances[other], search.distances[r]),
            scaled(first[1], search.distances[other], search.distances[r]),
        )
        for turn in range(10):
            tried = second
            if turn == 1:
                tried = straight
                if straight == second:
                    continue
            elif turn > 1:
                if turn == 2:
                    if own > best * _WORTH_A_LOOK:
                        break
                    centre = second
                step = turn - 2 if turn < 6 else turn - 1  # of 0..8 without the middle, by its place in 3x3
                tried = centre[0] + step // 3 - 1, centre[1] + step % 3 - 1
            bits = base + second_bits(first, tried, search.distances, (r, other), chances)
            if bits >= min(own, best * _WORTH_A_LOOK):
                continue
            cost = bits + pair_cost(
                search.current, planes, planes_2, y, x, first, tried, unit.size, search.scale,
                own - bits,
            )  # fmt: skip
            if cost < own:
                own, second = cost, tried
        if own < best:
            best = own
            choice[3], choice[4], choice[5] = second[0], second[1], other
    if choice[5] < 0:
        return best
    fixed = chances[1, context_2] + reference_bits(r, references, context, 3, chances)
    fixed += reference_bits(choice[5], references, SECOND_REFERENCE + 3 * min(r, 3), 1, chances)
    return _pair_finer(search, unit, near, choice, best, fixed)


@inner
def _pair_finer(search, unit, near, choice, best, fixed):  # type: ignore[no-untyped-def]
    """Move the two vectors of a pair in turn, by quarter samples, while that makes it cheaper; gives its bits.

    fixed: bits of all but the vectors.
    """
    chances, references = search.chances, (choice[2], choice[5])
    planes, planes_2 = search.planes[search.slots[choice[2]]], search.planes[search.slots[choice[5]]]
    for turn in range(_PAIR_TURNS):
        first, second = (choice[0], choice[1]), (choice[3], choice[4])
        before = best
        for step in range(9):
            if step == 4:  # the middle
                continue
            down, across = np.int64(step // 3 - 1), np.int64(step % 3 - 1)
            one, two = first, second
            if turn % 2:
                two = second[0] + down, second[1] + across
            else:
                one = first[0] + down, first[1] + across
            bits = fixed + vector_bits(near, unit.place, unit.around, one[0], one[1], chances)
            bits += second_bits(one, two, search.distances, references, chances)
            if bits >= best:
                continue
            cost = bits + pair_cost(
                search.current, planes, planes_2, 8 * unit.y, 8 * unit.x, one, two, unit.size, search.scale, best - bits
            )  # fmt: skip
            if cost < best:
                best = cost
                choice[0], choice[1], choice[3], choice[4] = one[0], one[1], two[0], two[1]
        if best == before and turn:
            break
    return best


@inner
def _keep(blocks, moved, search, unit, choice):  # type: ignore[no-untyped-def]
    size = unit.size // 8
    near = near_vectors(blocks, search.distances, unit.y, unit.x, unit.place, choice[2])
    off = off_median(near, choice[0], choice[1])
    for i in range(6):
        blocks[i, unit.y : unit.y + size, unit.x : unit.x + size] = choice[i]
    moved[unit.y : unit.y + size, unit.x : unit.x + size] = off


@inner
def _unit(moved, y, x, size, place):  # type: ignore[no-untyped-def]
    around = (moved[y, x - 1] if x else 0) + (moved[y - 1, x] if y else 0)
    return Unit(y, x, size, place, around)


@compiled()
def coarse_vectors(current, reference, reach):  # type: ignore[no-untyped-def]
    """First vectors, (2, H/16, W/16) int64, of each 16x16 block of uint8 (H, W): see `_coarse`."""
    vectors = np.zeros((2, current.shape[0] // 16, current.shape[1] // 16), np.int64)
    _coarse(current, reference, reach, vectors)
    return vectors


@compiled()
def search_blocks(search, coarse, blocks, split, moved, row, begin, end):  # type: ignore[no-untyped-def]
    """Fill blocks (6, H/8, W/8) and split (H/16, W/16) from column `begin` to `end` of a row of 16x16 blocks.

    The row above has to be done up to column `end`, the row itself up to `begin`. moved: int64 (H/8, W/8), which
    vectors are off the median; coarse: see `coarse_vectors`.
    """
    references = len(search.distances)
    found = Found(np.zeros(references, np.bool_), np.zeros((references, 2), np.int64), np.zeros(references, np.float32))
    finer = Found(np.zeros(references, np.bool_), np.zeros((references, 2), np.int64), np.zeros(references, np.float32))
    choice, small = np.zeros(6, np.int64), np.zeros(6, np.int64)
    chances = search.chances
    for column in range(begin, end):
        y, x = 2 * row, 2 * column
        divided = np.int64(split[row - 1, column] if row else 0) + np.int64(split[row, column - 1] if column else 0)
        found.tried[:] = True
        found.vectors[0, 0], found.vectors[0, 1] = coarse[0, row, column], coarse[1, row, column]
        unit = _unit(moved, y, x, 16, 0)
        whole = _choose(search, unit, blocks, found, choice) + chances[0, divided]
        # The four quarters, each knowing the ones before.
        total = chances[1, divided]
        for quarter in range(4):
            if total >= whole:
                break
            finer.tried[:] = False
            finer.tried[0] = finer.tried[choice[2]] = finer.tried[max(choice[5], 0)] = True
            finer.vectors[:] = found.vectors
            unit = _unit(moved, y + (quarter >> 1), x + (quarter & 1), 8, quarter + 1)
            total += _choose(search, unit, blocks, finer, small)
            _keep(blocks, moved, search, unit, small)
        if total < whole:
            split[row, column] = 1  # the quarters are in their places
        else:
            split[row, column] = 0
            _keep(blocks, moved, search, _unit(moved, y, x, 16, 0), choice)
