"""InnVC's decoder: .brl packets into frames, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import torch

from codec.container import END, INTRA, read_end, read_header, read_packets
from codec.entropy_coding import SymbolDecoder
from codec.errors import StreamError
from codec.frames import Frame
from codec.innvc.coding_state import SIDE, CodingState
from codec.innvc.field import LARGEST_VALUE
from codec.innvc.frame_coding import Decoding
from codec.innvc.quantization import rounding_of
from codec.motion_coding import decode_motion

if TYPE_CHECKING:
    from codec.innvc.model import InnVC


def decode_stream(codec: InnVC, source: BinaryIO) -> Iterator[Frame]:
    """See `Codec.decode`."""
    header = read_header(source)
    if header.codec != codec.family or header.model_hash != codec.model_hash()[:16]:
        raise StreamError(
            f"this stream was made by model '{header.model_name}' ({header.codec}, {header.model_hash.hex()[:12]}), "
            f"not by '{codec.display_name}' ({codec.model_hash().hex()[:12]}); give that model with --model"
        )
    if header.segment_frames != codec.config.segment_frames:
        raise StreamError("damaged .brl stream: its segment length is not the model's")
    state = CodingState(codec, header.format)
    for packet in read_packets(source):
        if packet.kind == END:
            if read_end(packet).checksum != state.checksum:
                raise StreamError("the decoded frames are not those the encoder saw: their checksum differs")
            return
        with torch.no_grad():
            frame = _decode_frame(state, SymbolDecoder(packet.payload), packet.qp, packet.kind == INTRA)
        yield frame


def receive_field(state: CodingState, coder: SymbolDecoder, qp: int) -> None:
    state.field = state.empty_field()
    sent = coder.decode_uniform(len(state.field) + 1)
    if not sent:
        return
    slices = coder.decode_uniform(state.slice_limit) + 1
    for number, (shape, index) in enumerate(state.field_layout(qp, slices)[:sent]):
        values = torch.from_numpy(coder.decode(index.reshape(-1).cpu().numpy(), 0.5)).to(state.device)
        state.field[number] = values.clamp(-LARGEST_VALUE, LARGEST_VALUE).double().reshape(1, *shape)


def _decode_frame(state: CodingState, coder: SymbolDecoder, qp: int, intra: bool) -> Frame:
    if state.starts_segment(intra):
        state.place = 0
        receive_field(state, coder, qp)
    vectors = torch.zeros(1, 2, state.h, state.w, dtype=torch.int64, device=state.device)
    predicted = state.flat_prediction()
    if not intra:
        vectors = decode_motion(coder, state.height // SIDE, state.width // SIDE).vectors.to(state.device)
        predicted = state.moved(vectors)
    rounding = rounding_of(qp, state.codec.config.rounding)
    return state.finish_frame(state.context(qp, intra, predicted, vectors), predicted, Decoding(coder, rounding))
