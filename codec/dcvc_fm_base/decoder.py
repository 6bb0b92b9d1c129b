"""DCVC-FM base's decoder: .brl packets into frames, one at a time and without delay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from codec.container import INTER, INTRA, Packet, StreamHeader
from codec.dcvc_fm_base.coding_state import CodingState, FrameQuality
from codec.dcvc_fm_base.encoder import PLACES
from codec.dcvc_fm_base.latent_coding import Decoding
from codec.entropy_coding import SymbolDecoder
from codec.errors import StreamError
from codec.exact.operations import full_precision
from codec.frames import Frame

if TYPE_CHECKING:
    from codec.dcvc_fm_base.model import DCVCFMBase


@torch.no_grad()
def decode_frames(codec: DCVCFMBase, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
    """See `Codec.decode_frames`."""
    state = CodingState(codec, header.format)
    for packet in packets:
        coder = SymbolDecoder(packet.payload)
        if packet.kind == INTRA:
            frame = state.code_intra(Decoding(coder), packet.qp, None)
        elif packet.kind == INTER:
            frame = decode_inter(state, coder, packet.qp)
        else:
            raise StreamError(f"damaged stream: a packet of kind {packet.kind} is none of this codec's")
        coder.finish()
        yield frame


@full_precision()
def decode_inter(state: CodingState, coder: SymbolDecoder, qp: int) -> Frame:
    """One inter frame's packet."""
    memory = state.memory
    if memory is None:
        raise StreamError("damaged stream: an inter frame comes before any intra frame")
    source = Decoding(coder)
    quality = FrameQuality(qp, coder.decode_uniform(PLACES), coder.decode_uniform(2) == 1)
    motion, flow = state.code_motion(source, quality, None)
    contexts = state.codec.inter.contexts(state.contexts_feature(quality), memory.frame, flow)
    return state.code_inter(source, quality, motion, contexts, None)
