"""The filter after the decoder: what quantization did to a frame is smoothed before it is shown.

A sample x gets a sum of responses to differences, each a sum over some bounds b of weight · clip(difference, ±b):

- from its neighbours, in pairs that lie opposite to each other and share their weights: the small differences that
  quantization makes count in full, while an edge's are cut off (as in VVC's adaptive loop filter, with more bounds)
- in inter frames, from the base and the other guesses at the same place

The first few pairs, the others and each guess are parts, whose sums may have gains by block: what a stream says of them
(InnVC: `codec/innvc/filter_gains.py`) tells more or less of each from one region to the other.

Weights hang on the sample's class (how busy its surroundings are in steps, in which direction, and how much the frame
changed there), on the QP's octave, on the plane and on whether the frame is an intra frame. They were fitted to footage
by least squares (`trainers.post_filter_fit`), and lie in each codec's `post_filter.npz`, a part of the format. The
encoder says for each block of each plane whether it is filtered. All of it is whole numbers.

Frames are predicted from unfiltered ones. With filtered ones more than half of the gain was lost: a prediction leans to
its guesses with gates of its own, which does there what this filter does for the eye, and what is smoothed again and
again is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.bit_mixing import stored_arrays
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError
from codec.inter.prediction import Prediction
from codec.inter.quantization import LOSSLESS_QP, intra_steps
from codec.threads import side_by_side

BLOCK = 32  # luma samples a side of the block that one flag is for
GUESSES = 4  # that are looked at: the base, and the first of the others
BAND = 9  # QPs that share weights
CLOSE = 4  # pairs, the nearest ones, that are a part; the others are another
GAIN = 64  # of a part that counts as it is
LARGEST = 32767  # weight, in 1024ths: with it no sum leaves 32 bits
PRICE = 7.5  # bits that a squared step of error is worth
SHARES = 0.75, 0.5  # of luma's and chroma's squared error

Samples = NDArray[np.uint8]
Planes = tuple[Samples, Samples]  # luma (H, W), chroma (2, H/2, W/2)
# Of each block, luma's and chroma's (rows, columns, 2 + guesses): close pairs, others, guesses; see `GAIN`
Gains = tuple[NDArray[np.int32], NDArray[np.int32]]
# (classes, pairs, 2 n + 1) and (classes, guesses, 2 m + 1) in 1024ths: to differences of -n..n and -m..m
Responses = tuple[NDArray[np.int32], NDArray[np.int32]]
_PAIRS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (1, 2), (2, 1), (1, -2), (2, -1), (0, 3), (3, 0))
_CONTEXTS = 36  # of flags: intra or inter, plane, neighbours
_START_SEEN = 4


@dataclass(frozen=True)
class Shape:
    """How one kind of plane is filtered.

    cell: samples a side of what has one class. pairs: (P, 2) offsets. near, far: bounds of neighbours' and of guesses'
    differences, in 64ths of a step. levels: bounds of classes, how busy: in 64ths of a step; leans: ratios that tell a
    direction, in 16ths; changes: bounds of how much a frame differs from its base, in 64ths of a step.
    """

    cell: int
    pairs: NDArray[np.int64]
    near: tuple[int, ...]
    far: tuple[int, ...]
    levels: NDArray[np.int64]
    leans: NDArray[np.int64]
    changes: NDArray[np.int64]

    def classes(self, intra: bool) -> int:
        changes = 1 if intra else len(self.changes) + 1
        return changes * (len(self.levels) + 1) * (1 + 4 * len(self.leans))

    def taps(self, guesses: int) -> int:
        return len(self.pairs) * len(self.near) + guesses * len(self.far)

    def bounds(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of neighbours' and guesses' differences, in samples, at a step in 16ths of a sample."""
        near, far = ([max(1, (bound * step + 512) >> 10) for bound in bounds] for bounds in (self.near, self.far))
        return np.array(near, np.int64), np.array(far, np.int64)

    def classify(self, plane: Samples, guesses: Samples, step: int) -> NDArray[np.int64]:
        """The class of each cell: plane (H, W), guesses (G, H, W) → (H/cell, W/cell)."""
        from codec.inter.post_filter_kernels import classify

        found = np.empty((plane.shape[0] // self.cell, plane.shape[1] // self.cell), np.int64)
        classify(plane, guesses, self.cell, step, self.levels, self.leans, self.changes, found)
        return found


def _whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


SHAPES = (
    Shape(
        2, np.array(_PAIRS), (3, 8, 19, 51), (19, 64, 192), _whole(3, 6, 13, 22, 38, 64), _whole(21, 32), _whole(2, 10)
    ),
    Shape(2, np.array(_PAIRS[:6]), (13, 38), (32, 128), _whole(3, 6, 13, 22, 38, 64), _whole(22), _whole(3, 13)),
)


def plane_step(kind: int, qp: int) -> int:
    """Luma's (kind 0) or chroma's step, in 16ths of a sample."""
    return int(intra_steps()[qp, kind])


def weight_shape(kind: int, intra: bool) -> tuple[int, int, int]:
    """(bands, classes, taps) of luma's (kind 0) or chroma's weights."""
    shape = SHAPES[kind]
    return -(-LOSSLESS_QP // BAND), shape.classes(intra), shape.taps(0 if intra else GUESSES)


def weight_name(kind: int, intra: bool) -> str:
    return f"{('luma', 'chroma')[kind]}_{('inter', 'intra')[intra]}"


@lru_cache
def filter_weights(file: Path) -> dict[str, NDArray[np.int16]]:
    """By `weight_name`, in 1024ths, see `weight_shape`. Raises BitreelError where the file is something else."""
    found = stored_arrays(file)
    for kind in range(2):
        for intra in (False, True):
            name = weight_name(kind, intra)
            if name not in found or found[name].shape != weight_shape(kind, intra):
                raise BitreelError(f"'{file}' is damaged or of another version; install bitreel anew")
    return {name: weights.astype(np.int16) for name, weights in found.items()}


@dataclass(frozen=True)
class Picture:
    """A decoded frame: U and V in one. luma: (H, W), chroma: (2, H/2, W/2), all uint8, H and W multiples of 16.

    guesses: luma's (G, H, W) and chroma's (2, G, H/2, W/2); G is 0 for an intra frame, `GUESSES` for others.
    """

    qp: int
    planes: Planes
    guesses: Planes

    @property
    def intra(self) -> bool:
        return not len(self.guesses[0])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        height, width = self.planes[0].shape
        return -(-height // BLOCK), -(-width // BLOCK)


class PostFilter:
    """Filters of all QPs. weights: by `weight_name`, in 1024ths, see `weight_shape`.

    changes: luma's and chroma's, (classes, taps) in 1024ths, that are added in inter frames of all QPs.
    """

    def __init__(
        self, weights: dict[str, NDArray[np.int16]], changes: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
    ) -> None:
        self._weights, self._changes = weights, changes
        self.responses = lru_cache(8)(self._responses)

    def apply(self, picture: Picture, flags: NDArray[np.uint8], gains: Gains | None = None) -> Planes:
        """The picture's planes, filtered where flags (3, rows, columns), of Y, U, V, are set.

        gains: of an inter frame's parts; None for all as they are.
        """
        made = np.empty_like(picture.planes[0]), np.empty_like(picture.planes[1])
        outs = made[0], *made[1]

        def filter_one(number: int) -> None:
            from codec.inter.post_filter_kernels import filter_plane

            kind, plane, guesses = planes[number]
            if not flags[number].any():
                outs[number][:] = plane
                return
            looked = self._looked(picture, kind, plane, guesses)
            own = gains[kind] if gains is not None and not picture.intra else _plain_gains(picture)
            filter_plane(*looked, own, CLOSE, flags[number], BLOCK >> kind, outs[number])

        planes = list(_planes(picture))
        with side_by_side() as threads:
            threads.map(filter_one, range(3))
        return made

    def measure(self, picture: Picture, source: Planes) -> list[PartSums]:
        """Of Y, U and V: what its parts are worth in each block, for an encoder that chooses gains."""
        from codec.inter.post_filter_kernels import measure_parts

        found = []
        for number, (kind, plane, guesses) in enumerate(_planes(picture)):
            parts = 2 + len(guesses)
            sums = PartSums(np.empty((*picture.grid, parts, parts)), np.empty((*picture.grid, parts)))
            wanted = source[1][number - 1] if kind else source[0]
            looked = self._looked(picture, kind, plane, guesses)
            measure_parts(*looked, CLOSE, wanted, BLOCK >> kind, sums.squares, sums.products)
            found.append(sums)
        return found

    def _looked(self, picture: Picture, kind: int, plane: Samples, guesses: Samples) -> tuple[Any, ...]:
        shape = SHAPES[kind]
        classes = shape.classify(plane, guesses, plane_step(kind, picture.qp))
        return plane, guesses, shape.cell, classes, shape.pairs, *self.responses(kind, picture.intra, picture.qp)

    def _responses(self, kind: int, intra: bool, qp: int) -> Responses:
        shape, weights = SHAPES[kind], self._weights[weight_name(kind, intra)][qp // BAND].astype(np.int32)
        if self._changes and not intra:
            weights = np.clip(weights + self._changes[kind], -LARGEST, LARGEST)
        near, far = shape.bounds(plane_step(kind, qp))
        split = len(shape.pairs) * len(near)

        def table(part: NDArray[np.int32], bounds: NDArray[np.int64]) -> NDArray[np.int32]:
            reach = min(int(bounds.max()), 255)
            clipped = np.clip(np.arange(-reach, reach + 1), -bounds[:, None], bounds[:, None])
            by_bound = part.reshape(len(part), part.shape[1] // len(bounds), len(bounds))
            return np.ascontiguousarray(by_bound @ clipped.astype(np.int32), np.int32)

        return table(weights[:, :split], near), table(weights[:, split:], far)


@dataclass(frozen=True)
class PartSums:
    """Of one plane, in squared samples. squares: (rows, columns, parts, parts), sums of the products of two parts.

    products: (rows, columns, parts), sums of each part times what the plane lacks to the source. Parts: see `Gains`.
    """

    squares: NDArray[np.float64]
    products: NDArray[np.float64]


def _planes(picture: Picture) -> Iterator[tuple[int, Samples, Samples]]:
    """Y, U and V: kind, plane (H, W), guesses (G, H, W)."""
    yield 0, picture.planes[0], picture.guesses[0]
    for k in range(2):
        yield 1, picture.planes[1][k], picture.guesses[1][k]


def _plain_gains(picture: Picture) -> NDArray[np.int32]:
    return np.full((*picture.grid, 2 + len(picture.guesses[0])), GAIN, np.int32)


@lru_cache
def shipped_filter(file: Path) -> PostFilter:
    """The filter of a file; see `filter_weights`."""
    return PostFilter(filter_weights(file))


class Flags:
    """Chances of the flags' bits, which go on from frame to frame; anew with each intra frame."""

    def __init__(self) -> None:
        self.chances = np.full(_CONTEXTS, 1 << 15, np.int64)
        self.seen = np.full(_CONTEXTS, _START_SEEN, np.int64)

    def copy(self) -> Flags:
        made = Flags()
        made.chances, made.seen = self.chances.copy(), self.seen.copy()
        return made


class FlagSource(Protocol):
    """Codes or decodes a frame's flags; gives the frame's planes, filtered."""

    def exchange(
        self, post_filter: PostFilter, picture: Picture, flags: Flags, gains: Gains | None = None
    ) -> Planes: ...


class FilterEncoding:
    """Chooses by the source, planes as `Picture.planes`, which blocks are filtered, and codes that."""

    def __init__(self, coder: SymbolEncoder, source: Planes) -> None:
        self._coder, self.source = coder, source

    def exchange(self, post_filter: PostFilter, picture: Picture, flags: Flags, gains: Gains | None = None) -> Planes:
        from codec.inter.post_filter_kernels import code_flags

        chosen = np.ones((3, *picture.grid), np.uint8)
        made = post_filter.apply(picture, chosen, gains)
        saved = np.empty(chosen.shape)
        worth = PRICE / (plane_step(0, picture.qp) / 16) ** 2
        for kind, share in enumerate(SHARES):
            before, after = (self._errors(kind, planes[kind], picture.grid) for planes in (picture.planes, made))
            saved[kind : 2 * kind + 1] = worth * share * (before - after)
        intervals = np.empty(chosen.size, np.uint32)
        given = intervals, np.zeros(0, np.uint16), np.zeros(2, np.uint64)
        code_flags(False, chosen, saved, _first(picture), flags.chances, flags.seen, *given)
        self._coder.encode_intervals(intervals)
        kept = []
        for kind in range(2):
            size, (height, width) = BLOCK >> kind, made[kind].shape[-2:]
            on = chosen[kind : 2 * kind + 1].repeat(size, 1).repeat(size, 2)[:, :height, :width]
            kept.append(np.where(on if kind else on[0], made[kind], picture.planes[kind]))
        return kept[0], kept[1]

    def _errors(self, kind: int, planes: Samples, grid: tuple[int, int]) -> NDArray[np.float64]:
        """Squared error of each block, (planes, rows, columns)."""
        size = BLOCK >> kind
        error = (planes.astype(np.int32) - self.source[kind]) ** 2
        height, width = error.shape[-2:]
        wide = np.zeros((1 + kind, grid[0] * size, grid[1] * size))
        wide[:, :height, :width] = error
        return wide.reshape(-1, grid[0], size, grid[1], size).sum((2, 4))


class FilterDecoding:
    """Finds the flags in a packet."""

    def __init__(self, coder: SymbolDecoder) -> None:
        self._coder = coder

    def exchange(self, post_filter: PostFilter, picture: Picture, flags: Flags, gains: Gains | None = None) -> Planes:
        from codec.inter.post_filter_kernels import code_flags

        found = np.zeros((3, *picture.grid), np.uint8)
        none, saved = np.zeros(0, np.uint32), np.zeros((0, 0, 0))
        learned = _first(picture), flags.chances, flags.seen
        self._coder.run(lambda words, state: code_flags(True, found, saved, *learned, none, words, state))
        return post_filter.apply(picture, found, gains)


def _first(picture: Picture) -> int:
    return 0 if picture.intra else _CONTEXTS // 2


def picture_of(qp: int, prediction: Prediction, rebuilt: list[Tensor]) -> Picture:
    """A rebuilt frame, luma (H, W) and chroma (2, H/2, W/2) whole numbers 0..255, with what it was predicted from."""
    planes = as_samples((rebuilt[0], rebuilt[1]))
    used = (prediction.base, *prediction.guesses)[:GUESSES] if prediction.guesses else ()
    height, width = planes[0].shape
    luma = np.empty((len(used), height, width), np.uint8)
    chroma = np.empty((2, len(used), height // 2, width // 2), np.uint8)
    for number, guess in enumerate(used):
        luma[number], chroma[:, number] = as_samples((guess[0][0], guess[1][0]))
    return Picture(qp, planes, (luma, chroma))


def as_samples(planes: tuple[Tensor, Tensor]) -> Planes:
    """Whole numbers 0..255 of any type."""
    luma, chroma = (np.ascontiguousarray(plane.to(torch.uint8).cpu().numpy()) for plane in planes)
    return luma, chroma
