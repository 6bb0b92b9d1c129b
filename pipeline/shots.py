"""Shot cuts, found while frames stream by: a hard cut is one big step between two frames with calm on both sides.

Each frame is reduced to a small grid of luma samples. The step to the next frame is the mean absolute difference of
the grids, backed by the distance of their histograms. Fast motion has big steps too, but many in a row, and a flash
has two; so a step is judged against its neighbours before and after it. Fades and dissolves are not found.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

LOOKAHEAD = 2  # steps after the judged one
_MEMORY = 5  # steps before it
_GRID = (36, 64)  # rows, columns
_BINS = 32
_MOST = 16  # frames whose steps are taken at once
# In 8-bit units. Set on 34 clips of handheld, sports and studio footage and on cuts made by joining them.
_FLOOR = 10.0
_ISOLATION = 2.5
_HISTOGRAM_STEP, _HISTOGRAM_ISOLATION = 0.3, 1.3


class ShotCutDetector:
    """`look` at luma planes one by one; `judge` tells, LOOKAHEAD frames late, which of them start a new shot.

    judged: how many frames, from the first, are known to start a shot or not.
    """

    def __init__(self) -> None:
        self._window: tuple[slice, slice] | None = None  # and buffers, see `_prepare`
        self._grids: NDArray[np.uint8]  # (_MOST + 1, samples): the last grid whose step is taken, then later ones
        self._places: list[NDArray[np.uint8]]  # the same memory, one grid each
        self._changes: tuple[NDArray[np.uint8], NDArray[np.uint8]]
        self._looked = 0  # at so many frames whose steps are not taken
        self._steps: list[float] = []
        self._before: deque[float] = deque(maxlen=_MEMORY)
        # Frame index, step, and the grids of this frame and the one before where they may be asked for.
        self._waiting: deque[tuple[int, float, NDArray[np.uint8] | None]] = deque()
        self._count = 0
        self.judged = 0

    def look(self, luma: NDArray[np.uint8]) -> None:
        """Take the next frame's luma (H, W) uint8."""
        if self._window is None:
            self._window = self._prepare(luma)
        if self._looked == _MOST:
            self._measure()
        self._looked += 1
        self._places[self._looked][...] = luma[self._window]

    def judge(self) -> list[int]:
        """Indices of frames now found to start a new shot, in order, each told once."""
        self._measure()
        return self._judge(LOOKAHEAD)

    def finish(self) -> list[int]:
        """Judge the last frames; gives indices as `judge` does."""
        self._measure()
        return self._judge(0)

    def steps(self, count: int) -> list[float]:
        """Of the next `count` judged frames, the mean absolute difference from the frame before, in 8-bit units."""
        steps = self._steps[:count]
        del self._steps[:count]
        return steps

    def _prepare(self, luma: NDArray[np.uint8]) -> tuple[slice, slice]:
        """Choose a grid of about 36x64 samples; small pictures are taken whole."""
        down, across = (max(1, side // wanted) for side, wanted in zip(luma.shape, _GRID, strict=True))
        window = slice(down // 2, None, down), slice(across // 2, None, across)
        buffer = np.zeros((_MOST + 1, *luma[window].shape), np.uint8)
        self._places, self._grids = list(buffer), buffer.reshape(_MOST + 1, -1)
        self._changes = np.zeros_like(self._grids[1:]), np.zeros_like(self._grids[1:])
        return window

    def _measure(self) -> None:
        """Take the steps of the frames looked at, all at once: so many small calls cost more than their work."""
        count, self._looked = self._looked, 0
        if not count:
            return
        grids = self._grids
        if self._count == 0:
            grids[0] = grids[1]  # the first frame's step is 0
        larger, smaller = self._changes[0][:count], self._changes[1][:count]
        np.maximum(grids[1 : count + 1], grids[:count], out=larger)
        np.minimum(grids[1 : count + 1], grids[:count], out=smaller)
        np.subtract(larger, smaller, out=larger)
        for index, total in enumerate(np.add.reduce(larger, axis=1, dtype=np.uint32).tolist()):
            step = total / grids.shape[1]
            self._steps.append(step)
            self._waiting.append((self._count, step, grids[index : index + 2].copy() if step > _FLOOR else None))
            self._count += 1
        grids[0] = grids[count]

    def _judge(self, keep: int) -> list[int]:
        cuts, waiting = [], self._waiting
        while len(waiting) > keep:
            index, step, grids = waiting.popleft()
            if grids is not None:
                calm = max([*self._before, *(s for _, s, _ in list(waiting)[:LOOKAHEAD])], default=0.0)
                isolated = step > _FLOOR + _ISOLATION * calm
                likely = step > _FLOOR + _HISTOGRAM_ISOLATION * calm
                if isolated or (likely and _histogram_distance(grids) > _HISTOGRAM_STEP):
                    cuts.append(index)
                    self._before.clear()
                    continue
            self._before.append(step)
        self.judged = self._count - len(waiting)
        return cuts


def _histogram_distance(grids: NDArray[np.uint8]) -> float:
    """Of two grids, half the sum of absolute differences of the shares by level: 0 (the same) to 1 (nothing in
    common)."""
    counts = (np.bincount(grid >> 3, minlength=_BINS) for grid in grids)
    return float(np.abs(np.subtract(*counts)).sum() / (2 * grids.shape[1]))
