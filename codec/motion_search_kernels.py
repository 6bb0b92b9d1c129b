"""The motion search's walk over a frame, compiled by numba at first use. The search is described in `motion_search`."""

from __future__ import annotations

import numpy as np
from numba import float32, int64, njit, uint8

from codec import motion_price_kernels
from codec.motion_price_kernels import coding_cost, differences, near_vectors, off_median, quarter_planes, vector_bits
from codec.rans import compiled, read_only

assert motion_price_kernels.VERSION == 1  # kernels cached on disk would not see a change there: count both up

_ROUNDS = 6  # of whole steps towards a better place
_COARSE = 4  # the first search is on pictures this much smaller


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
    for row in range(vectors.shape[1]):
        for column in range(vectors.shape[2]):
            best = np.float32(1e30)
            # A window wider than the block itself steadies the choice; the tie goes to the shorter vector.
            y0, y1 = max(row * side - 1, 0), min(row * side + side + 1, height)
            x0, x1 = max(column * side - 1, 0), min(column * side + side + 1, width)
            for dy in range(-r, r + 1):
                for dx in range(-r, r + 1):
                    cost = np.float32(4 * (abs(dy) + abs(dx)))
                    for y in range(y0, y1):
                        ry = min(max(y + dy, 0), height - 1)
                        for x in range(x0, x1):
                            rx = min(max(x + dx, 0), width - 1)
                            cost += abs(small[0, y, x] - small[1, ry, rx])
                        if cost >= best:
                            break
                    if cost < best:
                        best = cost
                        vectors[0, row, column] = dy * 4 * _COARSE
                        vectors[1, row, column] = dx * 4 * _COARSE


@njit
def _best_of(current, planes, candidates, count, y, x, size, near, place, around, weight, chances):  # type: ignore[no-untyped-def]
    """The candidate of least SAD and vector bits, then whole steps from it."""
    best, down, across = np.float32(1e30), np.int64(0), np.int64(0)
    for i in range(count):
        dy, dx = candidates[i, 0], candidates[i, 1]
        cost = weight * vector_bits(near, place, around, dy, dx, chances)
        if cost < best:
            cost += differences(current, planes, y, x, dy, dx, size)
            if cost < best:
                best, down, across = cost, dy, dx
    step = 8
    for _ in range(_ROUNDS):
        centre_y, centre_x = down, across
        for turn in range(4):
            dy = centre_y + (step if turn == 0 else -step if turn == 1 else 0)
            dx = centre_x + (step if turn == 2 else -step if turn == 3 else 0)
            cost = weight * vector_bits(near, place, around, dy, dx, chances)
            cost += differences(current, planes, y, x, dy, dx, size)
            if cost < best:
                best, down, across = cost, dy, dx
        if down == centre_y and across == centre_x:
            if step == 4:
                break
            step = 4
    return down, across


@njit
def _finer(current, planes, down, across, y, x, size, near, place, around, scale, prices, chances, scratch):  # type: ignore[no-untyped-def]
    """Half and quarter samples around a vector by coding cost; gives the vector and its cost in bits."""
    best = coding_cost(current, planes, y, x, down, across, size, scale, prices, scratch)
    best += vector_bits(near, place, around, down, across, chances)
    for step in (2, 1):
        centre_y, centre_x = down, across
        for dy in (-step, 0, step):
            for dx in (-step, 0, step):
                if dy or dx:
                    cost = vector_bits(near, place, around, centre_y + dy, centre_x + dx, chances)
                    if cost < best:
                        cost += coding_cost(
                            current, planes, y, x, centre_y + dy, centre_x + dx, size, scale, prices, scratch
                        )
                        if cost < best:
                            best, down, across = cost, centre_y + dy, centre_x + dx
    return down, across, best


@njit
def _cheapest(  # type: ignore[no-untyped-def]
    current,
    planes,
    candidates,
    count,
    y,
    x,
    size,
    near,
    place,
    around,
    scale,
    prices,
    chances,
    scratch,
    down,
    across,
    best,
):
    """The candidates once more, by coding cost: a vector as predicted may win over a closer one."""
    for i in range(count):
        dy, dx = candidates[i, 0], candidates[i, 1]
        cost = vector_bits(near, place, around, dy, dx, chances)
        if cost < best:
            cost += coding_cost(current, planes, y, x, dy, dx, size, scale, prices, scratch)
            if cost < best:
                best, down, across = cost, dy, dx
    return down, across, best


