"""What any inter codec's encoder and decoder both carry from frame to frame: references, motion, learned chances."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.adaptive_tables import AdaptiveTables
from codec.bit_mixing import Mixer
from codec.distributions import ScaleTables
from codec.frames import Frame, VideoFormat
from codec.inter.post_filter import Flags, FlagSource, Gains, Picture, picture_of, shipped_filter
from codec.inter.prediction import Planes, Prediction, Reference, predict, renew
from codec.inter.symbol_mixing import SymbolMixing, start_mixer
from codec.inter.symbol_sources import FrameTables
from codec.motion import Motion
from codec.motion_chances import MotionChances

SIDE = 16  # coded sizes are multiples of this; frames are padded, never cropped


class InterState:
    """Subclasses add what is their codec's own. device: where the networks run; symbol_start, post_filter: files.

    watch: where set, is told of each frame as it is shown, with what the filter was given.
    """

    def __init__(self, fmt: VideoFormat, device: torch.device, symbol_start: Path, post_filter: Path) -> None:
        self.format, self.device = fmt, device
        self.height, self.width = -(-fmt.height // SIDE) * SIDE, -(-fmt.width // SIDE) * SIDE
        self.h, self.w = self.height // 8, self.width // 8
        self.reference: Reference | None = None
        self.adaptive: AdaptiveTables | None = None
        self.mixing: SymbolMixing | None = None
        self.first_mixer: Callable[[], Mixer] = partial(start_mixer, symbol_start)  # what learning begins with
        self.first_motion: Callable[[], MotionChances] = MotionChances  # what learning begins with
        self.motion = MotionChances()
        self.post_filter, self.flags = shipped_filter(post_filter), Flags()
        self.gains: Gains | None = None  # of the filter's parts, where the stream says something of them
        self.after_intra = False
        self.watch: Callable[[Frame, Picture, FlagSource, Gains | None], None] | None = None
        self.gone = 0  # number of the reference that makes room for the coming frame

    def fork(self) -> Self:
        """A state to try something out on."""
        made = copy.copy(self)
        made.adaptive = copy.deepcopy(self.adaptive)
        made.mixing = self.mixing.copy() if self.mixing else None
        made.motion = self.motion.copy()
        made.flags = self.flags.copy()
        return made

    def flat_prediction(self) -> Prediction:
        return Prediction.flat((
            torch.empty(1, self.height, self.width, device=self.device),
            torch.empty(1, 2, self.height // 2, self.width // 2, device=self.device),
        ))  # fmt: skip

    def moved(self, motion: Motion) -> Prediction:
        assert self.reference is not None
        return predict(self.reference, motion)

    @property
    def distances(self) -> tuple[int, ...]:
        """Of the frames that a coming frame may be predicted from."""
        assert self.reference is not None
        return self.reference.distances

    def padded(self, frame: Frame) -> Planes:
        """Planes as float tensors (1, H, W) and (1, 2, H/2, W/2) of the coded size, borders repeated."""

        def grow(plane: NDArray[np.uint8], height: int, width: int) -> Tensor:
            whole = np.require(plane, requirements=["C", "W"])  # PyTorch warns of arrays that are read-only
            tensor = torch.from_numpy(whole).to(self.device).float()[None, None]
            return F.pad(tensor, (0, width - plane.shape[1], 0, height - plane.shape[0]), mode="replicate")[0]

        chroma = [grow(p, self.height // 2, self.width // 2) for p in (frame.u, frame.v)]
        return grow(frame.y, self.height, self.width), torch.stack(chroma, dim=1)

    def shown(self, flags: FlagSource, qp: int, prediction: Prediction, rebuilt: list[Tensor]) -> Frame:
        """A rebuilt frame, (H, W) and (2, H/2, W/2) whole samples of the coded size, filtered and of the video's."""
        return self.filtered(flags, picture_of(qp, prediction, rebuilt))

    def filtered(self, flags: FlagSource, picture: Picture) -> Frame:
        """A frame as it is shown."""
        y, uv = flags.exchange(self.post_filter, picture, self.flags, self.gains)
        (cw, ch), height, width = self.format.chroma_size, self.format.height, self.format.width
        frame = Frame(*(np.ascontiguousarray(p) for p in (y[:height, :width], uv[0, :ch, :cw], uv[1, :ch, :cw])))
        if self.watch is not None:
            self.watch(frame, picture, flags, self.gains)
        return frame

    def learning(self, tables: ScaleTables) -> tuple[SymbolMixing, FrameTables]:
        """What an inter frame's coefficients are coded with; it learns from frame to frame."""
        if self.adaptive is None or self.mixing is None:
            self.adaptive = AdaptiveTables(tables.tables())
            self.mixing = SymbolMixing(self.h, self.w, self.first_mixer())
        return self.mixing, FrameTables(tables, self.adaptive)

    def end_symbols(self) -> None:
        """An inter frame's symbols are all coded."""
        if self.adaptive is not None:
            self.adaptive.settle()
        if self.mixing is not None:
            self.mixing.end_frame()

    def renew_reference(self, prediction: Prediction, frame: Planes, step: Tensor) -> None:
        """Make a decoded frame the next one's reference; step: see `prediction.renew`."""
        intra = not prediction.guesses
        self.reference = renew(None if intra else self.reference, prediction, frame, step, self.gone)
        if intra:
            self.motion = self.first_motion()
        self.after_intra = intra
