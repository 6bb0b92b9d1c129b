"""InnVC's encoder: segments of frames into coded frames.

At most one segment (16 frames) is held, first as the 8-bit frames that were given, then as what was coded with its
predictions (some nine bytes a luma sample and frame): memory does not grow with the video's length. Frames come out
when their segment is coded, for the gains of the post filter are sent ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.container import INTER, INTRA
from codec.entropy_coding import SymbolEncoder
from codec.exact.operations import full_precision
from codec.frames import Frame, VideoFormat
from codec.innvc.coding_state import CodingState
from codec.innvc.field import LARGEST_VALUE, Field, SliceMeans
from codec.innvc.filter_changes import send_filter_changes
from codec.innvc.lossless import encode_lossless
from codec.innvc.segment_filter import Held, Later, finish_segment
from codec.innvc.training_pass import field_magnitudes
from codec.innvc.tuning import ONE_PASS, Tuning
from codec.inter.context import to_order
from codec.inter.frame_motion import FrameSearch, send_motion
from codec.inter.intra_boost import intra_boost
from codec.inter.post_filter import as_samples
from codec.inter.prediction import Planes, Prediction
from codec.inter.quantization import (
    FRACTION_BITS,
    LOSSLESS_QP,
    channel_step_sizes,
    frame_qp,
    step_size,
    whole_steps,
)
from codec.inter.symbol_sources import Encoding
from codec.intra.coding import encode_intra
from codec.lifting import forward_transform
from codec.motion import Motion
from codec.streams import CodedFrame, EncodeOptions
from codec.threads import alone_if_small

if TYPE_CHECKING:
    from codec.innvc.model import InnVC


@torch.no_grad()
def encode_frames(
    codec: InnVC, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions, state: CodingState | None = None,
    tuning: Tuning = ONE_PASS,
) -> Iterator[CodedFrame]:  # fmt: skip
    """See `Codec.encode_frames`. state: one to begin with, in the place of a new one."""
    state, search = state or CodingState(codec, fmt), FrameSearch()
    most = codec.config.intra_boost if tuning.intra_boost is None else tuning.intra_boost
    stream_qp = int(options.qp)
    ahead: _Plan | None = None  # of the frame after an intra frame, where the field was chosen by it
    for segment, intra_start in _segments(frames, codec.config.segment_frames, options.intra_period):
        held: list[Held] = []
        for number, frame in enumerate(segment):
            intra = number == 0 and intra_start
            planned, ahead = ahead, None
            boost = intra_boost(most, _depending(options.intra_period, len(segment), codec))
            if not intra:
                boost = tuning.boosts[state.distances[-1] % len(tuning.boosts)]
            qp = int(frame_qp(torch.tensor(stream_qp), boost))
            kind = INTRA if intra else INTER
            if qp == LOSSLESS_QP:
                yield from finish_segment(state, held, options.field)
                held = []
                coder = SymbolEncoder()
                encode_lossless(state, coder, frame, intra, search)
                yield CodedFrame(kind, qp, coder.finish(), coder.estimated_bits, frame, 0)
                continue
            planes = state.padded(frame)
            plan = planned if planned is not None and planned.qp == qp else None
            if plan is None and not intra:
                plan = _plan_frame(state, search, planes, qp, tuning.period)
            if number:
                assert plan is not None
                held.append(Held(kind, qp, _encode_frame(state, plan)))
                continue
            proposed = _propose_field(state, segment, qp, intra) if options.field else []
            if intra:
                following = state.padded(segment[1]) if len(segment) > 1 else None
                start = _intra_start(state, search, planes, qp, proposed, following, stream_qp, tuning)
            else:
                assert plan is not None
                start = _inter_start(state, plan, proposed)
            state, ahead = start.state, start.ahead
            held.append(Held(kind, qp, start.coded, start.head, start.field_bits))
        yield from finish_segment(state, held, options.field)


def _depending(period: int, segment: int, codec: InnVC) -> int | None:
    """How many frames an intra frame begins, itself included, as far as the encoder knows; None for no end in sight."""
    if segment < codec.config.segment_frames and (period <= 0 or segment < period):
        return segment
    return period if period > 0 else None


def _segments(frames: Iterable[Frame], length: int, period: int) -> Iterator[tuple[list[Frame], bool]]:
    """Runs of at most `length` frames, each as soon as it is full, and whether it begins with an intra frame."""
    held: list[Frame] = []
    intra = True
    for following, frame in enumerate(frames, start=1):
        held.append(frame)
        intra_follows = period > 0 and following % period == 0
        if len(held) == length or intra_follows:
            yield held, intra
            held, intra = [], intra_follows
    if held:
        yield held, intra


@alone_if_small
@full_precision()
def _propose_field(state: CodingState, segment: list[Frame], qp: int, intra: bool) -> Field:
    """The field encoder's levels for a segment, rounded: (1, slices, channels, rows, columns) whole float32 each.

    Two frames at a time are enough for it.
    """
    table = torch.tensor([qp], device=state.device)
    steps = channel_step_sizes(table)
    before = state.padded(segment[0])
    texture = field_magnitudes(before[0] - 128, before[1] - 128, steps)
    if not intra:
        texture = torch.zeros_like(texture)
    slices = SliceMeans(texture, state.codec.config.slice_frames)
    slices.add(None)
    for frame in segment[1:]:
        planes = state.padded(frame)
        slices.add(field_magnitudes(planes[0] - before[0], planes[1] - before[1], steps))
        before = planes
    proposed = state.codec.field_encoder(texture, slices.means(), table)
    return [torch.round(grid.clamp(-LARGEST_VALUE, LARGEST_VALUE)) for grid in proposed]


def send_field(state: CodingState, coder: SymbolEncoder, proposed: Field, sent: int, qp: int) -> None:
    """Code the first `sent` levels and make them the segment's field."""
    coder.encode_uniform(sent, len(state.field) + 1)
    state.field = state.empty_field()
    if not sent:
        return
    slices = proposed[0].shape[1]
    coder.encode_uniform(slices - 1, state.slice_limit)
    layout = state.field_layout(qp, slices)
    tables = state.codec.field_decoder.tables.tables()
    for number, (grid, (_, numbers)) in enumerate(zip(proposed[:sent], layout, strict=False)):
        coder.encode(grid.int().reshape(-1).cpu().numpy(), numbers, tables)
        state.field[number] = grid