@njit
def _gather(candidates, near, previous, y, x):  # type: ignore[no-untyped-def]
    """Median, neighbours, zero, and the frame before here and to the right and below."""
    ly, lx, uy, ux, cy, cx = near
    candidates[0, 0] = ly + uy + cy - min(ly, uy, cy) - max(ly, uy, cy)
    candidates[0, 1] = lx + ux + cx - min(lx, ux, cx) - max(lx, ux, cx)
    candidates[1, 0], candidates[1, 1] = ly, lx
    candidates[2, 0], candidates[2, 1] = uy, ux
    candidates[3, 0], candidates[3, 1] = cy, cx
    candidates[4, 0], candidates[4, 1] = 0, 0
    last_y, last_x = previous.shape[1] - 1, previous.shape[2] - 1
    candidates[5, 0], candidates[5, 1] = previous[0, y, x], previous[1, y, x]
    candidates[6, 0], candidates[6, 1] = previous[0, y, min(x + 2, last_x)], previous[1, y, min(x + 2, last_x)]
    candidates[7, 0], candidates[7, 1] = previous[0, min(y + 2, last_y), x], previous[1, min(y + 2, last_y), x]
    return 8


@compiled(
    uint8[:, ::1], uint8[:, ::1], int64[:, :, ::1], float32, float32, int64, float32[:, ::1], read_only(float32),
    int64[:, :, ::1], uint8[:, ::1],
)  # fmt: skip
def search_frame(current, reference, previous, weight, scale, reach, chances, prices, vectors, split):  # type: ignore[no-untyped-def]
    """Fill vectors (2, H/8, W/8) and split (H/16, W/16) for one frame; see `motion_search.search_motion`.

    previous: vectors of the frame before, or zeros. weight: SAD that a bit is worth. scale: turns a Hadamard
    coefficient's magnitude into an index of prices, bits each. chances: (2, contexts) bits of a zero and of a one.
    """
    rows, columns = split.shape
    planes = quarter_planes(reference)
    scratch = np.empty((8, 8), np.int32)
    coarse = np.zeros((2, rows, columns), np.int64)
    _coarse(current, reference, reach, coarse)
    moved = np.zeros((2 * rows, 2 * columns), np.int64)
    candidates = np.zeros((9, 2), np.int64)
    for row in range(rows):
        for column in range(columns):
            y, x = 2 * row, 2 * column
            divided = np.int64(split[row - 1, column] if row else 0) + np.int64(split[row, column - 1] if column else 0)
            near = near_vectors(vectors, y, x, 0)
            around = (moved[y, x - 1] if x else 0) + (moved[y - 1, x] if y else 0)
            count = _gather(candidates, near, previous, y, x)
            known = count
            candidates[count, 0], candidates[count, 1] = coarse[0, row, column], coarse[1, row, column]
            count += 1
            down, across = _best_of(
                current, planes, candidates, count, 8 * y, 8 * x, 16, near, 0, around, weight, chances
            )
            down, across, whole = _finer(
                current, planes, down, across, 8 * y, 8 * x, 16, near, 0, around, scale, prices, chances, scratch
            )
            down, across, whole = _cheapest(
                current, planes, candidates, known, 8 * y, 8 * x, 16, near, 0, around, scale, prices, chances, scratch,
                down, across, whole,
            )  # fmt: skip
            whole += chances[0, divided]
            # The four quarters, each knowing the ones before.
            total = chances[1, divided]
            for quarter in range(4):
                if total >= whole:
                    break
                qy, qx = y + (quarter >> 1), x + (quarter & 1)
                near_q = near_vectors(vectors, qy, qx, quarter + 1)
                around_q = (moved[qy, qx - 1] if qx else 0) + (moved[qy - 1, qx] if qy else 0)
                count = _gather(candidates, near_q, previous, qy, qx)
                candidates[count, 0], candidates[count, 1] = down, across
                count += 1
                vy, vx = _best_of(
                    current,
                    planes,
                    candidates,
                    count,
                    8 * qy,
                    8 * qx,
                    8,
                    near_q,
                    quarter + 1,
                    around_q,
                    weight,
                    chances,
                )
                vy, vx, cost = _finer(
                    current, planes, vy, vx, 8 * qy, 8 * qx, 8, near_q, quarter + 1, around_q, scale, prices, chances,
                    scratch,
                )  # fmt: skip
                vy, vx, cost = _cheapest(
                    current, planes, candidates, count, 8 * qy, 8 * qx, 8, near_q, quarter + 1, around_q, scale, prices,
                    chances, scratch, vy, vx, cost,
                )  # fmt: skip
                total += cost
                vectors[0, qy, qx], vectors[1, qy, qx] = vy, vx
                moved[qy, qx] = off_median(near_q, vy, vx)
            if total < whole:
                split[row, column] = 1  # the quarters' vectors are in their places
            else:
                split[row, column] = 0
                vectors[0, y : y + 2, x : x + 2] = down
                vectors[1, y : y + 2, x : x + 2] = across
                moved[y : y + 2, x : x + 2] = off_median(near, down, across)
