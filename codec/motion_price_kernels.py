"""What the motion search weighs: samples that differ, what coding them would cost, and the bits of a vector."""

from __future__ import annotations

import numpy as np
from numba import int64, uint8

from codec.block_kernels import block_differences, block_price, pair_price
from codec.motion_compensation import BLOCK, LUMA_TAPS
from codec.motion_context_kernels import APART, LOWER, MOVED, NEIGHBOUR, POWER, SIGN
from codec.motion_kernels import scaled
from codec.rans import compiled, inner

PAD = 3 * BLOCK
_TAPS = np.array(LUMA_TAPS, np.int64)


@compiled(uint8[:, ::1], uint8[:, :, ::1], int64)
def quarter_planes(reference, planes, phase):  # type: ignore[no-untyped-def]
    """(H, W) → those four of (16, H + 48, W + 48) uint8 that are `phase` quarter samples to the right.

    Plane 4·phase + (y phase); the border samples repeated outside.
    """
    height, width = reference.shape
    high, wide = height + 2 * PAD, width + 2 * PAD
    across = np.empty((high + 7, wide), np.int32)
    line = np.empty(wide + 7, np.int32)
    t = _TAPS[phase]
    for y in range(high + 7):
        source = min(max(y - 3 - PAD, 0), height - 1)
        for x in range(wide + 7):
            line[x] = reference[source, min(max(x - 3 - PAD, 0), width - 1)]
        for x in range(wide):
            total = np.int32(0)
            for k in range(8):
                total += np.int32(t[k]) * line[x + k]
            across[y, x] = total
    sums = np.empty(wide, np.int32)
    for phase_y in range(4):
        t = _TAPS[phase_y]
        for y in range(high):
            sums[:] = 2048
            for k in range(8):
                factor = np.int32(t[k])
                if factor:
                    for x in range(wide):
                        sums[x] += factor * across[y + k, x]
            for x in range(wide):
                planes[4 * phase + phase_y, y, x] = min(max(sums[x] >> 12, 0), 255)


@inner
def _place(y, vector, limit):  # type: ignore[no-untyped-def]
    return min(max(y + (vector >> 2), -2 * BLOCK), limit + BLOCK) + PAD


@inner
def differences(current, planes, y, x, down, across, size, most):  # type: ignore[no-untyped-def]
    """Sum of absolute differences of a block at sample (y, x) under a vector; no need to go on from `most`."""
    plane = planes[4 * (across & 3) + (down & 3)]
    height, width = current.shape
    total = np.float32(0)
    # By 8x8 blocks, as compensation clamps each one's place.
    for by in range(0, size, BLOCK):
        top = _place(y + by, down, height)
        for bx in range(0, size, BLOCK):
            total += np.float32(block_differences(current, y + by, x + bx, plane, top, _place(x + bx, across, width)))
            if total >= most:
                return total
    return total


@inner
def coding_cost(current, planes, y, x, down, across, size, scale, most):  # type: ignore[no-untyped-def]
    """About what coding the block's residual costs, rate and distortion together, in bits; no need to go on from
    `most`. scale: see `block_price`."""
    plane = planes[4 * (across & 3) + (down & 3)]
    height, width = current.shape
    total = np.float32(0)
    for by in range(0, size, BLOCK):
        top = _place(y + by, down, height)
        for bx in range(0, size, BLOCK):
            total += block_price(current, y + by, x + bx, plane, top, _place(x + bx, across, width), scale)
            if total >= most:
                return total
    return total


@inner
def pair_cost(current, planes, other, y, x, vector, second, size, scale, most):  # type: ignore[no-untyped-def]
    """`coding_cost` of the mean of two predictions."""
    one = planes[4 * (vector[1] & 3) + (vector[0] & 3)]
    two = other[4 * (second[1] & 3) + (second[0] & 3)]
    height, width = current.shape
    total = np.float32(0)
    for by in range(0, size, BLOCK):
        top, top_2 = _place(y + by, vector[0], height), _place(y + by, second[0], height)
        for bx in range(0, size, BLOCK):
            left, left_2 = _place(x + bx, vector[1], width), _place(x + bx, second[1], width)
            total += pair_price(current, y + by, x + bx, one, top, left, two, top_2, left_2, scale)
            if total >= most:
                return total
    return total


