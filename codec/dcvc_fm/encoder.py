"""DCVC-FM's encoder: frames into coded frames, each as soon as it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.container import INTER, INTRA
from codec.dcvc_fm.coding_state import CodingState, FrameQuality
from codec.dcvc_fm.config import place_in_hierarchy, refreshes
from codec.dcvc_fm.frame_coding import Expectation
from codec.dcvc_fm.scalers import QP_PARTS
from codec.entropy_coding import SymbolEncoder
from codec.exact.operations import full_precision
from codec.frames import Frame, VideoFormat
from codec.inter.context import to_order
from codec.inter.frame_motion import FrameSearch, send_motion
from codec.inter.intra_boost import intra_boost
from codec.inter.post_filter import FilterEncoding, as_samples
from codec.inter.prediction import Planes, Prediction
from codec.inter.quantization import FRACTION_BITS
from codec.inter.symbol_sources import Encoding
from codec.intra.coding import encode_intra
from codec.lifting import forward_transform
from codec.streams import QP_COUNT, CodedFrame, EncodeOptions

if TYPE_CHECKING:
    from codec.dcvc_fm.model import DCVCFM

_FINEST_INTRA = QP_COUNT - 2  # the intra coder's


@torch.no_grad()
def encode_frames(
    codec: DCVCFM, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions
) -> Iterator[CodedFrame]:
    """See `Codec.encode_frames`."""
    state, search, number = CodingState(codec, fmt), FrameSearch(), 0
    for frame in frames:
        if number == 0 or (options.intra_period > 0 and number == options.intra_period):
            number = 0
            chain = options.intra_period if options.intra_period > 0 else None
            qp = min(options.qp + intra_boost(codec.config.intra_boost, chain), _FINEST_INTRA)
            coded = code_intra(state, frame, qp)
        else:
            coded = code_inter(state, search, frame, inter_quality(codec, number, options.qp * QP_PARTS))
        number += 1
        yield coded


def inter_quality(codec: DCVCFM, number: int, qp16: int) -> FrameQuality:
    """Of inter frame `number`, 1 and up since its intra frame, in a stream of this QP in sixteenths."""
    place = place_in_hierarchy(number)
    finer = qp16 + codec.config.hierarchy_boosts[place] * QP_PARTS
    highest = (QP_COUNT - 1) * QP_PARTS
    return FrameQuality(min(max(finer, 0), highest), place, refreshes(number, codec.config.refresh_period))


def code_intra(state: CodingState, frame: Frame, qp: int) -> CodedFrame:
    planes = state.padded(frame)
    whole = [plane[0].int().cpu().numpy() for plane in planes]
    intervals, coded = encode_intra((whole[0], *np.ascontiguousarray(whole[1])), state.intra_settings(qp))
    coder = SymbolEncoder()
    coder.encode_intervals(intervals)
    rebuilt = state.finish_intra(coded, qp, FilterEncoding(coder, as_samples((planes[0][0], planes[1][0]))))
    return CodedFrame(INTRA, qp, coder.finish(), coder.estimated_bits, rebuilt, 0)


def code_inter(state: CodingState, search: FrameSearch, frame: Frame, quality: FrameQuality) -> CodedFrame:
    codec, coder = state.codec, SymbolEncoder()
    planes = state.padded(frame)
    step = codec.network.scalers.whole(quality.qp16)[:1].float() / (1 << FRACTION_BITS)
    motion = search.run(state, planes[0], step)
    send_quality(coder, quality)
    send_motion(state, coder, motion, *codec.STAYING)
    prediction = state.moved(motion)
    expectation = state.expect(quality, prediction, motion.vectors(state.distances))
    target = _latent(codec, expectation, planes, prediction, quality.qp16)
    source = Encoding(coder, *state.learning(codec.tables), target, expectation.look.steps.expand(target.shape))
    flags = FilterEncoding(coder, as_samples((planes[0][0], planes[1][0])))
    rebuilt = state.finish_inter(expectation, prediction, source, flags)
    return CodedFrame(INTER, quality.qp16 // QP_PARTS, coder.finish(), coder.estimated_bits, rebuilt, 0)


def send_quality(coder: SymbolEncoder, quality: FrameQuality) -> None:
    """What the packet's head does not say: parts of a QP, place, refresh."""
    part = quality.qp16 % QP_PARTS
    coder.encode_uniform(int(part > 0), 2)
    if part:
        coder.encode_uniform(part, QP_PARTS)
    coder.encode_uniform(quality.place, 3)
    coder.encode_uniform(int(quality.refreshes), 2)


@full_precision()
def _latent(codec: DCVCFM, expectation: Expectation, planes: Planes, prediction: Prediction, qp16: int) -> Tensor:
    """What the contextual encoder would have coded, (96, h, w) int64, in the transform's units."""
    luma, chroma = ((x - p)[0].int() for x, p in zip(planes, prediction.base, strict=True))
    residual = to_order(forward_transform(luma, chroma, FRACTION_BITS)).float() / (1 << FRACTION_BITS)
    qp = torch.tensor([qp16 / QP_PARTS], device=residual.device)
    steps = codec.network.scalers.encoder_steps(qp)[0].view(-1, 1, 1)
    latent = codec.encoder((residual / steps)[None], expectation.features)[0]
    return torch.round(latent * expectation.look.steps).long()
