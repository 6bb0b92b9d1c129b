"""InnVC's decoder: .brl packets into frames, one at a time and without delay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from codec.container import INTRA, Packet, StreamHeader
from codec.entropy_coding import SymbolDecoder
from codec.frames import Frame
from codec.innvc.coding_state import CodingState
from codec.innvc.field import LARGEST_VALUE
from codec.innvc.filter_changes import receive_filter_changes
from codec.innvc.filter_gains import receive_gains
from codec.innvc.lossless import decode_lossless
from codec.inter.frame_motion import receive_motion
from codec.inter.post_filter import FilterDecoding
from codec.inter.quantization import LOSSLESS_QP
from codec.inter.symbol_sources import Decoding
from codec.intra.coding import decode_intra
from codec.threads import alone_if_small

if TYPE_CHECKING:
    from codec.innvc.model import InnVC


@torch.no_grad()
def decode_frames(codec: InnVC, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
    """See `Codec.decode_frames`."""
    state = CodingState(codec, header.format)
    for packet in packets:
        yield _decode_frame(state, SymbolDecoder(packet.payload), packet.qp, packet.kind == INTRA)


def receive_field(state: CodingState, coder: SymbolDecoder, qp: int) -> None:
    state.field = state.empty_field()
    sent = coder.decode_uniform(len(state.field) + 1)
    if not sent:
        return
    slices = coder.decode_uniform(state.slice_limit) + 1
    tables = state.codec.field_decoder.tables.tables()
    for number, (shape, numbers) in enumerate(state.field_layout(qp, slices)[:sent]):
        values = torch.from_numpy(coder.decode(numbers, tables)).to(state.device)
        state.field[number] = values.clamp(-LARGEST_VALUE, LARGEST_VALUE).float().reshape(1, *shape)


@alone_if_small
def _decode_frame(state: CodingState, coder: SymbolDecoder, qp: int, intra: bool) -> Frame:
    if qp == LOSSLESS_QP:
        frame = decode_lossless(state, coder, intra)
        coder.finish()
        return frame
    if intra:
        state.adapt(receive_filter_changes(coder))
    if state.starts_segment(intra):
        state.place = 0
        receive_field(state, coder, qp)
        state.gains = receive_gains(coder, state.gain_chances)
    if intra:
        coded = decode_intra(coder, state.height, state.width, state.intra_settings(qp))
        frame = state.finish_intra(qp, coded, FilterDecoding(coder))
    else:
        motion = receive_motion(state, coder)
        prediction = state.moved(motion)
        context = state.context(qp, False, prediction, motion.vectors(state.distances))
        frame = state.finish_frame(
            context, prediction, Decoding(coder, *state.learning(state.codec.tables)), FilterDecoding(coder)
        )
    coder.finish()
    return frame
