"""DCVC-FM's encoder: frames into coded frames, each as soon as it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.container import INTER, INTRA, PACKET_OVERHEAD, REFRESH
from codec.count_tables import COUNT_BITS
from codec.dcvc_fm.coding_state import CodingState, FrameQuality
from codec.dcvc_fm.config import place_in_hierarchy, refreshes
from codec.dcvc_fm.frame_coding import Expectation
from codec.dcvc_fm.rate_control import RateControl
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
from codec.intra.coding import Planes as IntraPlanes
from codec.intra.coding import encode_intra
from codec.lifting import forward_transform
from codec.streams import QP_COUNT, CodedFrame, EncodeOptions
from codec.threads import alone_if_small

if TYPE_CHECKING:
    from codec.dcvc_fm.model import DCVCFM

_FINEST_INTRA = QP_COUNT - 2  # the intra coder's
_FAR = 64  # inter frames since the intra frame from which on they are a QP finer: less of its quality has come so far


@torch.no_grad()
def encode_frames(
    codec: DCVCFM, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions, state: CodingState | None = None
) -> Iterator[CodedFrame]:
    """See `Codec.encode_frames`. state: one to begin with, in the place of a new one."""
    state, search, number = state or CodingState(codec, fmt), FrameSearch(), 0
    chain = options.intra_period if options.intra_period > 0 else None
    control = None
    if options.bits_per_frame is not None:
        control = RateControl(options.bits_per_frame, options.qp, chain)
    boost = intra_boost(codec.config.intra_boost, chain)
    for index, frame in enumerate(frames):
        begins = index % chain == 0 if chain else index == 0
        number = 0 if begins else number + 1
        qp = control.next_qp(number == 0) if control else options.qp_of(index)
        if number:
            coded = code_inter(state, search, frame, inter_quality(codec, number, round(qp * QP_PARTS)))
        else:
            whole = [plane[0].int().cpu().numpy() for plane in state.padded(frame)]
            planes = whole[0], *np.ascontiguousarray(whole[1])
            if control and not index:
                qp = control.first_qp(partial(_intra_bits, state, planes, boost))
            coded = code_intra(state, frame, planes, _intra_qp(qp, boost))
        if control:
            control.spent(number == 0, qp, 8 * (len(coded.payload) + PACKET_OVERHEAD))
        yield coded


def _intra_qp(qp: float, boost: int) -> int:
    return min(round(qp) + boost, _FINEST_INTRA)


def _intra_bits(state: CodingState, planes: IntraPlanes, boost: int, qp: float) -> float:
    intervals, _ = encode_intra(planes, state.intra_settings(_intra_qp(qp, boost)))
    return float((COUNT_BITS - np.log2(intervals >> COUNT_BITS)).sum())


def inter_quality(codec: DCVCFM, number: int, qp16: int) -> FrameQuality:
    """Of inter frame `number`, 1 and up since its intra frame, in a stream of this QP in sixteenths."""
    place = place_in_hierarchy(number)
    finer = qp16 + codec.config.hierarchy_boosts[place] * QP_PARTS + min(number, _FAR) * QP_PARTS // _FAR
    highest = (QP_COUNT - 1) * QP_PARTS
    return FrameQuality(min(max(finer, 0), highest), place, refreshes(number, codec.config.refresh_period))


def code_intra(state: CodingState, frame: Frame, planes: IntraPlanes, qp: int) -> CodedFrame:
    """planes: the frame's, padded."""
    intervals, coded = encode_intra(planes, state.intra_settings(qp))
    coder = SymbolEncoder()
    coder.encode_intervals(intervals)
    rebuilt = state.finish_intra(coded, qp, _flags(coder, state.padded(frame)))
    return CodedFrame(INTRA, qp, coder.finish(), coder.estimated_bits, rebuilt)


def _flags(coder: SymbolEncoder, planes: Planes) -> FilterEncoding:
    return FilterEncoding(coder, as_samples((planes[0][0], planes[1][0])))


@alone_if_small
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
    rebuilt = state.finish_inter(expectation, prediction, source, _flags(coder, planes))
    kind = REFRESH if quality.refreshes else INTER
    return CodedFrame(kind, quality.qp16 // QP_PARTS, coder.finish(), coder.estimated_bits, rebuilt)


def send_quality(coder: SymbolEncoder, quality: FrameQuality) -> None:
    """What the packet's head does not say: parts of a QP, and the place in the hierarchy."""
    part = quality.qp16 % QP_PARTS
    coder.encode_uniform(int(part > 0), 2)
    if part:
        coder.encode_uniform(part, QP_PARTS)
    coder.encode_uniform(quality.place, 3)


@full_precision()
def _latent(codec: DCVCFM, expectation: Expectation, planes: Planes, prediction: Prediction, qp16: int) -> Tensor:
    """What the contextual encoder would have coded, (96, h, w) int64, in the transform's units."""
    luma, chroma = ((x - p)[0].int() for x, p in zip(planes, prediction.base, strict=True))
    residual = to_order(forward_transform(luma, chroma, FRACTION_BITS)).float() / (1 << FRACTION_BITS)
    qp = torch.tensor([qp16 / QP_PARTS], device=residual.device)
    steps = codec.network.scalers.encoder_steps(qp)[0].view(-1, 1, 1)
    latent = residual / steps
    if codec.encoder is not None:
        latent = codec.encoder(latent[None], expectation.features)[0]
    return torch.round(latent * expectation.look.steps).long()
