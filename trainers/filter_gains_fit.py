"""Makes `filter_gains.npz` for InnVC: how the field's values become gains of the post filter's parts.

    python -m trainers.filter_gains_fit --model FOLDER --store STORE --out FILE

Clips are coded at QPs drawn at random. Then in turns: for each place of a clip the values that save most, and the map
that with these values saves most. The file is part of the format.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.atomic_files import write_atomically
from codec.errors import UsageError
from codec.frames import Frame
from codec.innvc.filter_gains import CHANNELS, CONTEXTS, LARGEST, PARTS, GainChances, Values, Wanted, code_values
from codec.innvc.filter_gains_kernels import choose_gains
from codec.innvc.segment_filter import gather, weigh
from codec.inter.intra_boost import intra_boost
from codec.inter.post_filter import GAIN, FilterEncoding, FlagSource, Gains, PartSums, Picture
from codec.streams import EncodeOptions
from trainers.coded_clips import Progress, clips_of, load_inter_codec, run_tool

_FRAMES = 16  # of a clip: a segment
_BOOSTS = 15  # of intra frames: 0 to 14 QPs
_QPS = 6, 58
_TURNS = 16
_SWEEPS = 3
# What the map begins with, in 64ths of (close pairs, others, base, three guesses): more of the neighbours, more of the
# guesses, close pairs for others. And the chance that a value is not zero, where that of the segment before was zero or
# was not; that one is negative; that it is larger.
_FIRST = ((16, 16, 0, 0, 0, 0), (0, 0, 16, 16, 16, 16), (16, -16, 0, 0, 0, 0))
_CHANCES = (0.25, 0.6, 0.5, 0.35)

Basis = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """A coded clip. bits: of its whole stream."""

    wanted: Wanted
    bits: float


def fit_gains(
    model: Path, store: Path, file: Path, clips: int = 120, crop: int = 224, seed: int = 0,
    progress: Progress = print,
) -> None:  # fmt: skip
    """Fit the map and the values' chances to `clips` clips of the split "train", and write them, all or nothing.

    Raises UsageError where the model is not InnVC's or the store has no such clips; BitreelError where it is damaged.
    """
    segments = _code_clips(model, store, clips, crop, seed, progress)
    turns = count(1)
    basis, chances = fit_map(
        segments, lambda share: progress(f"turn {next(turns)} of {_TURNS}: saves {100 * share:.3f} % of the bits")
    )
    whole = np.round(basis).astype(np.int16)
    written = io.BytesIO()
    np.savez_compressed(written, basis=whole, chances=np.round(chances).astype(np.uint16))
    write_atomically(file, written.getvalue())


def fit_map(segments: Sequence[Segment], on_turn: Callable[[float], object]) -> tuple[Basis, NDArray[np.float64]]:
    """The map (CHANNELS, 2, PARTS) in 64ths, and the chances of its values, (CHANNELS · CONTEXTS,) in 65536ths.

    on_turn: told the mean share of its bits that a clip saves, values paid for.
    """
    basis = np.tile(np.array(_FIRST, np.float64)[:, None], (1, 2, 1))
    chances = _first_chances()
    for turn in range(_TURNS):
        found = [_choose(segment, basis, chances) for segment in segments]
        saved = [segment.wanted.by_values(basis).saved(values) for segment, values in zip(segments, found, strict=True)]
        chances, spent = _learn_chances(found, chances)
        on_turn(float(np.mean([(save - cost) / s.bits for s, save, cost in zip(segments, saved, spent, strict=True)])))
        if turn + 1 < _TURNS:
            basis = _solve(segments, found)
    return basis, chances


def _code_clips(model: Path, store: Path, clips: int, crop: int, seed: int, progress: Progress) -> list[Segment]:
    codec = load_inter_codec(model)
    if codec.codec.family != "innvc":
        raise UsageError(f"'{model}' is of the family {codec.codec.family}; only innvc's filter has such gains")
    config, draw = codec.codec.config, np.random.default_rng(seed)
    held_back = intra_boost(1000, _FRAMES) / 1000
    segments = []
    for number, frames in enumerate(clips_of(store, _FRAMES, clips, crop, seed)):
        state, sums, bits = codec.state(crop), list[list[PartSums]](), 0.0

        def take(shown: Frame, picture: Picture, flags: FlagSource, gains: Gains | None) -> None:
            if isinstance(flags, FilterEncoding) and not picture.intra:
                sums.append(weigh(state.post_filter.measure(picture, flags.source), picture.qp))  # noqa: B023

        state.watch = take
        # A short clip stands for a piece of a longer one: its intra frame may be as much finer as any.
        codec.codec.config = replace(config, intra_boost=round(int(draw.integers(_BOOSTS)) / held_back))
        options = EncodeOptions(int(draw.integers(_QPS[0], _QPS[1] + 1)), field=False)
        for coded in codec.code(frames, options, state):
            bits += 8.0 * len(coded.payload)
        grid = sums[0][0].products.shape[:2]
        plain = np.full((*grid, PARTS), GAIN, np.int32)
        segments.append(Segment(gather(sums, (plain, plain)), bits))
        if number % 10 == 9 or number == clips - 1:
            progress(f"clip {number + 1} of {clips}")
    return segments


def _choose(segment: Segment, basis: Basis, chances: NDArray[np.float64]) -> Values:
    wanted = segment.wanted.by_values(basis)
    values = np.zeros((CHANNELS, *wanted.products.shape[:2]), np.int64)
    given = np.ascontiguousarray(wanted.squares), np.ascontiguousarray(wanted.products)
    choose_gains(*given, np.zeros_like(values), LARGEST, np.round(chances).astype(np.int64), _SWEEPS, values)
    return values


def _first_chances() -> NDArray[np.float64]:
    zero, kept, negative, larger = _CHANCES
    return 65536 * np.tile([zero] * 3 + [kept] * 3 + [negative] * 3 + [larger] * 4, CHANNELS)


def _learn_chances(found: Sequence[Values], chances: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[float]]:
    """The mean of chances that go on from clip to clip, and the bits that each clip's values take."""
    grid = found[0].shape[1:]
    going, total, spent = GainChances((grid[0], grid[1])), np.zeros(CHANNELS * CONTEXTS), []
    going.chances = np.round(chances).astype(np.int64)
    for values in found:
        intervals = np.empty(values.size * (LARGEST + 2), np.uint32)
        used = code_values(going, values.copy(), intervals)
        spent.append(float((16 - np.log2(intervals[:used] >> 16)).sum()))
        total += going.chances
    return total / len(found), spent


def _solve(segments: Sequence[Segment], found: Sequence[Values]) -> Basis:
    """The map that saves most with these values; each clip counts by its share of saved bits."""
    size = CHANNELS * 2 * PARTS
    left, right = np.zeros((size, size)), np.zeros(size)
    for segment, values in zip(segments, found, strict=True):
        z, wanted = values.astype(np.float64), segment.wanted
        left += np.einsum("kyx,lyx,yxpq->kplq", z, z, wanted.squares, optimize=True).reshape(size, size) / segment.bits
        right += np.einsum("kyx,yxp->kp", z, wanted.products).reshape(size) / segment.bits
    ridge = 1e-6 * np.trace(left) / size * np.eye(size)
    return GAIN * np.linalg.solve(left + ridge, right).reshape(CHANNELS, 2, PARTS)


if __name__ == "__main__":
    run_tool(fit_gains, "filter_gains_fit", __doc__, clips=120)
