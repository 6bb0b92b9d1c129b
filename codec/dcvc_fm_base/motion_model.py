"""Motion between frames: a coarse-to-fine estimate for the encoder, and the codec that sends it.

    two frames ─ estimate, 4 scales ─ flow ─ 1/2 ·q ─ 1/4 ─ with feature ─ 1/8 ─ latent 1/16 ─▶ symbols ─▶ latent
    latent ─ 1/8 ─ 1/4 ─ with feature ─┬─ ·q ─ 1/2 ─ flow
                                       └─▶ the next frame's motion feature, 1/4

Source: DCVC-FM (CVPR 2024); the estimate is of SpyNet's kind (CVPR 2017).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.dcvc_fm_base.blocks import BlockA, Down, Up, stride_two
from codec.dcvc_fm_base.config import DCVCFMBaseConfig
from codec.dcvc_fm_base.intra_model import HyperEncoder
from codec.dcvc_fm_base.latent_coding import HyperTables
from codec.dcvc_fm_base.latent_prior import Expected, LatentPrior, as_activation
from codec.dcvc_fm_base.scalers import InterpolatedScaler
from codec.dcvc_fm_base.warping import resized_flow, warp
from codec.inter.context import STEP_UNITS
from codec.streams import QP_COUNT

# Motion shows in small differences between frames, which these spread out: trained alone, the network begins to see
# motion after a third as many steps as without.
_GREY, _CONTRAST = 0.5, 8.0


class MotionEstimation(nn.Module):
    """Flow (B, 2, H, W) in pixels, (across, down): from a frame's pixels to where they were in the one before."""

    def __init__(self, scales: int, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_FlowStep(width) for _ in range(scales))

    def forward(self, frame: Tensor, before: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [0, 1]; sizes are multiples of 2^(scales - 1)."""
        return self.flows(frame, before)[-1]

    def flows(self, frame: Tensor, before: Tensor) -> list[Tensor]:
        """The flow at each scale in that scale's pixels, from the coarsest to the frame's own."""
        pyramid = [((frame - _GREY) * _CONTRAST, (before - _GREY) * _CONTRAST)]
        for _ in range(len(self.scales) - 1):
            pyramid.append((F.avg_pool2d(pyramid[-1][0], 2), F.avg_pool2d(pyramid[-1][1], 2)))
        coarsest = pyramid[-1][0]
        flow = coarsest.new_zeros(len(frame), 2, coarsest.shape[2] // 2, coarsest.shape[3] // 2)
        found: list[Tensor] = []
        for step, (now, earlier) in zip(self.scales, reversed(pyramid), strict=True):
            flow = resized_flow(flow, now.shape[2:])
            flow = flow + step(torch.cat([now, warp(earlier, flow), flow], dim=1))
            found.append(flow)
        return found


class _FlowStep(nn.Sequential):
    """What a scale adds to the flow: five 7x7 convolutions."""

    def __init__(self, width: int) -> None:
        widths = [8, width // 2, width, width // 2, width // 4, 2]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 7, padding=3), nn.ReLU()]
        super().__init__(*layers[:-1])
        for layer in layers:
            if isinstance(layer, nn.Conv2d):  # PyTorch's own start fades by half a layer, and so do gradients
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.normal_(layers[-2].weight, std=1e-3)  # type: ignore[arg-type]


class MotionCodec(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: DCVCFMBaseConfig) -> None:
        super().__init__()
        width, hyper = config.motion, config.hyper
        self.width = width
        self.encoder_first = nn.Sequential(Down(2, width), BlockA(width))
        self.encoder_scaler = InterpolatedScaler(width, decoder=False)
        self.encoder_quarter = Down(width, width)
        self.encoder_join = BlockA(2 * width, width)
        self.encoder_rest = nn.Sequential(Down(width, width), BlockA(width), stride_two(width, width))
        self.hyper_encoder = HyperEncoder(width, hyper)
        self.hyper_tables = HyperTables(hyper, QP_COUNT, config.hyper_reach)
        self.prior = LatentPrior(width, hyper, width, 2 * width, config.motion_prior, maps=width, blocks=1)
        self.decoder_first = nn.Sequential(BlockA(width), Up(width, width), BlockA(width), Up(width, width))
        self.decoder_join = BlockA(2 * width, width)
        self.decoder_scaler = InterpolatedScaler(width, decoder=True)
        self.decoder_half = nn.Sequential(Up(width, width), BlockA(width))
        self.flow = nn.Conv2d(width, 8, 3, padding=1)
        nn.init.normal_(self.flow.weight, std=1e-3)

    def analyse(self, flow: Tensor, feature: Tensor, qp: Tensor) -> Tensor:
        """The latent (B, C, H/16, W/16) of a flow. feature: (B, C, H/4, W/4) of the motion before."""
        quarter = self.encoder_quarter(self.encoder_first(flow) * self.encoder_scaler(qp))
        return torch.as_tensor(self.encoder_rest(self.encoder_join(torch.cat([quarter, feature], dim=1))))

    def expect(self, hyper: Tensor, before: Tensor) -> Expected:
        """From hyper-latents, whole, and the motion latent before in sixteenths, (B, C, H/16, W/16)."""
        return self.prior.begin(torch.cat([self.prior.hyper_features(hyper), as_activation(before)], dim=1))

    def synthesise(self, latent: Tensor, feature: Tensor, qp: Tensor) -> tuple[Tensor, Tensor]:
        """Flow (B, 2, H, W), and the feature that goes on to the next frame."""
        quarter = self.decoder_first(latent / STEP_UNITS)
        feature = self.decoder_join(torch.cat([quarter, feature], dim=1))
        half = self.decoder_half(feature * self.decoder_scaler(qp))
        return F.pixel_shuffle(self.flow(half), 2), feature
