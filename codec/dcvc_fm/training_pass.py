"""DCVC-FM as training sees it: the codec's own loop for a batch of clips, in steps of a real quantizer.

As when coding: quantizer and order of halves, the exact networks with their rounding, the true motion search, frames
that were coded as references. But the transform runs in floats, intra frames are merely quantized, and nothing adapts
from frame to frame. The temporal feature carries gradients from frame to frame (a cascaded loss); pictures do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.api import TrainingConditions, TrainingOutput
from codec.dcvc_fm.config import place_in_hierarchy, refreshes
from codec.dcvc_fm.network import CORRECTION_UNITS, MEMORY, decoded_inputs, frame_inputs, seen
from codec.dcvc_fm.scalers import CHANNELS
from codec.distributions import scale_bits
from codec.draws import draw_each, draw_together
from codec.exact.blocks import checkerboard
from codec.exact.layers import quantized_once, recomputed
from codec.inter.context import STEP_UNITS, from_order, log_magnitude, log_real, signed_real, to_order
from codec.inter.frame_motion import goes
from codec.inter.layout import LUMA_CHANNELS, ORDER
from codec.inter.prediction import Planes, Prediction, Reference, predict, renew
from codec.inter.quantization import CHROMA_SHARE, FRACTION_BITS, intra_steps, quantize_float
from codec.inter.scale_index import INDEX_UNITS, TOLD_GUESSES, whole_index
from codec.lifting import float_inverse, float_transform
from codec.motion_coding import estimate_motion_bits
from codec.motion_search import search_motion

if TYPE_CHECKING:
    from codec.dcvc_fm.model import DCVCFM

REACH = 16  # luma samples of the coarse motion search: crops are small
_INTRA_ROUNDING = 0.4  # of magnitudes in steps
_REFRESHED = 0.25  # of training's clips have a refresh somewhere after their first inter frame
# Squared error weights behind PSNR-YUV 6:1:1 a luma pixel: 6/8 of luma, 1/8 of each chroma plane of a quarter's size.
_SSE_WEIGHT = [0.75 if c < 64 else 0.5 for c in ORDER]
# What makes chroma's error in `CHROMA_SHARE` of luma's steps as dear as luma's: PSNR-YUV is a mean of decibels, and in
# these a plane's error counts by its share of that plane's error, not by its size.
_CHROMA_WORTH = 0.75 / CHROMA_SHARE**2
_KEPT_WEIGHT = [0.75 if c < 64 else _CHROMA_WORTH for c in ORDER]


@quantized_once()
def training_pass(
    codec: DCVCFM, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions
) -> TrainingOutput:
    """See `Codec.forward`."""
    batch, frames = luma.shape[:2]
    luma_f, chroma_f = luma[:, :, 0].float(), chroma.float()
    # Further down a chain references are no longer so fine: clips begin from either kind.
    boost = (draw_each(batch, device=qp.device) * (codec.config.intra_boost + 1)).long()
    y, uv, intra_bits = _intra_frames(luma_f[:, 0], chroma_f[:, 0], _finer(qp, boost, 62))
    reference = Reference.after_intra((y, uv))
    zeros = torch.zeros(batch, device=luma.device)
    outputs = [(intra_bits, _squared_error((luma_f[:, 0], chroma_f[:, 0]), (y, uv)), y, uv)]
    extra = 2 + int(draw_together() * (max(frames, 3) - 2)) if draw_together() < _REFRESHED else 0
    feature = vectors = None
    for t in range(1, frames):
        planes = luma_f[:, t], chroma_f[:, t]
        place = place_in_hierarchy(t)
        coder = _FramePass(codec, _finer(qp, codec.config.hierarchy_boosts[place], 63), place)
        with torch.no_grad():
            references, distances = [frame[0] for frame in reference.frames], reference.distances
            motion = search_motion(planes[0], references, distances, coder.step[:, 0, 0, 0], REACH, vectors)
            motion = motion.to(luma.device)
            vectors = motion.vectors(distances)
            prediction = predict(reference, motion)
            motion_bits = estimate_motion_bits(motion, distances).to(luma.device)
        if feature is None or refreshes(t, codec.config.refresh_period) or t == extra:
            feature = codec.network.renewed(coder.look(reference.last))
        moved = codec.network.feature.move(feature, vectors)
        run = recomputed(codec, coder.run) if conditions.recompute else coder.run
        bits, sse, feature, residuals = run(planes, prediction, moved, vectors)
        if not conditions.cascaded:
            feature = feature.detach()
        with torch.no_grad():
            (y, uv), shown = (_rebuilt(prediction, residual) for residual in residuals)
            whole = torch.floor(coder.step[:, 0, 0, 0]).clamp_min(1).long()
            reference = renew(reference, prediction, (y, uv), whole, goes(reference.distances, *codec.STAYING))
        outputs.append((bits + motion_bits, sse, *shown))
    return TrainingOutput(
        bits=torch.stack([o[0] for o in outputs], dim=1),
        field_bits=zeros,
        sse=torch.stack([o[1] for o in outputs], dim=1),
        luma=torch.stack([o[2] for o in outputs], dim=1)[:, :, None],
        chroma=torch.stack([o[3] for o in outputs], dim=1),
    )


def _finer(qp: Tensor, boost: Tensor | int, most: int) -> Tensor:
    return (qp + boost).clamp(0, most)


def _rebuilt(prediction: Prediction, residual: Tensor) -> Planes:
    luma, chroma = (
        torch.round(p + r).clamp(0, 255)
        for p, r in zip(prediction.base, float_inverse(from_order(residual)), strict=True)
    )
    return luma, chroma


def _squared_error(planes: Planes, made: Planes) -> Tensor:
    luma, chroma = ((x - y).square().flatten(1).sum(1) for x, y in zip(planes, made, strict=True))
    return 0.75 * luma + 0.5 * chroma


@torch.no_grad()
def _intra_frames(luma: Tensor, chroma: Tensor, qp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First frames, quantized as coarsely as the intra coder would: luma (B, H, W), chroma (B, 2, H/2, W/2) → the same,
    and about their bits, (B,).

    The intra coder itself would take longer than all else in a step; what it adds, prediction, changes rates far more
    than pictures.
    """
    table = torch.from_numpy(intra_steps()).float().to(luma.device) / (1 << FRACTION_BITS)
    plane = torch.tensor([int(c >= LUMA_CHANNELS) for c in range(CHANNELS)], device=luma.device)
    step = table[qp][:, plane][:, :, None, None]
    units = float_transform(luma - 128, chroma - 128) / step
    kept = units.sign() * torch.floor(units.abs() + _INTRA_ROUNDING)
    y, uv = float_inverse(kept * step)
    # A two-sided geometric distribution for each channel.
    mean = kept.abs().mean((2, 3)).clamp_min(1e-6)
    bits = torch.log2(1 + mean) + mean * torch.log2(1 + 1 / mean) + mean / (1 + mean)
    return torch.round(y + 128).clamp(0, 255), torch.round(uv + 128).clamp(0, 255), bits.sum(1) * kept[0, 0].numel()


