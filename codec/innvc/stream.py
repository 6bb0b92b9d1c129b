"""InnVC's streams: segments of frames into .brl packets and back. At most one segment is held in memory."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.api import QP_COUNT, EncodeOptions, FrameReport, StreamReport
from codec.arithmetic import FixedArithmetic
from codec.container import (
    END,
    INTER,
    INTRA,
    StreamHeader,
    read_end,
    read_header,
    read_packets,
    write_end,
    write_header,
    write_packet,
)
from codec.distributions import SCALE_COUNT
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import StreamError, UsageError
from codec.frames import Frame, VideoFormat
from codec.innvc.context import from_order, to_order
from codec.innvc.field import LARGEST_VALUE, Field
from codec.innvc.frame_coding import Decoding, Encoding, FrameContext, SymbolSource, code_coefficients
from codec.innvc.prior import fixed_scale_index
from codec.innvc.quantization import (
    channel_step_sizes,
    fraction_bits,
    frame_qp,
    rounding_of,
    step_size,
    whole_steps,
)
from codec.innvc.training_pass import field_inputs, vector_weight
from codec.lifting import forward_transform, inverse_transform
from codec.motion_coding import decode_motion, encode_motion
from codec.motion_compensation import compensate
from codec.motion_search import Motion, SearchSettings, search_motion

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

SIDE = 16  # coded sizes are multiples of this; frames are padded, never cropped
SEARCH = SearchSettings(reach=32, neighbours=2)
Planes = tuple[Tensor, Tensor]  # luma (H, W) and chroma (2, H/2, W/2), padded, float32 whole numbers


class _State:
    """What encoder and decoder both carry from frame to frame."""

    def __init__(self, codec: InnVC, fmt: VideoFormat) -> None:
        self.codec, self.format = codec, fmt
        self.device = next(codec.parameters()).device
        self.height, self.width = -(-fmt.height // SIDE) * SIDE, -(-fmt.width // SIDE) * SIDE
        self.h, self.w = self.height // 8, self.width // 8
        self.arithmetic = FixedArithmetic()
        self.reference: Planes | None = None
        self.symbols: Tensor | None = None
        self.after_intra = False
        self.field: Field = self.empty_field()
        self.place = 0  # of the coming frame in its segment
        self.checksum = 0

    def starts_segment(self, intra: bool) -> bool:
        return intra or self.place == self.codec.config.segment_frames

    def flat_prediction(self) -> Planes:
        y = torch.full((self.height, self.width), 128.0, device=self.device)
        return y, torch.full((2, self.height // 2, self.width // 2), 128.0, device=self.device)

    def moved(self, vectors: Tensor) -> Planes:
        assert self.reference is not None
        y, uv = compensate(self.reference[0][None], self.reference[1][None], vectors)
        return y[0], uv[0]

    def context(self, qp: int, intra: bool, predicted: Planes, vectors: Tensor) -> FrameContext:
        fraction = fraction_bits(qp)
        around = [p.int() - 128 for p in predicted]
        transformed = to_order(forward_transform(around[0], around[1], fraction))
        kind = 0 if intra else 1 if self.after_intra else 2
        previous = torch.zeros_like(transformed) if kind < 2 or self.symbols is None else self.symbols
        field = self.codec.field_decoder(self.field, self.place, self.h, self.w, self.arithmetic)
        return FrameContext(kind, qp, transformed, previous, vectors[0], field)

    def finish_frame(self, context: FrameContext, predicted: Planes, source: SymbolSource) -> Frame:
        """Code the coefficients, rebuild the frame and make it the next one's reference."""
        fraction = fraction_bits(context.qp)
        coded = code_coefficients(self.codec.prior, self.arithmetic, context, source, self.codec.config.live_fraction)
        residual = inverse_transform(from_order(coded.coefficients), fraction)
        rebuilt = [(p.int() + r).clamp(0, 255) for p, r in zip(predicted, residual, strict=True)]
        self.reference = rebuilt[0].float(), rebuilt[1].float()
        self.symbols, self.after_intra = coded.symbols, context.kind == 0
        self.place += 1
        frame = self._cropped(rebuilt)
        for plane in frame.planes:
            self.checksum = zlib.crc32(plane.data, self.checksum)
        return frame

    def _cropped(self, planes: list[Tensor]) -> Frame:
        cw, ch = self.format.chroma_size
        y = planes[0][: self.format.height, : self.format.width].to(torch.uint8).cpu()
        uv = planes[1][:, :ch, :cw].to(torch.uint8).cpu()
        return Frame(*(np.ascontiguousarray(p.numpy()) for p in (y, uv[0], uv[1])))

    def field_layout(self, qp: int, slices: int) -> list[tuple[tuple[int, ...], Tensor]]:
        """(shape, scale index of every value) of the field's levels."""
        table = torch.tensor([qp], device=self.device)
        decoder = self.codec.field_decoder
        found: list[tuple[tuple[int, ...], Tensor]] = []
        for level, scales in zip(decoder.levels, decoder.scales, strict=True):
            shape = level.shape(self.h, self.w, slices)
            # A field's value is never "certainly zero": its proposal does not know of scales.
            index = fixed_scale_index(scales(table, self.arithmetic)[0], 1, SCALE_COUNT - 1)
            found.append((shape, index[:, None, None].expand(shape)))
        return found

    def empty_field(self) -> Field:
        """All zeros: what an absent field, or an absent level of it, counts as."""
        shapes = [level.shape(self.h, self.w, self.slice_limit) for level in self.codec.field_decoder.levels]
        return [torch.zeros(1, *shape, dtype=torch.float64, device=self.device) for shape in shapes]

    @property
    def slice_limit(self) -> int:
        return -(-self.codec.config.segment_frames // self.codec.config.slice_frames)


def encode_stream(
    codec: InnVC,
    frames: Iterable[Frame],
    fmt: VideoFormat,
    sink: BinaryIO,
    options: EncodeOptions,
    on_frame: Callable[[FrameReport, Frame], None] | None,
) -> StreamReport:
    """See `Codec.encode`."""
    if not 0 <= options.qp < QP_COUNT:
        raise UsageError(f"QP {options.qp} is outside 0..{QP_COUNT - 1}")
    if options.intra_period == 0 or options.intra_period < -1:
        raise UsageError(f"intra period {options.intra_period}: give -1 (one intra frame) or a number of frames")
    source = iter(frames)
    first = next(source, None)
    if first is None:
        raise UsageError("the video has no frames to encode")
    report = StreamReport()
    header = StreamHeader(codec.family, codec.display_name, codec.model_hash()[:16], fmt, codec.config.segment_frames)
    report.header_bytes = report.bytes = write_header(sink, header)
    state, index = _State(codec, fmt), 0
    with torch.no_grad():
        for segment in _segments(chain([first], source), fmt, codec.config.segment_frames, options.intra_period):
            padded = [_padded(frame, state) for frame in segment]
            plan: _Plan | None = None
            for number, planes in enumerate(padded):
                intra = number == 0 and _is_intra(index, options.intra_period)
                qp = int(frame_qp(torch.tensor(options.qp), intra, codec.config.intra_boost))
                plan = _plan_frame(state, planes, qp, intra, plan)
                if number == 0:
                    start = _best_start(state, plan, padded, options)
                    state, coder, rebuilt = start.state, start.coder, start.rebuilt
                    report.field_bytes += round(start.field_bits / 8)
                else:
                    coder = SymbolEncoder()
                    rebuilt = _encode_frame(state, coder, plan)
                payload = coder.finish()
                size = write_packet(sink, index, INTRA if intra else INTER, qp, payload)
                done = FrameReport(index, "I" if intra else "P", qp, size, len(payload), coder.estimated_bits)
                report.frames.append(done)
                report.bytes += size
                if on_frame is not None:
                    on_frame(done, rebuilt)
                index += 1
    report.bytes += write_end(sink, index, state.checksum)
    return report


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
    state = _State(codec, header.format)
    for packet in read_packets(source):
        if packet.kind == END:
            if read_end(packet).checksum != state.checksum:
                raise StreamError("the decoded frames are not those the encoder saw: their checksum differs")
            return
        with torch.no_grad():
            frame = _decode_frame(state, SymbolDecoder(packet.payload), packet.qp, packet.kind == INTRA)
        yield frame


def _is_intra(index: int, period: int) -> bool:
    return index % period == 0 if period > 0 else index == 0


def _segments(frames: Iterable[Frame], fmt: VideoFormat, length: int, period: int) -> Iterator[list[Frame]]:
    """Runs of at most `length` frames; an intra frame always begins one."""
    held: list[Frame] = []
    for index, frame in enumerate(frames):
        if (frame.width, frame.height) != (fmt.width, fmt.height):
            raise UsageError(f"frame {index} is {frame.width}x{frame.height}, the video {fmt.width}x{fmt.height}")
        if held and (len(held) == length or _is_intra(index, period)):
            yield held
            held = []
        held.append(frame)
    if held:
        yield held


def _padded(frame: Frame, state: _State) -> Planes:
    """Planes as tensors of the coded size, borders repeated."""

    def grow(plane: np.ndarray, height: int, width: int) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(plane)).to(state.device).float()[None, None]
        return F.pad(tensor, (0, width - plane.shape[1], 0, height - plane.shape[0]), mode="replicate")[0, 0]

    chroma = [grow(p, state.height // 2, state.width // 2) for p in (frame.u, frame.v)]
    return grow(frame.y, state.height, state.width), torch.stack(chroma)


def _propose_field(state: _State, padded: list[Planes], qp: int, intra: bool) -> Field:
    """The field encoder's levels for a segment, rounded: (1, slices, channels, rows, columns) float64 each."""
    table = torch.tensor([qp], device=state.device)
    luma, chroma = torch.stack([p[0] for p in padded])[None], torch.stack([p[1] for p in padded])[None]
    texture, change = field_inputs(luma, chroma, channel_step_sizes(table), intra)
    proposed = state.codec.field_encoder(texture, change, table)
    return [torch.round(grid.clamp(-LARGEST_VALUE, LARGEST_VALUE)).double() for grid in proposed]


def _send_field(state: _State, coder: SymbolEncoder, proposed: Field, sent: int, qp: int) -> None:
    """Code the first `sent` levels and make them the segment's field."""
    coder.encode_uniform(sent, len(state.field) + 1)
    state.field = state.empty_field()
    if not sent:
        return
    slices = proposed[0].shape[1]
    coder.encode_uniform(slices - 1, state.slice_limit)
    layout = state.field_layout(qp, slices)
    for number, (grid, (_, index)) in enumerate(zip(proposed[:sent], layout, strict=False)):
        coder.encode(grid.int().reshape(-1).cpu().numpy(), index.reshape(-1).cpu().numpy(), 0.5)
        state.field[number] = grid


def _receive_field(state: _State, coder: SymbolDecoder, qp: int) -> None:
    state.field = state.empty_field()
    sent = coder.decode_uniform(len(state.field) + 1)
    if not sent:
        return
    slices = coder.decode_uniform(state.slice_limit) + 1
    for number, (shape, index) in enumerate(state.field_layout(qp, slices)[:sent]):
        values = torch.from_numpy(coder.decode(index.reshape(-1).cpu().numpy(), 0.5)).to(state.device)
        state.field[number] = values.clamp(-LARGEST_VALUE, LARGEST_VALUE).double().reshape(1, *shape)


@dataclass(frozen=True)
class _Plan:
    """What the encoder decides of a frame before coding it. target: (96, h, w) int32, in order of importance."""

    planes: Planes
    qp: int
    intra: bool
    motion: Motion | None
    vectors: Tensor
    predicted: Planes
    target: Tensor


@dataclass(frozen=True)
class _Start:
    """A segment's first frame, coded: the state after it."""

    state: _State
    coder: SymbolEncoder
    rebuilt: Frame
    field_bits: float


def _plan_frame(state: _State, planes: Planes, qp: int, intra: bool, before: _Plan | None) -> _Plan:
    motion = None
    vectors = torch.zeros(1, 2, state.h, state.w, dtype=torch.int64, device=state.device)
    predicted = state.flat_prediction()
    if not intra:
        assert state.reference is not None
        weight = vector_weight(step_size(torch.tensor([qp], device=state.device)))
        candidates = before.vectors if before is not None and not before.intra else None
        motion = search_motion(planes[0][None], state.reference[0][None], weight, SEARCH, candidates)
        vectors = motion.vectors
        predicted = state.moved(vectors)
    difference = [(x - p).int() for x, p in zip(planes, predicted, strict=True)]
    fraction = fraction_bits(qp)
    target = to_order(forward_transform(difference[0], difference[1], fraction))
    return _Plan(planes, qp, intra, motion, vectors, predicted, target)


def _encode_frame(state: _State, coder: SymbolEncoder, plan: _Plan) -> Frame:
    if plan.motion is not None:
        encode_motion(coder, plan.motion)
    steps = whole_steps(plan.qp, state.device)
    source = Encoding(coder, plan.target, steps, rounding_of(plan.qp, state.codec.config.rounding))
    context = state.context(plan.qp, plan.intra, plan.predicted, plan.vectors)
    return state.finish_frame(context, plan.predicted, source)


def _best_start(state: _State, plan: _Plan, padded: list[Planes], options: EncodeOptions) -> _Start:
    """Code a segment's first frame with more and fewer levels of the field, and keep the cheapest.

    The field's whole cost is held against this one frame, though the segment's others gain from it too.
    """
    state.place = 0
    proposed = _propose_field(state, padded, plan.qp, plan.intra) if options.field else []
    lagrangian = 7.5 / float(step_size(torch.tensor(plan.qp))) ** 2
    best: tuple[float, _Start] | None = None
    for sent in range(len(proposed), -1, -1):
        trial, coder = copy.copy(state), SymbolEncoder()
        _send_field(trial, coder, proposed, sent, plan.qp)
        field_bits = coder.estimated_bits
        rebuilt = _encode_frame(trial, coder, plan)
        cost = coder.estimated_bits + lagrangian * _squared_error(trial, plan.planes)
        if best is None or cost < best[0]:
            best = cost, _Start(trial, coder, rebuilt, field_bits)
    assert best is not None
    return best[1]


def _squared_error(state: _State, planes: Planes) -> float:
    """Weighted as the training objective weighs luma and chroma."""
    assert state.reference is not None
    luma, chroma = (float((x - y).square().sum()) for x, y in zip(planes, state.reference, strict=True))
    return 0.75 * luma + 0.5 * chroma


def _decode_frame(state: _State, coder: SymbolDecoder, qp: int, intra: bool) -> Frame:
    if state.starts_segment(intra):
        state.place = 0
        _receive_field(state, coder, qp)
    vectors = torch.zeros(1, 2, state.h, state.w, dtype=torch.int64, device=state.device)
    predicted = state.flat_prediction()
    if not intra:
        vectors = decode_motion(coder, state.height // SIDE, state.width // SIDE).vectors.to(state.device)
        predicted = state.moved(vectors)
    rounding = rounding_of(qp, state.codec.config.rounding)
    return state.finish_frame(state.context(qp, intra, predicted, vectors), predicted, Decoding(coder, rounding))
