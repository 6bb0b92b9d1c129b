"""The inter model: a frame given what was decoded before it.

    frame, c1 ─ 1/2 ─ with c2, ·q ─ 1/4 ─ with c3 ─ 1/8 ─ latent 1/16 ─┬─▶ symbols ─▶ latent
                                                                       └─ hyper 1/64 ─▶ symbols ─┐
    symbols of earlier frames, of the motion ─ temporal prior ───────────────────────────────────┴─ prior

    latent ─ 1/8 ─ 1/4 ─ with c3 ─ 1/2 ·q ─ with c2 ─ 1 ─ with c1 ─ two U-Nets ─┬─ 3x3 ─▶ frame
                                                                                └─▶ temporal feature

Contexts c1, c2, c3 are in `temporal_contexts`, motion in `motion_model`. Transforms are floats, priors exact.
Source: DCVC-FM (CVPR 2024, arXiv 2402.17414).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.dcvc_fm_base.blocks import BlockA, BlockB, Down, UNet, Up, stride_two
from codec.dcvc_fm_base.config import DCVCFMBaseConfig
from codec.dcvc_fm_base.intra_model import HyperEncoder
from codec.dcvc_fm_base.latent_coding import HyperTables
from codec.dcvc_fm_base.latent_prior import Expected, LatentPrior, as_activation
from codec.dcvc_fm_base.motion_model import MotionCodec, MotionEstimation
from codec.dcvc_fm_base.scalers import InterpolatedScaler
from codec.dcvc_fm_base.temporal_contexts import TemporalContexts
from codec.dcvc_fm_base.temporal_prior import TemporalPrior
from codec.inter.context import STEP_UNITS
from codec.streams import QP_COUNT

Contexts = tuple[Tensor, Tensor, Tensor]
_GREY = 0.5


class InterModel(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: DCVCFMBaseConfig) -> None:
        super().__init__()
        latent, hyper = config.latent, config.hyper
        self.estimation = MotionEstimation(config.flow_scales, config.flow_width)
        self.motion = MotionCodec(config)
        self.contexts = TemporalContexts(config)
        self.encoder = ContextualEncoder(config)
        self.hyper_encoder = HyperEncoder(latent, hyper)
        self.hyper_tables = HyperTables(hyper, QP_COUNT, config.hyper_reach)
        self.temporal_prior = TemporalPrior(latent, config.motion, config.intra_latent)
        self.prior = LatentPrior(latent, hyper, latent, 3 * latent, config.prior, maps=latent, blocks=2)
        self.decoder = ContextualDecoder(config)
        self.reconstruction = Reconstruction(config)

    def expect(self, hyper: Tensor, temporal: Tensor, before: Tensor) -> Expected:
        """From hyper-latents, whole; the temporal prior (B, C, H/16, W/16); the last latent in sixteenths."""
        seen = [self.prior.hyper_features(hyper), temporal, as_activation(before)]
        return self.prior.begin(torch.cat(seen, dim=1))


class ContextualEncoder(nn.Module):
    """A frame (B, 3, H, W) and contexts → its latent (B, C, H/16, W/16)."""

    def __init__(self, config: DCVCFMBaseConfig) -> None:
        super().__init__()
        full, half, quarter = config.feature, config.half, config.quarter
        self.at_half = Down(3 + full, half)
        self.join_half = BlockA(2 * half, half)
        self.scaler = InterpolatedScaler(half, decoder=False)
        self.at_quarter = Down(half, quarter)
        self.join_quarter = BlockA(2 * quarter, quarter)
        self.at_eighth = nn.Sequential(Down(quarter, quarter), BlockA(quarter))
        self.to_latent = stride_two(quarter, config.latent)

    def forward(self, frame: Tensor, contexts: Contexts, qp: Tensor) -> Tensor:
        c1, c2, c3 = contexts
        half = self.at_half(torch.cat([frame - _GREY, c1], dim=1))
        half = self.join_half(torch.cat([half, c2], dim=1)) * self.scaler(qp)
        quarter = self.join_quarter(torch.cat([self.at_quarter(half), c3], dim=1))
        return torch.as_tensor(self.to_latent(self.at_eighth(quarter)))


class ContextualDecoder(nn.Module):
    """A decoded latent in sixteenths and contexts → features (B, 32, H, W)."""

    def __init__(self, config: DCVCFMBaseConfig) -> None:
        super().__init__()
        half, quarter = config.half, config.quarter
        self.at_eighth = nn.Sequential(Up(config.latent, quarter, 3), BlockA(quarter))
        self.at_quarter = Up(quarter, quarter, 3)
        self.join_quarter = BlockA(2 * quarter, quarter)
        self.at_half = Up(quarter, half, 3)
        self.scaler = InterpolatedScaler(half, decoder=True)
        self.join_half = BlockA(2 * half, half)
        self.at_full = Up(half, config.decoded, 3)

    def forward(self, latent: Tensor, contexts: Contexts, qp: Tensor) -> Tensor:
        _, c2, c3 = contexts
        quarter = self.at_quarter(self.at_eighth(latent / STEP_UNITS))
        half = self.at_half(self.join_quarter(torch.cat([quarter, c3], dim=1))) * self.scaler(qp)
        return torch.as_tensor(self.at_full(self.join_half(torch.cat([half, c2], dim=1))))


class Reconstruction(nn.Module):
    """Decoded features (B, 32, H, W) and c1 → frame (B, 3, H, W), not yet within [0, 1], and the temporal feature."""

    def __init__(self, config: DCVCFMBaseConfig) -> None:
        super().__init__()
        feature = config.feature
        self.enter = BlockB(config.decoded + feature, feature)
        self.first = UNet(feature, feature, config.refine, config.refine_blocks)
        self.second = UNet(feature, feature, config.refine, config.refine_blocks)
        self.picture = nn.Conv2d(feature, 3, 3, padding=1)

    def forward(self, decoded: Tensor, contexts: Contexts) -> tuple[Tensor, Tensor]:
        feature = self.second(self.first(self.enter(torch.cat([decoded, contexts[0]], dim=1))))
        return self.picture(feature) + _GREY, feature
