"""DCVC-FM's decoder: .brl packets into frames, one at a time and without delay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from codec.container import INTRA, REFRESH, Packet, StreamHeader
from codec.dcvc_fm.coding_state import CodingState, FrameQuality
from codec.dcvc_fm.scalers import QP_PARTS
from codec.entropy_coding import SymbolDecoder
from codec.errors import StreamError
from codec.frames import Frame
from codec.inter.frame_motion import receive_motion
from codec.inter.post_filter import FilterDecoding
from codec.inter.symbol_sources import Decoding
from codec.intra.coding import decode_intra
from codec.streams import QP_COUNT
from codec.threads import alone_if_small

if TYPE_CHECKING:
    from codec.dcvc_fm.model import DCVCFM


@torch.no_grad()
def decode_frames(codec: DCVCFM, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
    """See `Codec.decode_frames`."""
    state = CodingState(codec, header.format)
    for packet in packets:
        coder = SymbolDecoder(packet.payload)
        if packet.kind == INTRA:
            frame = _intra(state, coder, packet.qp)
        else:
            frame = _inter(state, coder, packet.qp, packet.kind == REFRESH)
        coder.finish()
        yield frame


def _intra(state: CodingState, coder: SymbolDecoder, qp: int) -> Frame:
    if qp == QP_COUNT - 1:
        raise StreamError("damaged stream: an intra frame's QP is out of range")
    coded = decode_intra(coder, state.height, state.width, state.intra_settings(qp))
    return state.finish_intra(coded, qp, FilterDecoding(coder))


@alone_if_small
def _inter(state: CodingState, coder: SymbolDecoder, qp: int, refreshed: bool) -> Frame:
    quality = receive_quality(coder, qp, refreshed)
    motion = receive_motion(state, coder)
    prediction = state.moved(motion)
    expectation = state.expect(quality, prediction, motion.vectors(state.distances))
    source = Decoding(coder, *state.learning(state.codec.tables))
    return state.finish_inter(expectation, prediction, source, FilterDecoding(coder))


def receive_quality(coder: SymbolDecoder, qp: int, refreshed: bool) -> FrameQuality:
    """See `encoder.send_quality`. Raises StreamError on impossible values."""
    part = coder.decode_uniform(QP_PARTS) if coder.decode_uniform(2) else 0
    qp16 = qp * QP_PARTS + part
    if qp16 > (QP_COUNT - 1) * QP_PARTS:
        raise StreamError("damaged stream: a frame's QP is out of range")
    return FrameQuality(qp16, coder.decode_uniform(3), refreshed)
