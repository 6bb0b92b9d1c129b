"""One differentiable pass over a batch of clips: the codec's loop in floats, quantizer and groups as when coding.

Gradients: the rate sees symbols through a straight-through estimate; the distortion sees the true derivative with the
symbols held fixed, so a mean learns from exactly those coefficients that quantize to zero. Pictures are detached
from each other; the recurrent state is not, where the loss is cascaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.api import TrainingConditions, TrainingOutput
from codec.distributions import scale_bits
from codec.draws import draw_each
from codec.exact.blocks import checkerboard
from codec.exact.layers import quantized_once, recomputed
from codec.innvc.activity import block_qps
from codec.innvc.field import LARGEST_VALUE, Field, SliceMeans
from codec.inter.context import (
    STEP_UNITS,
    around,
    dc_slopes,
    from_order,
    log_magnitude,
    log_real,
    seen_symbols,
    signed_real,
    to_order,
)
from codec.inter.frame_motion import goes
from codec.inter.layout import GROUP_SIZES, GROUP_STARTS, ORDER, dc_pyramid, live_channels
from codec.inter.prediction import Planes, Prediction, Reference, predict, renew
from codec.inter.quantization import (
    channel_step_sizes,
    frame_qp,
    quantize_float,
    sample_step,
    step_size,
)
from codec.inter.scale_index import INDEX_UNITS, TOLD_GUESSES, whole_index
from codec.lifting import float_inverse, float_transform
from codec.motion_coding import estimate_motion_bits
from codec.motion_search import search_motion

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

REACH = 16  # luma samples of the coarse motion search: crops are small
_CHANNELS = sum(GROUP_SIZES)
# Squared error weights behind PSNR-YUV 6:1:1 a luma pixel: 6/8 of luma, 1/8 of each chroma plane of a quarter's size.
_SSE_WEIGHT = [0.75 if c < 64 else 0.5 for c in ORDER]


@quantized_once()
def training_pass(
    codec: InnVC, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions
) -> TrainingOutput:
    """See `Codec.forward`."""
    batch, frames, _, height, width = luma.shape
    luma_f, chroma_f = luma[:, :, 0].float(), chroma.float()
    passes = [
        _FramePass(codec, frame_qp(qp, codec.config.intra_boost if intra else 0), conditions.mask_fraction)
        for intra in (True, False)
    ]
    field, field_bits = _propose_field(codec, luma_f, chroma_f, passes[0].qp, passes[0].step, conditions.field_dropout)
    reference: Reference | None = None
    state = vectors = None
    outputs = []
    for t in range(frames):
        planes = luma_f[:, t], chroma_f[:, t]
        coder = passes[min(t, 1)]
        motion_bits = torch.zeros(batch, device=luma.device)
        if reference is None:
            prediction = Prediction.flat(planes)
            vectors = torch.zeros(batch, 2, height // 8, width // 8, dtype=torch.int64, device=luma.device)
        else:
            with torch.no_grad():
                before = vectors if t > 1 else None
                references, distances = [frame[0] for frame in reference.frames], reference.distances
                motion = search_motion(planes[0], references, distances, step_size(coder.qp), REACH, before)
                motion = motion.to(luma.device)
                vectors = motion.vectors(distances)
                prediction = predict(reference, motion)
                motion_bits = estimate_motion_bits(motion, distances).to(luma.device)
        assert vectors is not None
        features = codec.field_decoder(field, t % codec.config.segment_frames, height // 8, width // 8)
        run = recomputed(codec.prior, coder.run) if conditions.recompute else coder.run
        bits, sse, state, residual = run(min(t, 2), planes, prediction, state, vectors, features)
        if state is not None and not conditions.cascaded:
            state = state.detach()
        with torch.no_grad():
            rest = float_inverse(from_order(residual))
            y, uv = (torch.round(p + r).clamp(0, 255) for p, r in zip(prediction.base, rest, strict=True))
            gone = goes(reference.distances) if reference else 0
            reference = renew(reference, prediction, (y, uv), coder.whole_step, gone)
        outputs.append((bits + motion_bits, sse, y[:, None], uv))
    return TrainingOutput(
        bits=torch.stack([o[0] for o in outputs], dim=1),
        field_bits=field_bits,
        sse=torch.stack([o[1] for o in outputs], dim=1),
        luma=torch.stack([o[2] for o in outputs], dim=1),
        chroma=torch.stack([o[3] for o in outputs], dim=1),
    )


class _FramePass:
    """The float twin of `frame_coding.code_coefficients`, for a batch. The prior is the very same network."""

    def __init__(self, codec: InnVC, qp: Tensor, mask_fraction: float) -> None:
        self.prior, self.qp, self.step = codec.prior, qp, channel_step_sizes(qp)
        self.family, self.whole_step = codec.config.distribution, sample_step(qp)
        self.qps, self.activity = qp, codec.config.activity
        self.dead_zones, self.roundings = codec.tables.dead_zones / 256, codec.tables.roundings / 256
        live = torch.tensor([live_channels(mask_fraction, int(q)) for q in qp], device=qp.device)
        self.alive = (torch.arange(_CHANNELS, device=qp.device) < live[:, None]).float()[:, :, None, None]
        self.weight = torch.tensor(_SSE_WEIGHT, device=qp.device).view(1, -1, 1, 1)

    def run(
        self,
        kind: int,
        planes: Planes,
        prediction: Prediction,
        state: Tensor | None,
        vectors: Tensor,
        field: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """One frame → bits (B,), weighted squared error (B,), recurrent state, residual (B, 96, h, w)."""
        prior = self.prior
        base = prediction.base
        self.qps, step = self.qp, self.step
        if self.activity and prediction.guesses:
            self.qps = block_qps(base[0], self.qp, self.activity)
            step = channel_step_sizes(self.qps)

        def in_steps(luma: Tensor, chroma: Tensor) -> Tensor:
            return to_order(float_transform(luma, chroma)) / step

        target = in_steps(planes[0] - base[0], planes[1] - base[1])
        magnitudes = [log_real(in_steps(base[0] - 128, base[1] - 128))]
        guesses = None
        if prediction.guesses:
            apart = [in_steps(guess[0] - base[0], guess[1] - base[1]) for guess in prediction.guesses]
            magnitudes += [log_real(each) for each in apart[:TOLD_GUESSES]]
            guesses = signed_real(torch.stack(apart, dim=1))
        else:
            magnitudes += [torch.zeros_like(target)] * TOLD_GUESSES
        inputs = [*magnitudes, log_magnitude(vectors), field]
        moved = None
        if prior.state is not None:
            batch, _, h, w = target.shape
            start = prior.state.empty(batch, h, w, target.device)
            moved = start if kind == 0 or state is None else prior.state.move(state, vectors)
            inputs.append(moved)
        kinds = torch.full_like(self.qp, kind)
        features = prior.begin(torch.cat(inputs, dim=1), kinds, self.qp)
        bits: list[Tensor] = []
        coefficients: list[Tensor] = []
        beside: list[Tensor] = []
        for group, (size, start_channel) in enumerate(zip(GROUP_SIZES, GROUP_STARTS, strict=True)):
            part = slice(start_channel, start_channel + size)
            if group == 0 and kind == 0:
                cost, found, value = self._pyramid(features, target[:, part])
            else:
                signed = signed_real(torch.cat([*coefficients, *beside], dim=1)) if group else None
                sixteenths = prior.mean(features, group, signed, None if guesses is None else guesses[:, :, part])
                assert sixteenths is not None
                mean = sixteenths / STEP_UNITS
                cost, found = self._group(features, group, kinds, target[:, part] - mean, self.alive[:, part])
                value = mean + found
            bits.append(cost)
            coefficients.append(value)
            if group < 2:
                beside.append(around(value.detach()) if group else dc_slopes(value.detach()))
            if group < len(prior.learn):
                features = prior.advance(features, group, seen_symbols(found))
        decoded = torch.cat(coefficients, dim=1)
        # Where blocks have steps of their own, an error counts by its block's step.
        error = ((target - decoded) * self.step).square() * self.weight
        sse = error.sum((1, 2, 3))
        renewed = None if prior.state is None or moved is None else prior.state.renew(moved, features)
        return torch.stack(bits).sum(0), sse, renewed, decoded.detach() * step

    def _group(
        self, features: Tensor, group: int, kinds: Tensor, residual: Tensor, alive: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Bits (B,) and symbols (B, n, h, w) of a group's residual in steps."""
        base = self.prior.group_base(group, kinds, self.qps)
        index = self.prior.scale_index(features, group, base)
        found = self._quantize(residual, index)[0] * alive
        if self.prior.in_halves(group):
            n, h, w = residual.shape[1:]
            first = checkerboard(n, h, w, residual.device)[0]
            early = torch.zeros(n, h * w, device=residual.device).scatter_(1, first, 1.0).view(n, h, w)
            known = log_magnitude(found) * early
            later = self.prior.scale_index(self.prior.second_half(features, group, known), group, base)
            index = torch.where(early > 0, index, later)
        found, dead_zone, rounding = self._quantize(residual, index)
        found = found * alive
        through = residual + (found - residual).detach()
        cost = scale_bits(self.family, through, index / INDEX_UNITS, dead_zone, rounding) * alive
        return cost.sum((1, 2, 3)), found

    def _quantize(self, residual: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols, and how it was decided, for scale indices in sixteenths."""
        whole = whole_index(index.detach()).clamp_min(1)  # where all is zero, nothing would be learned
        dead_zone, rounding = self.dead_zones[whole], self.roundings[whole]
        return quantize_float(residual, dead_zone, rounding), dead_zone, rounding

    def _pyramid(self, features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, _, h, w = wanted.shape
        base = self.prior.pyramid_scale(self.qp)
        raw = self.prior.scale_index(features, 0, torch.zeros_like(base[:, 0, :, None, None])).flatten(2)
        flat = wanted.flatten(2)
        known, found = torch.zeros_like(flat), torch.zeros_like(flat)
        bits = torch.zeros(batch, device=wanted.device)
        for part in dc_pyramid(h, w, wanted.device):
            mean = part.predict_float(known)
            residual = flat[:, :, part.positions] - mean
            index = raw[:, :, part.positions] + base[:, part.level, :, None]
            symbols, dead_zone, rounding = self._quantize(residual, index)
            bits = bits + scale_bits(self.family, symbols, index / INDEX_UNITS, dead_zone, rounding).sum((1, 2))
            found[:, :, part.positions] = symbols
            known[:, :, part.positions] = mean + symbols
        return bits, found.reshape(wanted.shape), known.reshape(wanted.shape)


def field_magnitudes(luma: Tensor, chroma: Tensor, step: Tensor) -> Tensor:
    """What the field's encoder looks at, of frames less 128 or of differences between frames: log2(1 + |v| / step).

    luma: (B, H, W), chroma: (B, 2, H/2, W/2) float; step: (B, 96, 1, 1). Returns (B, 96, H/8, W/8). Only an encoder
    sees it, so floats will do.
    """
    return torch.log2(1 + (to_order(float_transform(luma, chroma)) / step).abs())


def _propose_field(
    codec: InnVC, luma: Tensor, chroma: Tensor, qp: Tensor, step: Tensor, dropout: float
) -> tuple[Field, Tensor]:
    """The field that is sent, with its bits (B,); dropped samples get an empty one for nothing."""
    texture = field_magnitudes(luma[:, 0] - 128, chroma[:, 0] - 128, step)
    slices = SliceMeans(texture, codec.config.slice_frames)
    for t in range(min(luma.shape[1], codec.config.segment_frames)):
        moved = (luma[:, t] - luma[:, t - 1], chroma[:, t] - chroma[:, t - 1]) if t else None
        slices.add(field_magnitudes(*moved, step) if moved else None)
    proposed = codec.field_encoder(texture, slices.means(), qp)
    # What the encoder may decide later is met in training: no field at all, or the whole-picture level alone.
    draw = draw_each(len(qp), device=qp.device)
    field: Field = []
    bits = torch.zeros(len(qp), device=qp.device)
    decoder = codec.field_decoder
    for number, grid in enumerate(proposed):
        kept = (draw >= (dropout if number == 0 else 2 * dropout)).float()
        limited = grid.clamp(-LARGEST_VALUE, LARGEST_VALUE)
        whole = limited + (torch.round(limited) - limited).detach()
        rows = decoder.rows(number, qp)[:, None, :, None, None].expand(whole.shape)
        bits = bits + decoder.tables.bits(whole, rows).flatten(1).sum(1) * kept
        field.append(whole * kept.view(-1, 1, 1, 1, 1))
    return field, bits
