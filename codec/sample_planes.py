"""What a plane's samples are predicted from: planes of one size, and which of their samples the filters look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.sample_coding import Planes
from codec.sample_kernels import PAD, TOP

Tap = tuple[int, int, int]  # plane of the stack, rows down, columns to the right

GUESSES = 3  # that are looked at
_BOTTOM = 1
_NEAR = [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0)]
_FAR = [(-2, 1), (-2, -1), (-1, -2), (-1, 2), (0, -3), (-3, 0)]
_CROSS = [(0, -1), (0, 1), (-1, 0), (1, 0)]
_ROUND = [*_CROSS, (-1, -1), (-1, 1), (1, -1), (1, 1)]


@dataclass(frozen=True)
class Stack:
    """samples: planes with `TOP` rows above, one below and `PAD` columns on each side, one after the other, int32.

    Plane 0 is the one to be coded, filled as it is. layout, all int64: inter (0 or 1), the anchor as an offset from a
    sample of plane 0; kind (0 luma, 1 U, 2 V); offsets of planes: three guesses and two side planes. taps: (n, 2)
    offsets; a filter sees the first one's sample less the second one's.
    """

    samples: NDArray[np.int32]
    layout: NDArray[np.int64]
    taps: NDArray[np.int64]


def stack_planes(
    kind: int, planes: Planes, guesses: list[Planes] | None, residuals: list[NDArray[np.int16]], shape: tuple[int, int]
) -> Stack:
    """What plane `kind` is coded with. planes: those before it are known, residuals: theirs; guesses: all or None."""
    blank = np.zeros(shape, np.int32)
    stack: list[NDArray[Any]] = [blank + 128]
    taps: list[tuple[Tap, Tap]]
    if guesses is None:
        anchor: Tap = (0, -1, 0)
        near = _NEAR if kind else _NEAR + _FAR
        taps = [((0, *near[0]), anchor)]
        for down, right in near[2:]:  # less the neighbour that is as far away but one
            taps.append(((0, down, right), (0, 0, -1) if down == 0 else anchor if down == -1 else (0, -1, right)))
    else:
        anchor = (1, 0, 0)
        stack = [blank + guesses[0][kind][:1], *(guess[kind] for guess in guesses)]
        near = _NEAR if kind else _NEAR + _FAR[:2]
        taps = [((0, *place), (1, *place)) for place in near]
        taps += [((1, *place), anchor) for place in _ROUND]
        taps += [((other, 0, 0), anchor) for other in (2, 3)]
        if not kind:
            taps += [((3, *place), (3, 0, 0)) for place in _CROSS]

    first = len(stack)
    if kind:
        stack.append(_halved(planes[0], shape) - (0 if guesses is None else _halved(guesses[0][0], shape)))
    if kind == 2:
        stack.append(planes[1].astype(np.int32) - (0 if guesses is None else guesses[0][1]))
    for number in range(first, len(stack)):
        if guesses is None:
            places = [(0, 0), (0, -1), (-1, -1), (0, 1), (1, 0), (-1, 1)]
            taps += [((number, *place), (number, -1, 0)) for place in places]
        else:
            taps += [((number, *place), (len(stack), 0, 0)) for place in [(0, 0), *_CROSS]]
    stack.append(blank)

    sides = [first, first]
    if kind:
        sides = [len(stack), len(stack) + 1]
        stack.append(_halved(residuals[0], shape))
        stack.append(_halved(np.abs(residuals[0]), shape) if kind == 1 else residuals[1])

    stride = shape[1] + 2 * PAD
    size = (shape[0] + TOP + _BOTTOM) * stride

    def offset(tap: Tap) -> int:
        return tap[0] * size + tap[1] * stride + tap[2]

    wide = [np.pad(plane.astype(np.int32), ((TOP, _BOTTOM), (PAD, PAD)), mode="edge") for plane in stack]
    planes_at = [number * size for number in ([0, 0, 0] if guesses is None else [1, 2, 3]) + sides]
    return Stack(
        np.stack(wide).reshape(-1),
        np.array([guesses is not None, offset(anchor), kind, *planes_at], np.int64),
        np.array([[offset(one), offset(other)] for one, other in taps], np.int64),
    )


def _halved(plane: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Means of 2x2 samples, rounded; borders repeated where sides are odd."""
    height, width = plane.shape
    even = np.pad(plane.astype(np.int32), ((0, height % 2), (0, width % 2)), mode="edge")
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) >> 2
