"""Fits the post filter, `codec/innvc/post_filter.npz`, anew to a model and a store.

    python -m trainers.post_filter_fit --model FOLDER --store STORE --out FILE

Clips are coded at QPs drawn at random. For each class of samples the weights that leave the least squared error follow
from sums over all of its samples; a class with few of them keeps near what is best for all. The file is part of the
format.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from codec.api import load_codec
from codec.atomic_files import write_atomically
from codec.errors import BitreelError, UsageError
from codec.frames import Frame, VideoFormat
from codec.innvc.coding_state import CodingState
from codec.innvc.encoder import encode_frames
from codec.innvc.model import InnVC
from codec.innvc.post_filter import (
    BAND,
    SHAPES,
    FilterEncoding,
    FlagSource,
    Picture,
    Planes,
    Samples,
    picture_of,
    plane_step,
    weight_name,
    weight_shape,
)
from codec.innvc.prediction import Prediction
from codec.streams import EncodeOptions
from pipeline.loader import ClipLoader

_FRAMES = 6  # of a clip
_BOOSTS = 120  # of intra frames, before the encoder holds them back for a short clip: 0 to 14 QPs
_QPS = 2, 61
_KEEP = 300.0  # samples that what is best for all classes counts as
_LARGEST = 32767  # of a weight, in 1024ths

Weights = dict[str, NDArray[np.int16]]


class Sums:
    """Normal equations of all filters."""

    def __init__(self) -> None:
        self._squares: dict[str, NDArray[np.float64]] = {}
        self._products: dict[str, NDArray[np.float64]] = {}
        self._counts: dict[str, NDArray[np.float64]] = {}
        for kind in range(2):
            for intra in (False, True):
                name, (bands, classes, taps) = weight_name(kind, intra), weight_shape(kind, intra)
                self._squares[name] = np.zeros((bands, classes, taps, taps))
                self._products[name] = np.zeros((bands, classes, taps))
                self._counts[name] = np.zeros((bands, classes))

    def add(self, picture: Picture, source: Planes) -> None:
        """Take in a frame as it was before the filter, and what it should be, planes as the picture's."""
        self._add_plane(picture, 0, picture.planes[0], picture.guesses[0], source[0])
        for k in range(2):
            self._add_plane(picture, 1, picture.planes[1][k], picture.guesses[1][k], source[1][k])

    def _add_plane(self, picture: Picture, kind: int, plane: Samples, guesses: Samples, source: Samples) -> None:
        from codec.innvc.post_filter_kernels import measure_taps

        shape, name, band = SHAPES[kind], weight_name(kind, picture.intra), picture.qp // BAND
        step = plane_step(kind, picture.qp)
        taps = np.empty((*plane.shape, shape.taps(len(guesses))), np.int32)
        measure_taps(plane, guesses, shape.pairs, *shape.bounds(step), taps)
        classes = shape.classify(plane, guesses, step).repeat(shape.cell, 0).repeat(shape.cell, 1).reshape(-1)
        order = np.argsort(classes, kind="stable")
        found = taps.reshape(-1, taps.shape[-1])[order].astype(np.float32)
        off = (source.astype(np.float32) - plane).reshape(-1)[order]
        ends = np.searchsorted(classes[order], np.arange(len(self._squares[name][band]) + 1))
        for number in range(len(ends) - 1):
            part = slice(ends[number], ends[number + 1])
            if part.stop > part.start:
                self._squares[name][band, number] += found[part].T @ found[part]
                self._products[name][band, number] += found[part].T @ off[part]
                self._counts[name][band, number] += part.stop - part.start

    def solve(self) -> Weights:
        """What leaves the least squared error, zeros where nothing was seen."""
        solved = {}
        for name, squares in self._squares.items():
            weights = np.zeros(self._products[name].shape)
            for band in range(len(weights)):
                weights[band] = self._solve_band(squares[band], self._products[name][band], self._counts[name][band])
            solved[name] = np.clip(np.round(weights * 1024), -_LARGEST, _LARGEST).astype(np.int16)
        return solved

    @staticmethod
    def _solve_band(
        squares: NDArray[np.float64], products: NDArray[np.float64], counts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        total, samples = squares.sum(0), counts.sum()
        if not samples:
            return np.zeros_like(products)
        usual = np.diag(total) / samples
        # Bounds may fall together, and then so do taps: a little of a ridge shares the weight between them.
        best = np.linalg.solve(total + np.diag(1e-3 * np.diag(total) + 1e-6 * samples), products.sum(0))
        held = np.diag(_KEEP * usual + 1e-6 * samples / len(counts))
        return np.stack([np.linalg.solve(s + held, p + held @ best) for s, p in zip(squares, products, strict=True)])


class Watched(CodingState):
    """A state that has sums take in each frame as it is before the filter. Only for coding without a field."""

    def __init__(self, codec: InnVC, fmt: VideoFormat, sums: Sums) -> None:
        super().__init__(codec, fmt)
        self.sums = sums

    def filtered(self, flags: FlagSource, qp: int, prediction: Prediction, rebuilt: list[Tensor]) -> list[Tensor]:
        assert isinstance(flags, FilterEncoding)
        self.sums.add(picture_of(qp, prediction, rebuilt), flags.source)
        return super().filtered(flags, qp, prediction, rebuilt)


def fit_filter(
    model: Path, store: Path, file: Path, clips: int = 200, crop: int = 224, seed: int = 0,
    progress: Callable[[str], object] = print,
) -> None:  # fmt: skip
    """Fit filters to `clips` clips of the split "train" and write them to file, all or nothing.

    Raises UsageError where the model is no InnVC or the store has no such clips; BitreelError where it is damaged.
    """
    codec = load_codec(model)
    if not isinstance(codec, InnVC):
        raise UsageError(f"'{model}' is no model of the family innvc")
    loader = ClipLoader(store, split="train", clip_frames=_FRAMES, crop=crop, batch_size=1, seed=seed)
    config, draw = codec.config, np.random.default_rng(seed)
    sums, size = Sums(), 0
    for number in range(clips):
        batch = loader.batch(number)
        planes = batch.luma[0, :, 0].numpy(), batch.chroma[0].numpy()
        frames = [Frame(y.copy(), uv[0].copy(), uv[1].copy()) for y, uv in zip(*planes, strict=True)]
        state = Watched(codec, VideoFormat(crop, crop), sums)
        # A short clip stands for a piece of a longer one: its intra frame may be as much finer as any.
        codec.config = replace(config, intra_boost=int(draw.integers(_BOOSTS)))
        options = EncodeOptions(int(draw.integers(_QPS[0], _QPS[1] + 1)), field=False)
        coded = list(encode_frames(codec, frames, state.format, options, state))
        size += sum(len(frame.payload) for frame in coded)
        if number % 20 == 19 or number == clips - 1:
            progress(f"clip {number + 1} of {clips}: {size} bytes")
    written = io.BytesIO()
    np.savez_compressed(written, **sums.solve())  # type: ignore[arg-type]
    write_atomically(file, written.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--store", type=Path, required=True, help="clips, as `bitreel ingest` makes them")
    parser.add_argument("--out", type=Path, required=True, help="file to write; one that is there is replaced")
    parser.add_argument("--clips", type=int, default=200, help="how many clips to code")
    parser.add_argument("--crop", type=int, default=224, help="side of the pictures, a multiple of 16")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        fit_filter(
            given.model, given.store, given.out, given.clips, given.crop, given.seed,
            lambda line: print(line, flush=True),
        )  # fmt: skip
    except BitreelError as error:
        print(f"post_filter_fit: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
