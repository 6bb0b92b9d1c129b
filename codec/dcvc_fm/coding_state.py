"""What DCVC-FM's encoder and decoder both carry from frame to frame, and the step that both take with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.dcvc_fm.frame_coding import Expectation, Look, look_at
from codec.dcvc_fm.scalers import QP_PARTS
from codec.dcvc_fm.starts import POST_FILTER, SYMBOL_START
from codec.exact.operations import full_precision
from codec.frames import Frame, VideoFormat
from codec.inter.context import from_order, to_order
from codec.inter.post_filter import Flags, FlagSource
from codec.inter.prediction import Planes, Prediction
from codec.inter.quantization import FRACTION_BITS, LOSSLESS_QP, intra_steps
from codec.inter.state import InterState
from codec.inter.symbol_sources import SymbolSource
from codec.intra.coding import IntraSettings
from codec.intra.coding import Planes as IntraPlanes
from codec.lifting import forward_transform, inverse_transform

if TYPE_CHECKING:
    from codec.dcvc_fm.model import DCVCFM


@dataclass(frozen=True)
class FrameQuality:
    """What a packet says of an inter frame: its QP in sixteenths, its place in the hierarchy, whether it refreshes."""

    qp16: int
    place: int
    refreshes: bool


class CodingState(InterState):
    """feature: (1, F, h, w) whole float32; None where the coming frame has to make it anew."""

    def __init__(self, codec: DCVCFM, fmt: VideoFormat) -> None:
        super().__init__(fmt, next(codec.parameters()).device, SYMBOL_START, POST_FILTER)
        self.codec = codec
        self.feature: Tensor | None = None

    @full_precision()
    def expect(self, quality: FrameQuality, prediction: Prediction, vectors: Tensor) -> Expectation:
        """What is expected of a frame before its first symbol; vectors: (1, 2, h, w) int64."""
        assert self.reference is not None
        steps = self.codec.network.scalers.whole(quality.qp16).view(-1, 1, 1)
        base = prediction.base
        expected = _transformed(base[0] - 128, base[1] - 128)
        guesses = torch.stack([_transformed(g[0] - base[0], g[1] - base[1]) for g in prediction.guesses])
        if quality.refreshes or self.feature is None:
            last = self.reference.last
            self.feature = self.codec.network.renewed(look_at(_transformed(last[0] - 128, last[1] - 128), steps))
        look = Look(expected, guesses, steps, vectors)
        qp = min((quality.qp16 + QP_PARTS // 2) // QP_PARTS, 63)
        return Expectation(self.codec.network, look, self.feature, quality.place, qp)

    @full_precision()
    def finish_inter(
        self, expectation: Expectation, prediction: Prediction, source: SymbolSource, flags: FlagSource
    ) -> Frame:
        """Code an inter frame's symbols, rebuild the frame and make it the next one's reference. It is shown
        corrected and filtered."""
        coded = expectation.code(source)
        source.finish()
        self.feature = coded.feature
        rebuilt, shown = (_rebuilt(prediction, residual) for residual in (coded.kept, coded.shown))
        if self.codec.config.correction_in_loop:
            rebuilt = shown
        step = torch.tensor([max(int(expectation.look.steps[0]) >> FRACTION_BITS, 1)], device=self.device)
        self.renew_reference(prediction, (rebuilt[0].float()[None], rebuilt[1].float()[None]), step)
        self.end_symbols()
        filter_qp = min(expectation.qp_number, LOSSLESS_QP - 1)  # the last that it has weights for
        return self.shown(flags, filter_qp, prediction, shown)

    def intra_settings(self, qp: int) -> IntraSettings:
        return IntraSettings(qp, intra_steps())

    def finish_intra(self, coded: IntraPlanes, qp: int, flags: FlagSource) -> Frame:
        """Make a decoded intra frame the next one's reference; what was learned begins anew. It is shown
        filtered."""
        rebuilt = [torch.from_numpy(plane).to(self.device) for plane in (coded[0], np.stack(coded[1:]))]
        planes: Planes = (rebuilt[0].float()[None], rebuilt[1].float()[None])
        prediction = self.flat_prediction()
        self.renew_reference(prediction, planes, torch.ones(1, dtype=torch.int64, device=self.device))
        self.feature = self.adaptive = self.mixing = None
        self.flags = Flags()
        return self.shown(flags, qp, prediction, rebuilt)


def _rebuilt(prediction: Prediction, coefficients: Tensor) -> list[Tensor]:
    residual = inverse_transform(from_order(coefficients), FRACTION_BITS)
    return [(p[0].int() + r).clamp(0, 255) for p, r in zip(prediction.base, residual, strict=True)]


def _transformed(luma: Tensor, chroma: Tensor) -> Tensor:
    """Whole samples, (1, H, W) and (1, 2, H/2, W/2), → (96, h, w) int32 in order of importance."""
    return to_order(forward_transform(luma[0].int(), chroma[0].int(), FRACTION_BITS))
