"""The walk over an intra frame's blocks, compiled by numba. Import only where something is coded."""

from __future__ import annotations

import numpy as np

from codec.intra.block_kernels import UNTOLD, Store, Tools, code_chroma, code_luma, new_unit
from codec.intra.plan_kernels import plan_chroma, plan_luma
from codec.rans import compiled


@compiled()
def code_intra_frame(source, out, given, mixer, steps, fraction, band, scans, modes, tables, costs, prices):  # type: ignore[no-untyped-def]
    """Code a frame, or find it; gives the number of intervals.

    source: Y (H, W), U, V (H/2, W/2) int32, read when encoding. out: the same shapes, filled. given: whether to decode,
    intervals, words, state, as in `codec.rans`. mixer: a `Mixer`'s parts, which change. steps: luma's and chroma's in
    the transform's units; fraction: its fraction bits, 0 for coding without loss. band: class of the QP, 0..7.
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
    exact = fraction == 0
    fine = Tools(scans, modes[0], modes[1], tables, costs, prices, steps[0], fraction, exact, band, *room)
    coarse = Tools(scans, modes[0], modes[1], tables, costs, prices, steps[1], fraction, exact, band, *room)
    for by in range(rows):
        for bx in range(columns):
            if not decoding:
                plan_luma(source[0], out[0], mixer, store, fine, by, bx)
            code_luma(out[0], coder, mixer, store, fine, by, bx)
            if not decoding:
                plan_chroma(source, out, mixer, store, coarse, by, bx)
            code_chroma(out, coder, mixer, store, coarse, by, bx)
    return used[0]
