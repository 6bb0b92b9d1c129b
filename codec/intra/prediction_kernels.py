"""What the decoded samples around a block say it looks like: contexts, learned modes, luma's shape for chroma.

A block's *context* are the decoded samples above and to the left of it, two deep (`fill_context` has the list);
beyond the picture's edge, and where nothing is decoded yet, the nearest one that is there, or 128.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.rans import inner


@inner
def fill_context(plane, top, left, size, right_known, context):  # type: ignore[no-untyped-def]
    """Context of the block at (top, left) of plane (H, W) int32 into context, less its mean; gives the mean.

    right_known: whether what lies above and to the right of the block is decoded (inside the picture).
    Luma of size 8: 18 above from 2 to the left on, 12 above these, 8 and 8 to the left. Size 4: 9 above from 1 to the
    left on, 4 above these, 4 and 4 to the left.
    """
    width = plane.shape[1]
    before = 2 if size == 8 else 1
    near = 18 if size == 8 else 9
    far_from, far = (2, 12) if size == 8 else (0, 4)
    n = 0
    if top > 0:
        last = min(width, left + (2 * size if right_known else size)) - 1
        for i in range(near):
            context[n] = plane[top - 1, min(max(left - before + i, 0), last)]
            n += 1
        row = max(top - 2, 0)
        for i in range(far):
            context[n] = plane[row, min(max(left - far_from + i, 0), last)]
            n += 1
    else:
        value = plane[0, left - 1] if left > 0 else 128
        for _ in range(near + far):
            context[n] = value
            n += 1
    if left > 0:
        for depth in range(2):
            column = max(left - 1 - depth, 0)
            for i in range(size):
                context[n] = plane[top + i, column]
                n += 1
    else:
        value = plane[top - 1, 0] if top > 0 else 128
        for _ in range(2 * size):
            context[n] = value
            n += 1
    total = np.int64(size)
    for i in range(size):
        total += context[before + i] + context[near + far + i]
    mean = total // (2 * size)
    for i in range(n):
        context[i] -= mean
    return mean


@inner
def predict_mode(matrix, context, mean, count, out):  # type: ignore[no-untyped-def]
    """One learned mode: matrix (size², count) int16 in 1024ths; out (size²,) int64, samples 0..255."""
    for p in range(matrix.shape[0]):
        total = np.int32(512)
        for i in range(count):
            total += np.int32(matrix[p, i]) * context[i]
        out[p] = min(max(mean + (total >> 10), 0), 255)


@inner
def predict_from_luma(luma, chroma, top, left, out):  # type: ignore[no-untyped-def]
    """A 4x4 chroma block at (top, left) of chroma as a line through luma's decoded samples at half size: out (16,).

    The line is fitted to the samples above and to the left; slopes in 64ths, within ±4.
    """
    n, sum_x, sum_y, sum_xy, sum_xx = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for side in range(2):
        if (top if side == 0 else left) == 0:
            continue
        for i in range(4):
            y, x = (top - 1, left + i) if side == 0 else (top + i, left - 1)
            value = (
                luma[2 * y, 2 * x] + luma[2 * y, 2 * x + 1] + luma[2 * y + 1, 2 * x] + luma[2 * y + 1, 2 * x + 1] + 2
            ) >> 2
            other = np.int64(chroma[y, x])
            n += 1
            sum_x += value
            sum_y += other
            sum_xy += value * other
            sum_xx += value * value
    if n == 0:
        out[:16] = 128
        return
    spread = n * sum_xx - sum_x * sum_x
    slope: Any = (64 * (n * sum_xy - sum_x * sum_y)) // (spread + 16) if spread > 0 else np.int64(0)
    slope = min(max(slope, -256), 256)
    for i in range(4):
        for j in range(4):
            y, x = top + i, left + j
            value = (
                luma[2 * y, 2 * x] + luma[2 * y, 2 * x + 1] + luma[2 * y + 1, 2 * x] + luma[2 * y + 1, 2 * x + 1] + 2
            ) >> 2
            exact = 64 * sum_y + slope * (n * value - sum_x)
            out[4 * i + j] = min(max((exact + 32 * n) // (64 * n), 0), 255)