@inner
def _axis_bits(difference, context, lean, not_zero, chances):  # type: ignore[no-untyped-def]
    magnitude = abs(difference)
    power = not_zero
    bits = np.float32(0)
    while magnitude >> power:
        bits += chances[1, context + min(power, 7)]
        power += 1
    bits += chances[0, context + min(power, 7)]
    if power == 0:
        return bits
    if power > 1:
        bits += chances[magnitude >> (power - 2) & 1, LOWER] + max(power - 2, 0)
    sign = SIGN + (0 if lean < 0 else 1 if lean == 0 else 2)
    return bits + chances[1 if difference < 0 else 0, sign]


@inner
def vector_bits(near, place, around, down, across, chances):  # type: ignore[no-untyped-def]
    """What the vector coder would take for this vector, by the chances that it starts from."""
    ly, lx, uy, ux, cy, cx = near
    low_y, low_x = min(ly, uy, cy), min(lx, ux, cx)
    high_y, high_x = max(ly, uy, cy), max(lx, ux, cx)
    median_y, median_x = ly + uy + cy - low_y - high_y, lx + ux + cx - low_x - high_x
    apart = high_y - low_y + high_x - low_x
    spread = 0 if apart == 0 else 1 if apart < 3 else 2 if apart < 17 else 3
    kind = (spread * 5 + place) * 3
    if down == median_y and across == median_x:
        return chances[0, MOVED + kind + around]
    bits = chances[1, MOVED + kind + around]
    context = NEIGHBOUR + kind
    if ly != median_y or lx != median_x:
        if down == ly and across == lx:
            return bits + chances[1, context]
        bits += chances[0, context]
    if (uy != median_y or ux != median_x) and (uy != ly or ux != lx):
        if down == uy and across == ux:
            return bits + chances[1, context + 1]
        bits += chances[0, context + 1]
    if (cy != median_y or cx != median_x) and (cy != ly or cx != lx) and (cy != uy or cx != ux):
        if down == cy and across == cx:
            return bits + chances[1, context + 2]
        bits += chances[0, context + 2]
    off_y, off_x = down - median_y, across - median_x
    bits += _axis_bits(off_y, POWER + spread * 8, ly + uy + cy - 3 * median_y, 0, chances)
    other = 1 if off_y else 0
    context = POWER + (4 + spread * 2 + other) * 8
    return bits + _axis_bits(off_x, context, lx + ux + cx - 3 * median_x, 0 if off_y else 1, chances)


@inner
def off_median(near, down, across):  # type: ignore[no-untyped-def]
    ly, lx, uy, ux, cy, cx = near
    median_y = ly + uy + cy - min(ly, uy, cy) - max(ly, uy, cy)
    median_x = lx + ux + cx - min(lx, ux, cx) - max(lx, ux, cx)
    return 1 if down != median_y or across != median_x else 0


@inner
def reference_bits(reference, count, context, step, chances):  # type: ignore[no-untyped-def]
    bits = np.float32(0)
    for found in range(reference):
        bits += chances[1, context + step * min(found, 2)]
    return bits + chances[0, context + step * min(reference, 2)] if reference < count - 1 else bits


@inner
def second_bits(first, second, distances, references, chances):  # type: ignore[no-untyped-def]
    """A second vector's bits beyond those of its being there and of its reference. first, second: (dy, dx)."""
    distance, of = distances[references[1]], distances[references[0]]
    down = second[0] - scaled(first[0], distance, of)
    across = second[1] - scaled(first[1], distance, of)
    bits = _axis_bits(down, APART, np.int64(0), 0, chances)
    return bits + _axis_bits(across, APART + (16 if down else 8), np.int64(0), 0, chances)
