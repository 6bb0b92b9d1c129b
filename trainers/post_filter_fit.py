"""Fits a codec's post filter, `post_filter.npz`, anew to a model and a store.

    python -m trainers.post_filter_fit --model FOLDER --store STORE --out FILE

Clips are coded at QPs drawn at random. For each class of samples the weights that leave the least squared error follow
from sums over all of its samples; a class with few of them keeps near what is best for all. The file is part of the
format.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.atomic_files import write_atomically
from codec.inter.filter_sums import Sums, Watch
from codec.inter.intra_boost import intra_boost
from codec.inter.post_filter import LARGEST
from codec.streams import EncodeOptions
from trainers.coded_clips import Progress, clips_of, load_inter_codec, run_tool

_FRAMES = 6  # of a clip
_BOOSTS = 15  # of intra frames: 0 to 14 QPs
_QPS = 2, 61
_KEEP = 300.0  # samples that what is best for all classes counts as

Weights = dict[str, NDArray[np.int16]]


def solve(sums: Sums) -> Weights:
    """What leaves the least squared error, zeros where nothing was seen."""
    solved = {}
    for name, squares in sums.squares.items():
        weights = np.zeros(sums.products[name].shape)
        for band in range(len(weights)):
            weights[band] = _solve_band(squares[band], sums.products[name][band], sums.counts[name][band])
        solved[name] = np.clip(np.round(weights * 1024), -LARGEST, LARGEST).astype(np.int16)
    return solved


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


def fit_filter(
    model: Path, store: Path, file: Path, clips: int = 200, crop: int = 224, seed: int = 0,
    progress: Progress = print,
) -> None:  # fmt: skip
    """Fit filters to `clips` clips of the split "train" and write them to file, all or nothing.

    Raises UsageError where the model's family is not known here or the store has no such clips; BitreelError where it
    is damaged.
    """
    codec = load_inter_codec(model)
    # An encoder that sees a clip's end is sparing with the intra frame of a short one.
    held_back = intra_boost(1000, _FRAMES) / 1000 if codec.codec.segment_frames >= _FRAMES else 1.0
    config, draw = codec.codec.config, np.random.default_rng(seed)
    sums, size = Sums(), 0
    for number, frames in enumerate(clips_of(store, _FRAMES, clips, crop, seed)):
        state = codec.state(crop)
        watch = Watch(state, sums)
        # A short clip stands for a piece of a longer one: its intra frame may be as much finer as any.
        codec.codec.config = replace(config, intra_boost=round(int(draw.integers(_BOOSTS)) / held_back))
        options = EncodeOptions(int(draw.integers(_QPS[0], _QPS[1] + 1)), field=False)
        for coded in codec.code(frames, options, state):
            watch.take(coded.reconstruction)
            size += len(coded.payload)
        if number % 20 == 19 or number == clips - 1:
            progress(f"clip {number + 1} of {clips}: {size} bytes")
    written = io.BytesIO()
    np.savez_compressed(written, **solve(sums))  # type: ignore[arg-type]
    write_atomically(file, written.getvalue())


if __name__ == "__main__":
    run_tool(fit_filter, "post_filter_fit", __doc__, clips=200)
