"""Samples to bits and back without loss, one by one.

DOCS
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError
from codec.sample_kernels import MOST_BITS, code_rows
from codec.sample_model import PlaneModel, SampleModel, tables
from codec.sample_planes import GUESSES, Plane, Planes, stack_planes

__all__ = ["SampleModel", "decode_samples", "encode_samples"]

_AT_ONCE = 1 << 15  # samples whose intervals are held at a time, about
_Words = NDArray[np.uint16]
_State = NDArray[np.uint64]
_Rows = Callable[[int, int, NDArray[np.uint32], _Words, _State], int]


def encode_samples(coder: SymbolEncoder, planes: Planes, guesses: list[Planes], model: SampleModel) -> None:
    """Code one frame into the packet; the model learns from it.

    planes: y (H, W), u and v (ceil(H/2), ceil(W/2)), uint8. guesses: what the frame may look like, the best one first;
    the first three are looked at. None of them makes an intra frame: the model begins anew. Raises BitreelError where
    shapes do not belong together, or the model has seen others since the last intra frame.
    """
    nothing: _Words = np.zeros(0, np.uint16)

    def run(code: _Rows, first: int, last: int, width: int) -> None:
        intervals = np.empty((last - first) * width * MOST_BITS, np.uint32)
        used = code(first, last, intervals, nothing, np.zeros(2, np.uint64))
        coder.encode_intervals(intervals[:used].copy())

    planes = tuple(np.ascontiguousarray(plane) for plane in planes)  # type: ignore[assignment]
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
        code = _rows_of(decoding, plane, residuals[kind], stack.samples, stack.layout, stack.taps, own)
        rows = max(1, _AT_ONCE // width)
        for first in range(0, height, rows):
            run(code, first, min(first + rows, height), width)
    # Intra frames and others have different filters: nothing of an intra frame is of use to the next.
    model.shapes, model.planes = (shapes, learned) if known else ([], [])


def _rows_of(
    decoding: bool,
    plane: Plane,
    residuals: NDArray[np.int16],
    samples: NDArray[np.int32],
    layout: NDArray[np.int64],
    taps: NDArray[np.int64],
    own: PlaneModel,
) -> _Rows:
    def code(first: int, last: int, intervals: NDArray[np.uint32], words: _Words, state: _State) -> int:
        used: int = code_rows(
            decoding, plane, residuals, samples, layout, taps, tables(), own.mixing, own.filters, own.history,
            first, last, intervals, words, state,
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
