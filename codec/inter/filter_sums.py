"""What filters are fitted from: sums over the samples of coded frames, from which least squares follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.frames import Frame
from codec.inter.post_filter import (
    BAND,
    BLOCK,
    CLOSE,
    GAIN,
    SHAPES,
    FilterEncoding,
    FlagSource,
    Gains,
    Picture,
    Planes,
    Samples,
    Shape,
    plane_step,
    weight_name,
    weight_shape,
)
from codec.inter.state import InterState


class Sums:
    """Normal equations of all filters, each by `weight_name`.

    squares: (bands, classes, taps, taps); products: (bands, classes, taps); counts of samples: (bands, classes).
    """

    def __init__(self) -> None:
        self.squares: dict[str, NDArray[np.float64]] = {}
        self.products: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.float64]] = {}
        for kind in range(2):
            for intra in (False, True):
                name, (bands, classes, taps) = weight_name(kind, intra), weight_shape(kind, intra)
                self.squares[name] = np.zeros((bands, classes, taps, taps))
                self.products[name] = np.zeros((bands, classes, taps))
                self.counts[name] = np.zeros((bands, classes))

    def add(self, picture: Picture, source: Planes, gains: Gains | None = None) -> None:
        """Take in a frame as it was before the filter, and what it should be, planes as the picture's.

        gains: that its filter's parts have; what follows from the sums then counts on them.
        """
        told = (None, None) if gains is None or picture.intra else gains
        self._add_plane(picture, 0, picture.planes[0], picture.guesses[0], source[0], told[0])
        for k in range(2):
            self._add_plane(picture, 1, picture.planes[1][k], picture.guesses[1][k], source[1][k], told[1])

    def _add_plane(
        self, picture: Picture, kind: int, plane: Samples, guesses: Samples, source: Samples,
        gains: NDArray[np.int32] | None,
    ) -> None:  # fmt: skip
        from codec.inter.post_filter_kernels import measure_taps

        shape, name, band = SHAPES[kind], weight_name(kind, picture.intra), picture.qp // BAND
        step = plane_step(kind, picture.qp)
        taps = np.empty((*plane.shape, shape.taps(len(guesses))), np.int32)
        measure_taps(plane, guesses, shape.pairs, *shape.bounds(step), taps)
        classes = shape.classify(plane, guesses, step).repeat(shape.cell, 0).repeat(shape.cell, 1).reshape(-1)
        order = np.argsort(classes, kind="stable")
        weighed = taps.astype(np.float32)
        if gains is not None:
            weighed *= _tap_gains(shape, gains, kind, plane.shape)
        found = weighed.reshape(-1, taps.shape[-1])[order]
        off = (source.astype(np.float32) - plane).reshape(-1)[order]
        ends = np.searchsorted(classes[order], np.arange(len(self.squares[name][band]) + 1))
        for number in range(len(ends) - 1):
            part = slice(ends[number], ends[number + 1])
            if part.stop > part.start:
                self.squares[name][band, number] += found[part].T @ found[part]
                self.products[name][band, number] += found[part].T @ off[part]
                self.counts[name][band, number] += part.stop - part.start


def _tap_gains(shape: Shape, gains: NDArray[np.int32], kind: int, size: tuple[int, ...]) -> NDArray[np.float32]:
    """What each sample's taps are multiplied by, (H, W, taps)."""
    pairs = np.where(np.arange(len(shape.pairs)) < CLOSE, 0, 1).repeat(len(shape.near))
    guesses = np.arange(2, gains.shape[-1]).repeat(len(shape.far))
    by_tap = (gains / np.float32(GAIN))[..., np.concatenate((pairs, guesses))]
    cell = BLOCK >> kind
    found: NDArray[np.float32] = by_tap.repeat(cell, 0).repeat(cell, 1)[: size[0], : size[1]].astype(np.float32)
    return found


class Watch:
    """Takes in what a state's frames were before the filter, once it is told which of them were kept."""

    def __init__(self, state: InterState, sums: Sums) -> None:
        self.sums = sums
        self._tried: list[tuple[Frame, Picture, Planes, Gains | None]] = []  # with what was tried out on forks
        state.watch = self._note

    def _note(self, shown: Frame, picture: Picture, flags: FlagSource, gains: Gains | None) -> None:
        if isinstance(flags, FilterEncoding):  # others come again when they are filtered
            self._tried.append((shown, picture, flags.source, gains))

    def take(self, shown: Frame) -> None:
        """Have the sums take in the frame of which this very reconstruction was kept; forget what else was tried."""
        for frame, picture, source, gains in self._tried:
            if frame is shown:
                self.sums.add(picture, source, gains)
        self._tried.clear()
