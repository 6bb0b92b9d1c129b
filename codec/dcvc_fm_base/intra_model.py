"""The intra model: a frame by itself.

    frame ─ 1/2 ·q ─ 1/4 ─ 1/8 ─ latent 1/16 ─┬─▶ symbols ─▶ latent
                                              └─ hyper 1/64 ─▶ symbols ─▶ prior
    latent ─ 1/8 ─ 1/4 ─ 1/2 ·q ─ 1 ─ U-Net ─ 3x3 ─▶ frame

The transforms are floats; the prior is exact. Source: DCVC-FM (CVPR 2024, arXiv 2402.17414).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.dcvc_fm_base.blocks import BlockA, Down, UNet, Up, stride_two
from codec.dcvc_fm_base.config import DCVCFMBaseConfig
from codec.dcvc_fm_base.latent_coding import HyperTables
from codec.dcvc_fm_base.latent_prior import Expected, LatentPrior
from codec.dcvc_fm_base.scalers import ScalerTable
from codec.inter.context import STEP_UNITS
from codec.streams import QP_COUNT

_REFINE_BLOCKS = 1
_GREY = 0.5
_LOUDER = 8.0  # hyper-latents that all round to zero would tell the prior nothing, and learn slowly to


class IntraModel(nn.Module):
    """See the module's drawing. Frames are (B, 3, H, W) in [0, 1], H and W multiples of 64."""

    def __init__(self, config: DCVCFMBaseConfig) -> None:
        super().__init__()
        half, quarter, eighth = config.intra_widths
        latent, refine = config.intra_latent, config.intra_refine
        self.encoder_first = nn.Sequential(Down(3, half), BlockA(half))
        self.encoder_scaler = ScalerTable(half, decoder=False)
        self.encoder_rest = nn.Sequential(
            Down(half, quarter), BlockA(quarter), Down(quarter, eighth), BlockA(eighth), stride_two(eighth, latent)
        )
        self.hyper_encoder = HyperEncoder(latent, config.intra_hyper)
        self.hyper_tables = HyperTables(config.intra_hyper, QP_COUNT, config.hyper_reach)
        self.prior = LatentPrior(latent, config.intra_hyper, latent, latent, config.intra_prior, maps=2, blocks=1)
        self.decoder_first = nn.Sequential(
            BlockA(latent), Up(latent, eighth), BlockA(eighth), Up(eighth, quarter), BlockA(quarter), Up(quarter, half)
        )
        self.decoder_scaler = ScalerTable(half, decoder=True)
        self.decoder_rest = nn.Sequential(BlockA(half), Up(half, refine))
        self.refine = UNet(refine, refine, (refine, 2 * refine, 4 * refine), _REFINE_BLOCKS)
        self.picture = nn.Conv2d(refine, 3, 3, padding=1)

    def analyse(self, frame: Tensor, qp: Tensor) -> Tensor:
        """The latent (B, C, H/16, W/16) of a frame at QPs (B,) int64."""
        return torch.as_tensor(self.encoder_rest(self.encoder_first(frame - _GREY) * self.encoder_scaler(qp)))

    def expect(self, hyper: Tensor) -> Expected:
        """From hyper-latents (B, Z, H/64, W/64), whole."""
        return self.prior.begin(self.prior.hyper_features(hyper))

    def synthesise(self, latent: Tensor, qp: Tensor) -> Tensor:
        """A decoded latent in sixteenths as a frame, not yet held within [0, 1]."""
        features = self.decoder_first(latent / STEP_UNITS) * self.decoder_scaler(qp)
        return torch.as_tensor(self.picture(self.refine(self.decoder_rest(features)))) + _GREY


class HyperEncoder(nn.Module):
    """A latent (B, C, h, w) → hyper-latents (B, Z, h/4, w/4), real-valued."""

    def __init__(self, latent: int, hyper: int) -> None:
        super().__init__()
        self.block = BlockA(latent, hyper)
        self.first = stride_two(hyper, hyper)
        self.second = stride_two(hyper, hyper)

    def forward(self, latent: Tensor) -> Tensor:
        return torch.as_tensor(_LOUDER * self.second(nn.functional.leaky_relu(self.first(self.block(latent)))))
