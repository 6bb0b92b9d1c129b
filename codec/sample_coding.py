"""Samples to bits and back without loss, one by one.

The planes come in the order Y, U, V, each row by row. Every sample is predicted in several ways; what is not as
predicted is coded in bits, and each bit's chance is a vote of distributions around the predictions and of counters in
contexts. All of it learns from each sample, and all of it is whole numbers (shifts and divisions round down). The
kernel is the same for both directions. Its constants, and what learning begins with (`codec.sample_model`), are part of
the syntax; what it does is:

**Neighbours.** Planes are widened by repeating their borders (`codec.sample_planes`). Rows above the coded plane are
the best guess's first row (128 in an intra frame); the columns left of a row are the sample above its first one, plus
the guess's step between the two rows; those right of it are its last sample. *Residuals* (below) and errors widen
likewise, and begin as zeros.

**Predictions**, with 6 bits below a grey level, clipped to 0..255:

0, 1. the two linear filters of `codec.sample_filter_kernels` over differences of samples around, of this plane, the
      guesses and the planes before it, that `codec.sample_planes` lists; added to the anchor: the guess, or in an
      intra frame the sample above
2.    the median of W, N and W + N - NW; where there are guesses, that of the best one's errors there, added to it
3.    the best guess; intra: (2 W + 2 N + NE - NW) / 4
4.    the mean of the second and the third guess; intra: W + (NE - NW) / 2
5.    *mixed*: the mean of the others, each weighted by 1 / (e² + 64), e the sum of its errors at W, N (twice each), NW,
      NE, WW and NN, and 2 to 4 by a quarter of that; plus the mean of two biases, learned in contexts of the residuals
      or the guess's errors at W and N and of how far 2 or 0 is from the mean. Where the guess is right at W, N, NW and
      NE, mixed is the guess.

The *centre* is mixed, rounded; the residual is the sample less the centre.

**Bits.** Is the residual other than zero (number 0)? Is it negative (1; left out where the centre is 0 or 255)? Then
its magnitude by buckets of 1, 1, 1, 1, 2, 2, 4, 4, 8, 8 … 64, 64 values from 1 up: is it beyond this one (2, 3 …; left
out where no sample is)? And within the bucket, halves from the largest down: is it in the upper one (18 + log2 of the
half's size; left out where no sample is)?

**Votes.** A vote is a logarithm of odds, 256 ln(one / zero).
- Around each prediction lies a logistic distribution. Its scale follows from the mean error that predictions had in
  this context: its own error level and that of mixed (for 0: mixed's and the texture's). A bit splits what is still
  possible in two, and the vote compares the shares of both, from a table of tails in 2^-24.
- Each of 8 contexts has for each number a chance of a one, in 2^-22, and how many bits it rests on (n, 255 at most),
  which begins as 1/2 and 0. Its vote is the stretched chance times 5n / (5n + 3); after the bit it moves by
  5 / (5n + 8) of the way.
- One vote is 1 always.
Three sets of weights, each picked by the number and a context, add the votes up. The chance of the bit is the squashed
mean of the three sums. Each set then moves its weights by rate · vote · (bit - its own chance); the rate falls from
1200 to 80 as the set learns.
A zero is coded as the interval of 65536 - p from 0, a one as that of p above (`codec.entropy_coding`).

An intra frame begins with nothing learned and leaves nothing. The frame after it begins anew, and those after that go
on with what was learned, plane by plane.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError

if TYPE_CHECKING:
    from codec.sample_model import PlaneModel
    from codec.sample_planes import Stack

Plane = NDArray[np.uint8]
Planes = tuple[Plane, Plane, Plane]

_AT_ONCE = 1 << 15  # samples whose intervals are held at a time, about
_Words = NDArray[np.uint16]
_State = NDArray[np.uint64]
_Rows = Callable[[int, int, NDArray[np.uint32], _Words, _State], int]


class SampleModel:
    """What has been learned since the last intra frame, which makes it begin anew."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.planes: list[PlaneModel] = []

    def copy(self) -> SampleModel:
        """One to try something out on."""
        return copy.deepcopy(self)


