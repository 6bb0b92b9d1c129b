"""DCVC-FM base as training sees it: a batch of clips, frame by frame, each predicted from what was coded before.

Gradients go through the whole clip (a cascaded loss). Symbols are rounded straight through for what is rebuilt from
them, and have noise in rounding's place where their bits are estimated; the priors run in whole numbers, as they will
when coding.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from codec.api import TrainingConditions, TrainingOutput
from codec.dcvc_fm.config import HIERARCHY, place_in_hierarchy, refreshes
from codec.dcvc_fm_base.coding_state import Memory, after_intra, held, temporal_feature
from codec.dcvc_fm_base.latent_coding import estimate_hyper, estimate_latent
from codec.dcvc_fm_base.pictures import network_frame, planes
from codec.draws import ClipDraws, draw_together, seeds_each
from codec.exact.layers import quantized_once
from codec.inter.context import STEP_UNITS

if TYPE_CHECKING:
    from codec.dcvc_fm_base.model import DCVCFMBase

_KEPT_SAMPLES = 6 * 256 * 256  # luma samples of a clip; longer or larger ones are computed twice, to save memory
_REFRESHED = 0.25  # of training's clips have a refresh somewhere after their first inter frame


def training_pass(
    codec: DCVCFMBase, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions
) -> TrainingOutput:
    """See `Codec.forward`."""
    twice = torch.is_grad_enabled() and (conditions.recompute or luma[0].numel() > _KEPT_SAMPLES)
    # What is computed twice must find all as it was the first time, and so can't share quantized weights.
    with nullcontext() if twice else quantized_once():
        return _code_clips(codec, luma, chroma, qp, twice, conditions.cascaded)


def _code_clips(
    codec: DCVCFMBase, luma: Tensor, chroma: Tensor, qp: Tensor, twice: bool, cascaded: bool
) -> TrainingOutput:
    frames = luma.shape[1]
    first = luma[:, 0], chroma[:, 0]
    made, memory, bits = intra_frame(codec, network_frame(*first), qp)
    outputs = [_Coded(bits, made, first, 1.0)]
    # Clips too short to meet every place of the hierarchy begin anywhere in it.
    begin = int(draw_together() * len(HIERARCHY)) if frames <= len(HIERARCHY) else 0
    extra = 2 + int(draw_together() * (max(frames, 3) - 2)) if draw_together() < _REFRESHED else 0
    for t in range(1, frames):
        target = luma[:, t], chroma[:, t]
        place = place_in_hierarchy(t + begin)
        renews = refreshes(t, codec.config.refresh_period) or t == extra
        memory = memory if cascaded else memory.detached()
        made, memory, bits = inter_frame(codec, network_frame(*target), memory, qp, place, renews, twice)
        outputs.append(_Coded(bits, made, target, codec.config.place_weights[place]))
    shown = [o.shown() for o in outputs]
    return TrainingOutput(
        bits=torch.stack([o.bits for o in outputs], dim=1),
        field_bits=outputs[0].bits.new_zeros(len(luma)),
        sse=torch.stack([o.squared_error() for o in outputs], dim=1),
        luma=torch.stack([y for y, _ in shown], dim=1),
        chroma=torch.stack([uv for _, uv in shown], dim=1),
    )


class _Coded:
    """A frame as it came out, and what it should have been. weight: of its distortion's gradient."""

    def __init__(self, bits: Tensor, made: Tensor, target: tuple[Tensor, Tensor], weight: float) -> None:
        self.bits, self.weight, self.target = bits, weight, target
        self.planes = planes(made, *target[0].shape[2:])

    def squared_error(self) -> Tensor:
        """(B,), as `TrainingOutput.sse`; its value does not hang on the weight."""
        luma, chroma = (
            (x.float() - y).square().flatten(1).sum(1) for x, y in zip(self.target, self.planes, strict=True)
        )
        error = 0.75 * luma + 0.5 * chroma
        return error.detach() + self.weight * (error - error.detach())

    def shown(self) -> tuple[Tensor, Tensor]:
        luma, chroma = (torch.round(torch.nan_to_num(p.detach())).clamp(0, 255) for p in self.planes)
        return luma, chroma


def intra_frame(codec: DCVCFMBase, frame: Tensor, qp: Tensor) -> tuple[Tensor, Memory, Tensor]:
    """What is rebuilt (B, 3, H, W), not held within [0, 1]; memory; bits (B,)."""
    intra = codec.intra
    draws = ClipDraws(seeds_each(len(frame)))
    latent = intra.analyse(frame, qp)
    hyper, hyper_bits = estimate_hyper(intra.hyper_tables, qp, intra.hyper_encoder(latent))
    expected = intra.expect(hyper)
    before, after = expected.maps.split(1, dim=1)
    found, bits = estimate_latent(intra.prior, codec.intra_scales, expected, latent * before / STEP_UNITS, after, draws)
    made = intra.synthesise(found, qp)
    return made, after_intra(codec, held(made), found), hyper_bits + bits


def inter_frame(
    codec: DCVCFMBase, frame: Tensor, memory: Memory, qp: Tensor, place: int, renews: bool, twice: bool = False
) -> tuple[Tensor, Memory, Tensor]:
    """As `intra_frame`. twice: for its gradients the frame is computed once more, rather than kept until then."""
    inter = codec.inter
    motion_model = inter.motion
    motion_seeds, seeds = seeds_each(len(frame)), seeds_each(len(frame))

    def move() -> tuple[Tensor, ...]:
        flow = inter.estimation(frame, memory.frame)
        latent = motion_model.analyse(flow, memory.motion_feature, qp)
        hyper, hyper_bits = estimate_hyper(motion_model.hyper_tables, qp, motion_model.hyper_encoder(latent))
        expected = motion_model.expect(hyper, memory.motion)
        scaled = latent * STEP_UNITS / expected.maps
        draws = ClipDraws(motion_seeds)
        found, bits = estimate_latent(motion_model.prior, codec.inter_scales, expected, scaled, expected.maps, draws)
        flow, feature = motion_model.synthesise(found, memory.motion_feature, qp)
        contexts = inter.contexts(temporal_feature(codec, memory, place, renews), memory.frame, flow)
        return (*contexts, found, feature, hyper_bits + bits)

    def rebuild(c1: Tensor, c2: Tensor, c3: Tensor, motion: Tensor) -> tuple[Tensor, ...]:
        contexts = c1, c2, c3
        latent = inter.encoder(frame, contexts, qp)
        hyper, hyper_bits = estimate_hyper(inter.hyper_tables, qp, inter.hyper_encoder(latent))
        temporal, state = inter.temporal_prior(memory.state, memory.latent, motion)
        expected = inter.expect(hyper, temporal, memory.latent)
        scaled = latent * STEP_UNITS / expected.maps
        draws = ClipDraws(seeds)
        found, bits = estimate_latent(inter.prior, codec.inter_scales, expected, scaled, expected.maps, draws)
        made, feature = inter.reconstruction(inter.decoder(found, contexts, qp), contexts)
        return made, feature, found, state, hyper_bits + bits

    c1, c2, c3, motion, motion_feature, motion_bits = checkpoint(move, use_reentrant=False) if twice else move()
    given = c1, c2, c3, motion
    made, feature, found, state, bits = checkpoint(rebuild, *given, use_reentrant=False) if twice else rebuild(*given)
    return made, Memory(held(made), feature, motion_feature, found, motion, state), motion_bits + bits
