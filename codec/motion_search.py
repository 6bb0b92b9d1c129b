"""Motion search: 16x16 blocks that may split into four 8x8, quarter-pel, each chosen by what it will cost in bits.

Each block comes from one of the references, or from the mean of two. GPUs, and machines without numba, know the last
frame only.

Blocks are decided in the order that they are coded in, so a vector's price is what the vector coder would take given
the neighbours that are already decided. A residual's price is an estimate from its Hadamard transform: the squared
error of what will quantize to zero, and about the bits of what will not. The encoder's choice only: a decoder never
runs it, and nothing depends on two machines choosing alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.motion import Motion
from codec.motion_search_batched import search_batch
from codec.threads import Threads, side_by_side

if TYPE_CHECKING:
    from codec.motion_chances import MotionChances

_RUN = 6  # 16x16 blocks that a thread goes on for before others may follow


def search_motion(
    current: Tensor,
    references: Sequence[Tensor],
    distances: Sequence[int],
    step: Tensor,
    reach: int = 32,
    previous: Tensor | None = None,
    learned: MotionChances | None = None,
    kept: QuarterPlanes | None = None,
) -> Motion:
    """Motion that predicts `current` from the references.

    current, references: (N, H, W) whole numbers 0..255 of any type, sides multiples of 16, the last frame first;
    distances: frames from each to the current one; step: (N,) quantization steps that the residual will be coded
    with, in sample units; reach: luma samples of the first, coarse search each way; previous: (N, 2, H/8, W/8) vectors
    over one frame of the frame before, tried as candidates; learned: what the vector coder knows, for prices; kept:
    for batches of one, interpolated planes from call to call.
    """
    kernels = _kernels() if current.device.type == "cpu" else None
    if kernels is None:
        vectors, split = search_batch(current.float(), references[0].float(), vector_weight(step), reach, previous)
        return Motion.of_last(vectors, split)
    n, height, width = current.shape
    found = np.zeros((n, 6, height // 8, width // 8), np.int64)
    divided = np.zeros((n, height // 16, width // 16), np.uint8)
    before = np.zeros_like(found[:, :2]) if previous is None else np.ascontiguousarray(previous.numpy())
    frames = np.ascontiguousarray(current.byte().numpy())
    prices = (learned or _new_chances()).prices()
    with side_by_side() as threads:
        for i, size in enumerate(step.tolist()):
            planes = kept if kept is not None and n == 1 else QuarterPlanes()
            last = np.ascontiguousarray(references[0][i].byte().numpy())
            coarse = threads.submit(kernels.coarse_vectors, frames[i], last, reach)
            slots = planes.slots_of([r[i : i + 1] if n > 1 else r for r in references], threads)
            search = kernels.Search(
                frames[i], planes.planes, slots, np.array(distances, np.int64), before[i], prices,
                np.float32(vector_weight(torch.tensor(size))), np.float32(1 / (8 * size)),
                np.empty((kernels.CANDIDATES, 2), np.int64),
            )  # fmt: skip
            _search_frame(search, coarse.result(), found[i], divided[i], threads)
    return Motion(torch.from_numpy(found), torch.from_numpy(divided.astype(bool)))


def _search_frame(
    search: Any, coarse: NDArray[np.int64], blocks: NDArray[np.int64], split: NDArray[np.uint8], threads: Threads
) -> None:
    """Fill blocks and split of one frame, see `motion_search_kernels.search_blocks`: a thread a row, each a little
    behind the row above. What is found is the same with any number of threads."""
    rows, columns = split.shape
    moved = np.zeros(blocks.shape[1:], np.int64)
    ends = [*range(_RUN, columns, _RUN), columns]
    done = [[Event() for _ in ends] for _ in range(rows)]

    def every(first: int) -> None:
        own = search._replace(candidates=np.empty_like(search.candidates))
        try:
            for row in range(first, rows, threads.count):
                for number, end in enumerate(ends):
                    if row:
                        done[row - 1][min(number + 1, len(ends) - 1)].wait()
                    begin = ends[number - 1] if number else 0
                    _kernels().search_blocks(own, coarse, blocks, split, moved, row, begin, end)
                    done[row][number].set()
        finally:  # a row that waits for one that failed would wait for ever
            for event in (event for row in done[first :: threads.count] for event in row):
                event.set()

    threads.map(every, range(min(threads.count, rows)))


class QuarterPlanes:
    """Pictures interpolated to quarter samples; one that comes again is not interpolated again."""

    def __init__(self) -> None:
        self.planes: NDArray[np.uint8] = np.empty((0, 16, 0, 0), np.uint8)
        self._owners: list[Tensor | None] = []

    def slots_of(self, references: Sequence[Tensor], threads: Threads) -> NDArray[np.int64]:
        """Where in `planes` these pictures (1, H, W) are; the very same tensors are taken for the same pictures."""
        from codec.motion_price_kernels import PAD, quarter_planes

        if len(self._owners) < len(references):
            height, width = references[0].shape[1:]
            grown = np.empty((len(references), 16, height + 2 * PAD, width + 2 * PAD), np.uint8)
            if self._owners:
                grown[: len(self._owners)] = self.planes
            self.planes = grown
            self._owners += [None] * (len(references) - len(self._owners))
        self._owners = [owner if any(owner is r for r in references) else None for owner in self._owners]
        slots = []
        for reference in references:
            slot = next((i for i, owner in enumerate(self._owners) if owner is reference), None)
            if slot is None:
                slot = self._owners.index(None)
                whole, into = np.ascontiguousarray(reference[0].byte().numpy()), self.planes[slot]
                threads.map(partial(quarter_planes, whole, into), range(4))
                self._owners[slot] = reference
            slots.append(slot)
        return np.array(slots)


def vector_weight(step: Tensor) -> Tensor:
    """SAD that a vector bit is worth at a quantization step; steeper where most residuals are not coded at all."""
    return 0.4 * step * (1 + step / 40)


def _new_chances() -> MotionChances:
    from codec.motion_chances import MotionChances

    return MotionChances()


@lru_cache
def _kernels():  # type: ignore[no-untyped-def]
    """The compiled search, or None where numba is not installed (training needs no more than PyTorch)."""
    try:
        from codec import motion_search_kernels
    except ImportError:
        return None
    return motion_search_kernels