def encode_samples(coder: SymbolEncoder, planes: Planes, guesses: list[Planes], model: SampleModel) -> None:
    """Code one frame into the packet; the model learns from it.

    planes: y (H, W), u and v (ceil(H/2), ceil(W/2)), uint8. guesses: what the frame may look like, the best one first;
    the first three are looked at. None of them makes an intra frame: the model begins anew. Raises BitreelError where
    shapes do not belong together, or the model has seen others since the last intra frame.
    """
    from codec.sample_kernels import MOST_BITS

    nothing: _Words = np.zeros(0, np.uint16)

    def run(code: _Rows, first: int, last: int, width: int) -> None:
        intervals = np.empty((last - first) * width * MOST_BITS, np.uint32)
        used = code(first, last, intervals, nothing, np.zeros(2, np.uint64))
        coder.encode_intervals(intervals[:used].copy())

    # The kernel, which finds samples as well, takes arrays that may be written to.
    planes = tuple(np.require(plane, requirements=["C", "W"]) for plane in planes)  # type: ignore[assignment]
    _code_planes(False, planes, guesses, model, run)


def decode_samples(
    coder: SymbolDecoder, shapes: list[tuple[int, int]], guesses: list[Planes], model: SampleModel
) -> Planes:
    """What `encode_samples` was given, from the same guesses and a model that has learned the same.

    Any bytes at all are safe to decode: they give some samples or other. Raises BitreelError as the encoder does.
    """
    nothing: NDArray[np.uint32] = np.zeros(0, np.uint32)

    def run(code: _Rows, first: int, last: int, width: int) -> None:
        coder.run(lambda words, state: code(first, last, nothing, words, state))

    y, u, v = (np.zeros(shape, np.uint8) for shape in shapes)
    _code_planes(True, (y, u, v), guesses, model, run)
    return y, u, v


def _code_planes(
    decoding: bool,
    planes: Planes,
    guesses: list[Planes],
    model: SampleModel,
    run: Callable[[_Rows, int, int, int], None],
) -> None:
    from codec.sample_model import PlaneModel
    from codec.sample_planes import GUESSES, stack_planes

    shapes = [plane.shape for plane in planes]
    _check(shapes, guesses, model)
    known = [guesses[min(number, len(guesses) - 1)] for number in range(GUESSES)] if guesses else None
    residuals: list[NDArray[np.int16]] = []
    learned: list[PlaneModel] = []
    for kind, plane in enumerate(planes):
        height, width = plane.shape
        stack = stack_planes(kind, planes, known, residuals, (height, width))
        own = model.planes[kind] if known and model.planes else PlaneModel(len(stack.taps), width)
        learned.append(own)
        residuals.append(np.zeros(plane.shape, np.int16))
        code = _rows_of(decoding, plane, residuals[kind], stack, own)
        rows = max(1, _AT_ONCE // width)
        for first in range(0, height, rows):
            run(code, first, min(first + rows, height), width)
    # Intra frames and others have different filters: nothing of an intra frame is of use to the next.
    model.shapes, model.planes = (shapes, learned) if known else ([], [])


def _rows_of(decoding: bool, plane: Plane, residuals: NDArray[np.int16], stack: Stack, own: PlaneModel) -> _Rows:
    from codec.sample_kernels import code_rows
    from codec.sample_model import tables

    def code(first: int, last: int, intervals: NDArray[np.uint32], words: _Words, state: _State) -> int:
        used: int = code_rows(
            decoding, plane, residuals, stack.samples, stack.layout, stack.taps, tables(), own.mixing, own.filters,
            own.history, first, last, intervals, words, state,
        )  # fmt: skip
        return used

    return code


def _check(shapes: list[tuple[int, ...]], guesses: list[Planes], model: SampleModel) -> None:
    height, width = shapes[0]
    half = (height + 1) // 2, (width + 1) // 2
    if not height or not width or shapes[1:] != [half, half]:
        raise BitreelError(f"can't code planes of {shapes}: chroma must be half of luma")
    for guess in guesses:
        if [plane.shape for plane in guess] != shapes:
            raise BitreelError("can't code samples: a guess has another size than the frame")
    if guesses and model.shapes and model.shapes != shapes:
        raise BitreelError("can't code samples: the frame has another size than the one before")