@dataclass(frozen=True)
class _Plan:
    """What the encoder decides of an inter frame before coding it. target: (96, h, w) int32, in order of importance."""

    planes: Planes
    qp: int
    period: int
    motion: Motion
    prediction: Prediction
    target: Tensor


@dataclass(frozen=True)
class _Start:
    """A segment's first frame, coded: the state after it. ahead: the plan of the frame after it, if there is one."""

    state: CodingState
    head: SymbolEncoder
    coded: Later
    field_bits: float
    ahead: _Plan | None


@alone_if_small
@full_precision()
def _plan_frame(state: CodingState, search: FrameSearch, planes: Planes, qp: int, period: int) -> _Plan:
    step = step_size(torch.tensor([qp], device=state.device))
    motion = search.run(state, planes[0], step)
    prediction = state.moved(motion)
    difference = [(x - p)[0].int() for x, p in zip(planes, prediction.base, strict=True)]
    target = to_order(forward_transform(difference[0], difference[1], FRACTION_BITS))
    return _Plan(planes, qp, period, motion, prediction, target)


@alone_if_small
def _encode_frame(state: CodingState, plan: _Plan) -> Later:
    coded = _later(plan.planes)
    send_motion(state, coded.coder, plan.motion, plan.period)
    context = state.context(plan.qp, False, plan.prediction, plan.motion.vectors(state.distances))
    source = Encoding(coded.coder, *state.learning(state.codec.tables), plan.target, whole_steps(context.qps))
    state.finish_frame(context, plan.prediction, source, coded)
    return coded


def _later(planes: Planes) -> Later:
    return Later(SymbolEncoder(), as_samples((planes[0][0], planes[1][0])))


def _cost(state: CodingState, coded: Later, plan: _Plan) -> float:
    """Bits, and squared error at what it is worth, after the frame was coded."""
    return coded.coder.estimated_bits + 7.5 / float(step_size(torch.tensor(plan.qp))) ** 2 * _squared_error(
        state, plan.planes
    )


@alone_if_small
def _inter_start(state: CodingState, plan: _Plan, proposed: Field) -> _Start:
    """Code a segment's first frame without the field, then with one level more as long as that makes it cheaper.

    The field's whole cost is held against this one frame, though the segment's others gain from it too.
    """
    state.place = 0
    best: tuple[float, _Start] | None = None
    for sent in range(len(proposed) + 1):
        trial, head = state.fork(), SymbolEncoder()
        send_field(trial, head, proposed, sent, plan.qp)
        coded = _encode_frame(trial, plan)
        cost = head.estimated_bits + _cost(trial, coded, plan)
        if best is not None and cost >= best[0]:
            break
        best = cost, _Start(trial, head, coded, head.estimated_bits, None)
    assert best is not None
    return best[1]


@alone_if_small
def _intra_start(
    state: CodingState,
    search: FrameSearch,
    planes: Planes,
    qp: int,
    proposed: Field,
    following: Planes | None,
    following_qp: int,
    tuning: Tuning,
) -> _Start:
    """Code an intra frame, with one level of the field more as long as that makes the frame after it cheaper.

    The field does nothing for the intra frame itself.
    """
    state.place = 0
    whole = [plane[0].int().cpu().numpy() for plane in planes]
    intervals, coded = encode_intra((whole[0], *np.ascontiguousarray(whole[1])), state.intra_settings(qp))
    plan: _Plan | None = None
    best: tuple[float, _Start] | None = None
    if not proposed:
        following = None
    for sent in range(len(proposed) + 1 if following is not None else 1):
        trial, head, frame = state.fork(), SymbolEncoder(), _later(planes)
        send_filter_changes(head, tuning.changes)
        trial.adapt(tuning.changes)
        before = head.estimated_bits
        send_field(trial, head, proposed, sent, qp)
        field_bits = head.estimated_bits - before
        frame.coder.encode_intervals(intervals)
        trial.finish_intra(qp, coded, frame)
        cost = field_bits
        if following is not None:
            plan = plan or _plan_frame(trial, search, following, following_qp, tuning.period)
            after = trial.fork()
            cost += _cost(after, _encode_frame(after, plan), plan)
        if best is not None and cost >= best[0]:
            break
        best = cost, _Start(trial, head, frame, field_bits, plan)
    assert best is not None
    return best[1]


def _squared_error(state: CodingState, planes: Planes) -> float:
    """Weighted as the training objective weighs luma and chroma."""
    assert state.reference is not None
    luma, chroma = (float((x - y).square().sum()) for x, y in zip(planes, state.reference.last, strict=True))
    return 0.75 * luma + 0.5 * chroma
