"""Fitting to one video: the encoder's settings are tried out on it, and the post filter learns from what comes out.

Nothing is guessed: each step codes the whole video, and what takes the fewest bits at equal PSNR-YUV is kept. What a
decibel is worth is seen from an encode at another QP. The settings need no word in the stream; the filter's changes are
sent with each intra frame (`filter_changes`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from codec.api import FitSettings
from codec.errors import UsageError
from codec.frames import Frame, VideoFormat
from codec.innvc.coding_state import CodingState
from codec.innvc.encoder import encode_frames
from codec.innvc.filter_fit import fit_changes
from codec.innvc.tuning import ONE_PASS, Tuning
from codec.inter.filter_sums import Sums, Watch
from codec.inter.quantization import LOSSLESS_QP
from codec.metrics import psnr, psnr_yuv
from codec.streams import EncodeOptions

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

# QPs that an intra frame's boost is changed by, and how references and QPs come in turn: (period, boosts).
_INTRA = (-12, -8, -4, 0, 4, 8, 12)
_TURNS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (8, (0,)), (4, (0,)), (2, (1, -1)), (4, (4, -1, 2, -1)), (4, (5, -1, 2, -1)), (8, (5, -1, 1, -1, 3, -1, 1, -1)),
)  # fmt: skip
_OWN = _INTRA.index(0), 1  # places in the two
_FIRST_GUESS = _INTRA.index(-4), 4
_QP_STEP = 2  # from one encode to the one that tells what a decibel is worth
_USUAL_WORTH = 0.2  # logarithm of bits a decibel of PSNR-YUV, where too few steps are allowed to see it
_LUMA_SHARE = psnr_yuv(1, 0, 0)


def fit(
    codec: InnVC,
    frames: Sequence[Frame],
    fmt: VideoFormat,
    options: EncodeOptions,
    settings: FitSettings,
    on_step: Callable[[int, float], None] | None,
) -> InnVC:
    """See `Codec.fit`."""
    if not len(frames):
        raise UsageError("can't fit to a video without frames")
    fitted = copy.deepcopy(codec)
    if options.qp == LOSSLESS_QP:
        return fitted  # whose streams have neither
    search = _Search(_Video(codec, frames, fmt, options), on_step)
    tuning = search.best(settings.steps - 1)
    sums = Sums()
    outcome = search.video.code(tuning, sums)
    search.tell(outcome)
    intra_frames = -(-len(frames) // options.intra_period) if options.intra_period > 0 else 1
    changes = fit_changes(sums, outcome.worth_of_errors(search.worth), intra_frames)
    fitted.tuning = replace(tuning, changes=changes)
    return fitted


@dataclass(frozen=True)
class _Outcome:
    """What an encode comes to. quality: the frames' mean PSNR-YUV, dB; errors: luma's and chroma's, squared."""

    bits: int
    quality: float
    errors: tuple[float, float]

    def worth_of_errors(self, worth: float) -> tuple[float, float]:
        """Bits that a squared error of luma and of chroma is worth, where a decibel is worth `worth` in log(bits)."""
        decibel, (luma, chroma) = self.bits * worth * 10 / math.log(10), self.errors
        return decibel * _LUMA_SHARE / max(luma, 1.0), decibel * (1 - _LUMA_SHARE) / max(chroma, 1.0)


@dataclass(frozen=True)
class _Video:
    codec: InnVC
    frames: Sequence[Frame]
    format: VideoFormat
    options: EncodeOptions

    def code(self, tuning: Tuning, sums: Sums | None = None, qp: int | None = None) -> _Outcome:
        """sums: take in all frames. qp: in the place of the options'."""
        state = CodingState(self.codec, self.format)
        watch = None if sums is None else Watch(state, sums)
        options = self.options if qp is None else replace(self.options, qp=qp)
        bits, quality, errors = 0, 0.0, np.zeros(2)
        coded = encode_frames(self.codec, self.frames, self.format, options, state, tuning)
        for frame, made in zip(self.frames, coded, strict=True):
            shown = made.reconstruction
            planes = (frame.y, shown.y), (frame.u, shown.u), (frame.v, shown.v)
            bits += 8 * len(made.payload)
            quality += psnr_yuv(*(psnr(*pair) for pair in planes))
            for number, (source, other) in enumerate(planes):
                errors[min(number, 1)] += float(np.square(source.astype(np.int32) - other).sum())
            if watch is not None:
                watch.take(shown)
        return _Outcome(bits, quality / len(self.frames), (float(errors[0]), float(errors[1])))


class _Search:
    """The best settings that some encodes find: from a good guess on, always to a neighbour that is better.

    worth: of a decibel, in log(bits).
    """

    def __init__(self, video: _Video, on_step: Callable[[int, float], None] | None) -> None:
        self.video, self.worth = video, _USUAL_WORTH
        self._on_step, self._step = on_step, 0
        self._first: _Outcome | None = None

    def tell(self, outcome: _Outcome) -> float:
        """An encode is done. Gives the bits that it would take at the first one's quality."""
        self._first = self._first or outcome
        bits = outcome.bits * math.exp(self.worth * (self._first.quality - outcome.quality))
        if self._on_step is not None:
            self._on_step(self._step, bits)
        self._step += 1
        return bits

    def best(self, steps: int) -> Tuning:
        codec = self.video.codec
        if not steps:
            return ONE_PASS
        first = self.video.code(_tuning(codec, _OWN))
        costs = {_OWN: self.tell(first)}
        left = steps - 1
        if left > 1:
            self._see_worth(first)
            left -= 1
        for _, place in zip(range(left), _places(costs), strict=False):
            costs[place] = self.tell(self.video.code(_tuning(codec, place)))
        return _tuning(codec, min(costs, key=costs.__getitem__))

    def _see_worth(self, first: _Outcome) -> None:
        qp = int(self.video.options.qp)
        qp += _QP_STEP if qp < LOSSLESS_QP / 2 else -_QP_STEP
        other = self.video.code(_tuning(self.video.codec, _OWN), qp=qp)
        if (other.quality - first.quality) * (other.bits - first.bits) > 0:
            self.worth = math.log(other.bits / first.bits) / (other.quality - first.quality)
        self.tell(other)


def _places(costs: dict[tuple[int, int], float]) -> Iterator[tuple[int, int]]:
    """Places to look at; costs has what was found at those that were given before."""
    yield _FIRST_GUESS
    moved = True
    while moved:
        intra, turn = best = min(costs, key=costs.__getitem__)
        moved = False
        for place in ((intra + 1, turn), (intra, turn + 1), (intra - 1, turn), (intra, turn - 1)):
            if place not in costs and 0 <= place[0] < len(_INTRA) and 0 <= place[1] < len(_TURNS):
                yield place
                moved = True
                if costs[place] < costs[best]:
                    break


def _tuning(codec: InnVC, place: tuple[int, int]) -> Tuning:
    period, boosts = _TURNS[place[1]]
    return Tuning(max(codec.config.intra_boost + _INTRA[place[0]], 0), period, boosts)
