"""Motion compensation compiled by numba: the same samples as `motion_compensation`'s tensors, many times faster."""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, uint8

from codec.rans import compiled, inner


@inner
def _predict(plane, top, left, phase_y, phase_x, taps, rows, columns, lines, out):  # type: ignore[no-untyped-def]
    """A patch of rows x columns samples at (top, left) of the plane, whose border samples repeat, into out."""
    height, width = plane.shape
    count = taps.shape[1]
    before = count // 2 - 1
    inside = top - before >= 0 and left - before >= 0
    inside = inside and top + rows + count <= height and left + columns + count <= width
    if inside and phase_y == 0 and phase_x == 0:
        for i in range(rows):
            for j in range(columns):
                out[i, j] = plane[top + i, left + j]
        return
    for i in range(rows + count - 1):
        y = top - before + i
        if inside:
            for j in range(columns):
                total = np.int32(0)
                for k in range(count):
                    total += np.int32(taps[phase_x, k]) * np.int32(plane[y, left - before + j + k])
                lines[i, j] = total
        else:
            y = min(max(y, 0), height - 1)
            for j in range(columns):
                total = np.int32(0)
                for k in range(count):
                    x = min(max(left - before + j + k, 0), width - 1)
                    total += np.int32(taps[phase_x, k]) * np.int32(plane[y, x])
                lines[i, j] = total
    for i in range(rows):
        for j in range(columns):
            total = np.int32(2048)
            for k in range(count):
                total += np.int32(taps[phase_y, k]) * lines[i + k, j]
            out[i, j] = min(max(total >> 12, 0), 255)


@compiled(uint8[:, :, ::1], int64[:, :, ::1], int64, int64[:, ::1], int64[:, :, ::1], boolean, uint8[:, ::1])
def compensate_frame(planes, moves, block, taps, weights, overlapped, out):  # type: ignore[no-untyped-def]
    """Fill out (H, W) with planes (R, H, W) moved by moves (3, H/block, W/block): vectors in 1/len(taps) of a sample
    and the number of the plane.

    weights: (5, block, block) eighths of the own, the upper, lower, left and right block's vector.
    """
    height, width = out.shape
    phases = taps.shape[0]
    rows, columns = moves.shape[1], moves.shape[2]
    lines = np.empty((block + taps.shape[1], block), np.int32)
    own = np.empty((block, block), np.int32)
    other = np.empty((block, block), np.int32)
    total = np.empty((block, block), np.int32)
    for row in range(rows):
        for column in range(columns):
            y0, x0 = row * block, column * block
            down, across, number = moves[0, row, column], moves[1, row, column], moves[2, row, column]
            whole_y, whole_x = down // phases, across // phases
            top = min(max(y0 + whole_y, -2 * block), height + block)
            left = min(max(x0 + whole_x, -2 * block), width + block)
            _predict(
                planes[number], top, left, down - whole_y * phases, across - whole_x * phases, taps, block, block,
                lines, own,
            )  # fmt: skip
            mixed = False
            if overlapped:
                for side in range(4):
                    near_y = row - 1 if side == 0 else row + 1 if side == 1 else row
                    near_x = column - 1 if side == 2 else column + 1 if side == 3 else column
                    near_y, near_x = min(max(near_y, 0), rows - 1), min(max(near_x, 0), columns - 1)
                    vy, vx, which = moves[0, near_y, near_x], moves[1, near_y, near_x], moves[2, near_y, near_x]
                    if vy == down and vx == across and which == number:
                        continue
                    if not mixed:
                        mixed = True
                        for i in range(block):
                            for j in range(block):
                                total[i, j] = 8 * own[i, j] + 4
                    whole_y, whole_x = vy // phases, vx // phases
                    top = min(max(y0 + whole_y, -2 * block), height + block)
                    left = min(max(x0 + whole_x, -2 * block), width + block)
                    # Half the block is all that a neighbour has a say in.
                    i0 = block // 2 if side == 1 else 0
                    j0 = block // 2 if side == 3 else 0
                    high = block // 2 if side < 2 else block
                    wide = block // 2 if side > 1 else block
                    _predict(
                        planes[which], top + i0, left + j0, vy - whole_y * phases, vx - whole_x * phases, taps, high,
                        wide, lines, other,
                    )  # fmt: skip
                    for i in range(high):
                        for j in range(wide):
                            weight = np.int32(weights[side + 1, i0 + i, j0 + j])
                            total[i0 + i, j0 + j] += weight * (other[i, j] - own[i0 + i, j0 + j])
            if mixed:
                for i in range(block):
                    for j in range(block):
                        out[y0 + i, x0 + j] = total[i, j] >> 3
            else:
                for i in range(block):
                    for j in range(block):
                        out[y0 + i, x0 + j] = own[i, j]
