"""Fitting to one video: the encoder's settings are tried out on it, and the post filter learns from what comes out.

Nothing is guessed: each step codes the whole video, and what comes out best in bits and squared error is kept. The
settings need no word in the stream; the filter's changes are sent with each intra frame (`filter_changes`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from codec.api import FitSettings
from codec.errors import UsageError
from codec.frames import Frame, VideoFormat
from codec.innvc.coding_state import CodingState
from codec.innvc.encoder import encode_frames
from codec.innvc.filter_fit import fit_changes
from codec.innvc.tuning import ONE_PASS, Tuning
from codec.inter.filter_sums import Sums, Watch
from codec.inter.post_filter import PRICE, SHARES
from codec.inter.quantization import LOSSLESS_QP, step_size
from codec.streams import EncodeOptions

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

# QPs that an intra frame's boost is changed by, and how references and QPs come in turn: (period, boosts).
_INTRA = (-12, -8, -4, 0, 4)
_TURNS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (4, (0,)), (2, (1, -1)), (2, (2, -1)), (2, (3, -1)), (4, (4, -1, 2, -1)), (4, (5, -1, 2, -1)),
)  # fmt: skip
_FIRST_GUESS = 2, 2  # places in the two, tried after the model's own


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
    video = _Video(codec, frames, fmt, options)
    tuning = _search(video, settings.steps - 1, on_step)
    sums = Sums()
    cost = video.cost(tuning, sums)
    if on_step is not None:
        on_step(settings.steps - 1, cost)
    intra_frames = -(-len(frames) // options.intra_period) if options.intra_period > 0 else 1
    fitted.tuning = replace(tuning, changes=fit_changes(sums, int(options.qp), intra_frames))
    return fitted


@dataclass(frozen=True)
class _Video:
    codec: InnVC
    frames: Sequence[Frame]
    format: VideoFormat
    options: EncodeOptions

    def cost(self, tuning: Tuning, sums: Sums | None = None) -> float:
        """Bits of the video, and its squared error at what that is worth. sums: take in all frames."""
        state = CodingState(self.codec, self.format)
        watch = None if sums is None else Watch(state, sums)
        bits, error = 0, 0.0
        coded = encode_frames(self.codec, self.frames, self.format, self.options, state, tuning)
        for frame, made in zip(self.frames, coded, strict=True):
            bits += 8 * len(made.payload)
            error += _squared_error(frame, made.reconstruction)
            if watch is not None:
                watch.take(made.reconstruction)
        return bits + PRICE / float(step_size(torch.tensor(self.options.qp))) ** 2 * error


def _search(video: _Video, steps: int, on_step: Callable[[int, float], None] | None) -> Tuning:
    """The best settings that so many encodes find: from a good guess on, always to a neighbour that is better."""
    costs: dict[tuple[int, int], float] = {}
    best = _INTRA.index(0), 0
    for step, place in zip(range(steps), _places(costs, best), strict=False):
        costs[place] = video.cost(_tuning(video.codec, place))
        if on_step is not None:
            on_step(step, costs[place])
    return _tuning(video.codec, min(costs, key=costs.__getitem__)) if costs else ONE_PASS


def _places(costs: dict[tuple[int, int], float], first: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Places to look at; costs has what was found at those that were given before."""
    yield first
    yield _FIRST_GUESS
    moved = True
    while moved:
        intra, turn = best = min(costs, key=costs.__getitem__)
        moved = False
        for place in ((intra, turn + 1), (intra - 1, turn), (intra, turn - 1), (intra + 1, turn)):
            if place not in costs and 0 <= place[0] < len(_INTRA) and 0 <= place[1] < len(_TURNS):
                yield place
                moved = True
                if costs[place] < costs[best]:
                    break


def _tuning(codec: InnVC, place: tuple[int, int]) -> Tuning:
    period, boosts = _TURNS[place[1]]
    return Tuning(max(codec.config.intra_boost + _INTRA[place[0]], 0), period, boosts)


def _squared_error(frame: Frame, shown: Frame) -> float:
    """Weighted as PSNR-YUV weighs luma and chroma."""
    planes = (SHARES[0], frame.y, shown.y), (SHARES[1], frame.u, shown.u), (SHARES[1], frame.v, shown.v)
    return sum(share * float(np.square(x.astype(np.int32) - y).sum()) for share, x, y in planes)
