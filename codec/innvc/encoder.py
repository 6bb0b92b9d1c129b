"""InnVC's encoder: segments of frames into .brl packets. At most one segment is held in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.api import QP_COUNT, EncodeOptions, FrameReport, StreamReport
from codec.container import INTER, INTRA, StreamHeader, write_end, write_header, write_packet
from codec.entropy_coding import SymbolEncoder
from codec.errors import UsageError
from codec.frames import Frame, VideoFormat
from codec.innvc.coding_state import CodingState, Planes
from codec.innvc.context import to_order
from codec.innvc.field import LARGEST_VALUE, Field
from codec.innvc.frame_coding import Encoding
from codec.innvc.quantization import (
    channel_step_sizes,
    fraction_bits,
    frame_qp,
    rounding_of,
    step_size,
    whole_steps,
)
from codec.innvc.training_pass import field_inputs, vector_weight
from codec.lifting import forward_transform
from codec.motion_coding import encode_motion
from codec.motion_search import Motion, SearchSettings, search_motion

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

SEARCH = SearchSettings(reach=32, neighbours=2)


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
    state, index = CodingState(codec, fmt), 0
    with torch.no_grad():
        for segment in _segments(chain([first], source), fmt, codec.config.segment_frames, options.intra_period):
            padded = [_padded(frame, state) for frame in segment]
            plan: _Plan | None = None
            for number, planes in enumerate(padded):
                intra = number == 0 and _is_intra(index, options.intra_period)
                # An intra frame that no other depends on gains nothing from being finer than asked.
                boost = codec.config.intra_boost if len(segment) > 1 else 0
                qp = int(frame_qp(torch.tensor(options.qp), intra, boost))
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


def _padded(frame: Frame, state: CodingState) -> Planes:
    """Planes as tensors of the coded size, borders repeated."""

    def grow(plane: np.ndarray, height: int, width: int) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(plane)).to(state.device).float()[None, None]
        return F.pad(tensor, (0, width - plane.shape[1], 0, height - plane.shape[0]), mode="replicate")[0, 0]

    chroma = [grow(p, state.height // 2, state.width // 2) for p in (frame.u, frame.v)]
    return grow(frame.y, state.height, state.width), torch.stack(chroma)


def _propose_field(state: CodingState, padded: list[Planes], qp: int, intra: bool) -> Field:
    """The field encoder's levels for a segment, rounded: (1, slices, channels, rows, columns) float64 each."""
    table = torch.tensor([qp], device=state.device)
    luma, chroma = torch.stack([p[0] for p in padded])[None], torch.stack([p[1] for p in padded])[None]
    texture, change = field_inputs(luma, chroma, channel_step_sizes(table), intra)
    proposed = state.codec.field_encoder(texture, change, table)
    return [torch.round(grid.clamp(-LARGEST_VALUE, LARGEST_VALUE)).double() for grid in proposed]


def send_field(state: CodingState, coder: SymbolEncoder, proposed: Field, sent: int, qp: int) -> None:
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

    state: CodingState
    coder: SymbolEncoder
    rebuilt: Frame
    field_bits: float


def _plan_frame(state: CodingState, planes: Planes, qp: int, intra: bool, before: _Plan | None) -> _Plan:
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


def _encode_frame(state: CodingState, coder: SymbolEncoder, plan: _Plan) -> Frame:
    if plan.motion is not None:
        encode_motion(coder, plan.motion)
    steps = whole_steps(plan.qp, state.device)
    source = Encoding(coder, plan.target, steps, rounding_of(plan.qp, state.codec.config.rounding))
    context = state.context(plan.qp, plan.intra, plan.predicted, plan.vectors)
    return state.finish_frame(context, plan.predicted, source)


def _best_start(state: CodingState, plan: _Plan, padded: list[Planes], options: EncodeOptions) -> _Start:
    """Code a segment's first frame with more and fewer levels of the field, and keep the cheapest.

    The field's whole cost is held against this one frame, though the segment's others gain from it too.
    """
    state.place = 0
    proposed = _propose_field(state, padded, plan.qp, plan.intra) if options.field else []
    lagrangian = 7.5 / float(step_size(torch.tensor(plan.qp))) ** 2
    best: tuple[float, _Start] | None = None
    for sent in range(len(proposed), -1, -1):
        trial, coder = copy.copy(state), SymbolEncoder()
        send_field(trial, coder, proposed, sent, plan.qp)
        field_bits = coder.estimated_bits
        rebuilt = _encode_frame(trial, coder, plan)
        cost = coder.estimated_bits + lagrangian * _squared_error(trial, plan.planes)
        if best is None or cost < best[0]:
            best = cost, _Start(trial, coder, rebuilt, field_bits)
    assert best is not None
    return best[1]


def _squared_error(state: CodingState, planes: Planes) -> float:
    """Weighted as the training objective weighs luma and chroma."""
    assert state.reference is not None
    luma, chroma = (float((x - y).square().sum()) for x, y in zip(planes, state.reference, strict=True))
    return 0.75 * luma + 0.5 * chroma
