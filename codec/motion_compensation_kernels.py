"""Motion compensation compiled by numba: the same samples as `motion_compensation`'s tensors, many times faster.

A frame's overlapped and plain prediction and the memory's are made in one walk over its blocks, for most of what they
need is the same. A block in the making is a list of rows twice as long as its own: so filters run over all of it in one
loop, which becomes a few vector instructions.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64, uint8

from codec.rans import compiled, inner

OVERLAPPED, PLAIN, MEMORY = 0, 1, 2  # where `predict_frame` writes to


@inner
def _copy_four(source, into):  # type: ignore[no-untyped-def]
    # All are read before any is written, so that they go together: a loop over so few would go one by one.
    a, b, c, d = source[0], source[1], source[2], source[3]
    into[0], into[1], into[2], into[3] = a, b, c, d


@inner
def _copy_eight(source, into):  # type: ignore[no-untyped-def]
    a, b, c, d, e, f, g, h = (
        source[0], source[1], source[2], source[3], source[4], source[5], source[6], source[7],
    )  # fmt: skip
    into[0], into[1], into[2], into[3], into[4], into[5], into[6], into[7] = a, b, c, d, e, f, g, h


@inner
def _copy_rows(samples, place, stride, rows, block, into):  # type: ignore[no-untyped-def]
    """Rows of 2 block samples from `place` on, one after the other."""
    for i in range(rows):
        source = samples[place + i * stride :]
        if block == 8:
            _copy_eight(source, into[16 * i :])
            _copy_eight(source[8:], into[16 * i + 8 :])
        else:
            _copy_eight(source, into[8 * i :])


@inner
def _eight_taps(source, taps, step, least, shift, most, out):  # type: ignore[no-untyped-def]
    """out[i] = (sum of taps[k] · source[i + k · step] + half) >> shift, within least..most."""
    a, b, c, d, e, f, g, h = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5], taps[6], taps[7]
    half, step = np.int32((1 << shift) >> 1), np.uint64(step)
    for i in range(len(out)):
        at = np.uint64(i)
        first = np.int32(a * source[at] + b * source[at + step])
        second = np.int32(c * source[at + np.uint64(2) * step] + d * source[at + np.uint64(3) * step])
        third = np.int32(e * source[at + np.uint64(4) * step] + f * source[at + np.uint64(5) * step])
        fourth = np.int32(g * source[at + np.uint64(6) * step] + h * source[at + np.uint64(7) * step])
        total = np.int32(np.int32(first + second) + np.int32(third + fourth))
        out[at] = min(max(np.int32(np.int32(total + half) >> shift), least), most)


@inner
def _four_taps(source, taps, step, least, shift, most, out):  # type: ignore[no-untyped-def]
    a, b, c, d = taps[0], taps[1], taps[2], taps[3]
    half, step = np.int32((1 << shift) >> 1), np.uint64(step)
    for i in range(len(out)):
        at = np.uint64(i)
        first = np.int32(a * source[at] + b * source[at + step])
        second = np.int32(c * source[at + np.uint64(2) * step] + d * source[at + np.uint64(3) * step])
        total = np.int32(first + second)
        out[at] = min(max(np.int32(np.int32(total + half) >> shift), least), most)


@inner
def _moved(planes, number, y0, x0, down, across, block, taps, rooms, out):  # type: ignore[no-untyped-def]
    """The block at (y0, x0), predicted from a padded plane by the vector (down, across)."""
    phases, count = taps.shape
    border = 2 * block + count
    height, width = planes.shape[1] - 2 * border, planes.shape[2] - 2 * border
    whole_y, whole_x = down // phases, across // phases
    phase_y, phase_x = down - whole_y * phases, across - whole_x * phases
    top = min(max(y0 + whole_y, -2 * block), height + block) + border
    left = min(max(x0 + whole_x, -2 * block), width + block) + border
    samples, stride, row = planes[number].reshape(-1), planes.shape[2], 2 * block
    if phase_y == 0 and phase_x == 0:
        _copy_rows(samples, top * stride + left, stride, block, block, out)
        return
    before = count // 2 - 1
    patch, lines = rooms
    _copy_rows(samples, (top - before) * stride + left - before, stride, block + count - 1, block, patch)
    # What filters find beyond a row's end lands in columns that nobody looks at.
    least, most = np.int32(-(1 << 30)), np.int32(1 << 30)
    if count == 8:
        _eight_taps(patch, taps[phase_x], 1, least, 0, most, lines[: len(patch) - 64])
        _eight_taps(lines, taps[phase_y], row, np.int32(0), 12, np.int32(255), out)
    else:
        _four_taps(patch, taps[phase_x], 1, least, 0, most, lines[: len(patch) - 64])
        _four_taps(lines, taps[phase_y], row, np.int32(0), 12, np.int32(255), out)


@inner
def _mixed(planes, moves, row, column, block, taps, weights, own, rooms, other, out):  # type: ignore[no-untyped-def]
    """A block's overlapped prediction into out: `own` mixed with what its neighbours' vectors predict.

    moves: (3, rows, columns) of the hypothesis in question.
    """
    rows, columns = moves.shape[1], moves.shape[2]
    down, across, number = moves[0, row, column], moves[1, row, column], moves[2, row, column]
    same = True
    for side in range(4):
        near_y = row - 1 if side == 0 else row + 1 if side == 1 else row
        near_x = column - 1 if side == 2 else column + 1 if side == 3 else column
        near_y, near_x = min(max(near_y, 0), rows - 1), min(max(near_x, 0), columns - 1)
        vy, vx, which = moves[0, near_y, near_x], moves[1, near_y, near_x], moves[2, near_y, near_x]
        if vy == down and vx == across and which == number:
            continue
        if same:
            same = False
            for i in range(len(out)):
                out[i] = np.int32(8 * own[i] + 4)
        _moved(planes, which, row * block, column * block, vy, vx, block, taps, rooms, other)
        for i in range(len(out)):
            out[i] = np.int32(out[i] + weights[side + 1, i] * np.int32(other[i] - own[i]))
    for i in range(len(out)):
        out[i] = own[i] if same else np.int32(out[i] >> 3)


@inner
def _write(first, second, both, row, column, block, mean, out):  # type: ignore[no-untyped-def]
    """A block, or the mean of two, into its place."""
    if both:
        for i in range(len(mean)):
            mean[i] = np.int32(np.int32(first[i] + second[i] + 1) >> 1)
    found = mean if both else first
    for i in range(block):
        source, into = found[2 * i * block :], out[row * block + i, column * block :]
        if block == 8:
            _copy_eight(source, into)
        else:
            _copy_four(source, into)


@compiled(uint8[:, :, ::1], int64[:, :, ::1], int64, int32[:, ::1], int32[:, ::1], float32[:, :, ::1])
def predict_frame(planes, blocks, block, taps, weights, out):  # type: ignore[no-untyped-def]
    """Fill out (3, H, W) with one plane's overlapped, plain and memory's prediction.

    planes: (R + 1, H + 2 p, W + 2 p), the references' and last the memory's, grown by p = 2 block + taps repeated
    border samples. blocks: (6, H/block, W/block), see `codec.motion.Motion`, vectors in 1/len(taps) of a sample.
    weights: (5, n) eighths of the own, the upper, lower, left and right block's vector, rows grown to twice their
    length, n a multiple of 64.
    """
    rows, columns = blocks.shape[1], blocks.shape[2]
    memory = planes.shape[0] - 1
    # Of a block without a second hypothesis, the first counts as both.
    seconds = blocks[:3].copy()
    twice = np.zeros((rows, columns), np.bool_)
    for row in range(rows):
        for column in range(columns):
            if blocks[5, row, column] >= 0:
                twice[row, column] = True
                for k in range(3):
                    seconds[k, row, column] = blocks[3 + k, row, column]
    # Lengths are multiples of what vector instructions take at a time, lest a loop's rest takes longer than the loop.
    tall = ((block + taps.shape[1] - 1) * 2 * block + 63) // 64 * 64
    rooms = np.zeros(tall + 64, np.int32), np.zeros(tall + 256, np.int32)
    made = np.zeros((7, weights.shape[1]), np.int32)
    other = made[6]
    for row in range(rows):
        for column in range(columns):
            both = twice[row, column]
            # Neighbours with two vectors have two to mix in, even where the block itself has one.
            mixes = both or twice[max(row - 1, 0), column] or twice[min(row + 1, rows - 1), column]
            mixes = mixes or twice[row, max(column - 1, 0)] or twice[row, min(column + 1, columns - 1)]
            for hypothesis in range(2 if mixes else 1):
                moves = seconds if hypothesis else blocks[:3]
                own, mixed, kept = made[hypothesis], made[2 + hypothesis], made[4 + hypothesis]
                y0, x0 = row * block, column * block
                down, across, number = moves[0, row, column], moves[1, row, column], moves[2, row, column]
                if hypothesis == 0 or both:
                    _moved(planes, number, y0, x0, down, across, block, taps, rooms, own)
                    if number == 0:
                        _moved(planes, memory, y0, x0, down, across, block, taps, rooms, kept)
                    else:
                        kept[:] = own
                else:
                    own[:] = made[0]
                _mixed(planes, moves, row, column, block, taps, weights, own, rooms, other, mixed)
            _write(made[2], made[3], mixes, row, column, block, other, out[OVERLAPPED])
            _write(made[0], made[1], both, row, column, block, other, out[PLAIN])
            _write(made[4], made[5], both, row, column, block, other, out[MEMORY])
