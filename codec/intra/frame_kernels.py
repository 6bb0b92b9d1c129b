"""The walk over an intra frame's blocks, compiled by numba. Import only where something is coded."""

from __future__ import annotations

import numpy as np

from codec.intra.block_kernels import UNTOLD, Store, Tools, code_chroma, code_luma, new_unit
from codec.intra.plan_kernels import plan_chroma, plan_luma
from codec.rans import compiled, inner

_FLOOR = 4  # added to variances: noise that nothing shows of
_USUAL = 28  # quarter octaves of the variance at which the step stays as it is
_MOST = 12  # QPs either way


@inner
def _note_block(out, by, bx, sums):  # type: ignore[no-untyped-def]
    """Sum and sum of squares of a decoded luma block."""
    total, squares = np.int64(0), np.int64(0)
    for y in range(8 * by, 8 * by + 8):
        for x in range(8 * bx, 8 * bx + 8):
            value = np.int64(out[y, x])
            total += value
            squares += value * value
    sums[by, bx, 0], sums[by, bx, 1] = total, squares


@inner
def _block_qp(sums, by, bx, qp, activity):  # type: ignore[no-untyped-def]
    """The QP of a block, by the variance of the decoded ones next to it: left, upper left, upper, upper right."""
    count, total, squares = np.int64(0), np.int64(0), np.int64(0)
    for place in range(4):
        y, x = (by, bx - 1) if place == 0 else (by - 1, bx + place - 2)
        if y >= 0 and x >= 0 and x < sums.shape[1]:
            count += 64
            total += sums[y, x, 0]
            squares += sums[y, x, 1]
    if count == 0:
        return qp
    fourth = ((count * squares - total * total) // (count * count) + _FLOOR) ** 4
    quarters = np.int64(0)  # of octaves, rounded down
    while fourth >> (quarters + 1) > 0:
        quarters += 1
    offset = ((quarters - _USUAL) * 9 * activity) // 128
    return min(max(qp - min(max(offset, -_MOST), _MOST), 0), 62)


@compiled()
def code_intra_frame(source, out, given, mixer, steps, qp, activity, scans, modes, tables, costs, prices):  # type: ignore[no-untyped-def]
    """Code a frame, or find it; gives the number of intervals.

    source: Y (H, W), U, V (H/2, W/2) int32, read when encoding. out: the same shapes, filled. given: whether to decode,
    intervals, words, state, as in `codec.rans`. mixer: a `Mixer`'s parts, which change. steps: (QPs, 2), luma's and
    chroma's in 16ths of a sample value. activity: how far steps follow the contrast, in 16ths; see
    `codec.innvc.activity`, which does the same by predictions.
    """
    decoding, intervals, words, state = given
    used, none = np.zeros(1, np.int64), np.zeros(0, np.int64)
    coder = (decoding, none, none, intervals, used, words, state)
    rows, columns = out[0].shape[0] // 8, out[0].shape[1] // 8
    store = Store(
        np.zeros((rows, columns, 64), np.int32), np.zeros((2, rows, columns, 16), np.int32),
        np.full((3, 2 * rows, 2 * columns), UNTOLD, np.int64), np.zeros((2 * rows, 2 * columns), np.int64),
        np.zeros((rows, columns), np.int64), np.zeros((rows, columns), np.int64),
    )  # fmt: skip
    room = np.zeros(64, np.int32), np.zeros(64, np.int64), np.zeros(64, np.int64), np.zeros(64, np.int64), new_unit()
    luma_step, chroma_step = np.zeros(1, np.int64), np.zeros(1, np.int64)
    fine = Tools(scans, modes[0], modes[1], tables, costs, prices, luma_step, qp >> 3, *room)
    coarse = Tools(scans, modes[0], modes[1], tables, costs, prices, chroma_step, qp >> 3, *room)
    sums = np.zeros((rows, columns, 2), np.int64)
    for by in range(rows):
        for bx in range(columns):
            block_qp = _block_qp(sums, by, bx, qp, activity) if activity else qp
            luma_step[0], chroma_step[0] = steps[block_qp, 0], steps[block_qp, 1]
            if not decoding:
                plan_luma(source[0], out[0], mixer, store, fine, by, bx)
            code_luma(out[0], coder, mixer, store, fine, by, bx)
            _note_block(out[0], by, bx, sums)
            if not decoding:
                plan_chroma(source, out, mixer, store, coarse, by, bx)
            code_chroma(out, coder, mixer, store, coarse, by, bx)
    return used[0]