class _FramePass:
    """The float twin of `frame_coding.code_frame`, for a batch. The networks are the very same."""

    def __init__(self, codec: DCVCFM, qp: Tensor, place: int) -> None:
        self.codec, self.network, self.qp = codec, codec.network, qp
        self.place = torch.full_like(qp, place)
        self.step = self.network.scalers.decoder_steps(qp)[:, :, None, None]
        self.encoder_step = self.network.scalers.encoder_steps(qp)[:, :, None, None]
        self.known_step = self.step.detach()
        self.dead_zones, self.roundings = codec.tables.dead_zones / 256, codec.tables.roundings / 256
        self.weight = torch.tensor(_SSE_WEIGHT, device=qp.device).view(1, -1, 1, 1)
        self.kept_weight = torch.tensor(_KEPT_WEIGHT, device=qp.device).view(1, -1, 1, 1)

    def look(self, frame: Planes) -> Tensor:
        """A decoded frame as a temporal feature is made anew from it."""
        units = self._in_steps(frame[0] - 128, frame[1] - 128)
        return frame_inputs(log_real(units), signed_real(units))

    def run(
        self, planes: Planes, prediction: Prediction, moved: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """One frame → bits (B,), weighted squared error of what is shown (B,), temporal feature, and the residuals
        (B, 96, h, w) of what stays a reference and of what is shown."""
        network, base = self.network, prediction.base
        residual = to_order(float_transform(planes[0] - base[0], planes[1] - base[1]))
        expected = self._in_steps(base[0] - 128, base[1] - 128)
        apart = [self._in_steps(guess[0] - base[0], guess[1] - base[1]) for guess in prediction.guesses]
        magnitudes = [log_real(expected), *(log_real(each) for each in apart[:TOLD_GUESSES]), log_magnitude(vectors)]
        guesses = signed_real(torch.stack(apart, dim=1))
        features = network.begin(moved, torch.cat(magnitudes, dim=1), self.place, self.qp)
        latent = residual / self.encoder_step
        if self.codec.encoder is not None:
            latent = self.codec.encoder(latent, features)

        h, w = latent.shape[2:]
        first = checkerboard(CHANNELS, h, w, latent.device)[0]
        early = torch.zeros(CHANNELS, h * w, device=latent.device).scatter_(1, first, 1.0).view(CHANNELS, h, w)
        index = network.scale_index(features, 0, self.place, self.qp)
        mean = network.mean(features, 0, guesses) / STEP_UNITS
        known = self._quantize(latent - mean, index)[0] * early
        features = network.second_half(features, seen(log_magnitude(known), known))
        index = torch.where(early > 0, index, network.scale_index(features, 1, self.place, self.qp))
        mean = torch.where(early > 0, mean, network.mean(features, 1, guesses) / STEP_UNITS)
        found, dead_zone, rounding = self._quantize(latent - mean, index)
        through = (latent - mean) + (found - (latent - mean)).detach()
        bits = scale_bits(self.codec.config.distribution, through, index / INDEX_UNITS, dead_zone, rounding)

        # What became zero has the mean's error; elsewhere it is the latent that decides.
        value = torch.where(found == 0, mean, mean + through)
        units = signed_real(value)
        so_far = signed_real(expected + value)
        decoded = decoded_inputs(seen(log_magnitude(found), found), so_far, guesses[:, MEMORY] - units)
        last = network.decode(features, decoded)
        kept = value * self.step
        shown = (value.detach() + network.correction(last) / CORRECTION_UNITS) * self.known_step
        # The correction answers for what is shown, all else for what later frames are predicted from.
        of_kept = ((residual - kept).square() * self.kept_weight).sum((1, 2, 3))
        of_shown = ((residual - shown).square() * self.weight).sum((1, 2, 3))
        sse = of_shown + (of_kept - of_kept.detach())
        return bits.sum((1, 2, 3)), sse, network.feature.renew(moved, last), (kept.detach(), shown.detach())

    def _in_steps(self, luma: Tensor, chroma: Tensor) -> Tensor:
        return to_order(float_transform(luma, chroma)) / self.known_step

    def _quantize(self, residual: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols, and how it was decided, for scale indices in sixteenths."""
        whole = whole_index(index.detach()).clamp_min(1)  # where all is zero, nothing would be learned
        dead_zone, rounding = self.dead_zones[whole], self.roundings[whole]
        return quantize_float(residual, dead_zone, rounding), dead_zone, rounding
