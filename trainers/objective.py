"""The training objective: rate plus λ times distortion, with each frame weighted by what it stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from codec.api import TrainingOutput

PSNR_OF_EXACT = 100.0  # dB that an exact frame counts as

METRICS = ("loss", "bpp", "bpp_intra", "bpp_inter", "field_share", "psnr_yuv", "psnr_yuv_intra", "psnr_yuv_inter")


def frame_weights(frames: int, segment_frames: int) -> tuple[Tensor, float]:
    """Weights of a T-frame clip that stands for a longer segment: ((T,) of the frames, weight of the field).

    A segment has one intra frame, one field and segment_frames - 1 inter frames; the clip's T - 1 inter frames share
    the weight of those. The frames' weights sum to 1, so the objective reads as "per frame". A clip of one frame is
    its own segment.
    """
    if frames == 1:
        return torch.ones(1), 1.0
    segment = max(segment_frames, frames)
    inter = (segment - 1) / (frames - 1)
    return torch.tensor([1.0] + [inter] * (frames - 1)) / segment, 1.0 / segment


def rate_distortion(
    output: TrainingOutput, lambdas: Tensor, sample_weights: Tensor, pixels: int, segment_frames: int
) -> Tensor:
    """J in bits per luma pixel, each sample times its weight, averaged over the batch: a scalar with gradient.

    lambdas: (B,) bits per squared 8-bit error; sample_weights: (B,); pixels: luma pixels of a frame, H·W.
    """
    weights, field_weight = frame_weights(output.bits.shape[1], segment_frames)
    weights = weights.to(output.bits)
    cost = (weights * (output.bits + lambdas[:, None] * output.sse)).sum(dim=1) + field_weight * output.field_bits
    return (sample_weights * cost / pixels).mean()


@torch.no_grad()
def step_metrics(loss: Tensor, output: TrainingOutput, pixels: int, segment_frames: int) -> Tensor:
    """Figures of one step in the order of METRICS, (8,) float64, averaged over the batch; NaN where not defined
    (inter figures of one-frame clips). Rates are estimated bits per luma pixel, PSNR is in dB."""
    bits, sse = output.bits.detach().double(), output.sse.detach().double()
    weights, field_weight = frame_weights(bits.shape[1], segment_frames)
    weights = weights.to(bits)
    field_bits = field_weight * output.field_bits.detach().double()
    total = (weights * bits).sum(dim=1) + field_bits
    psnr = (10 * torch.log10(255.0**2 * pixels / sse.clamp_min(1e-12))).clamp_max(PSNR_OF_EXACT)
    return torch.stack(
        [
            loss.detach().double(),
            (total / pixels).mean(),
            (bits[:, 0] / pixels).mean(),
            (bits[:, 1:] / pixels).mean(),
            (field_bits / total.clamp_min(1e-12)).mean(),
            (weights * psnr).sum(dim=1).mean(),
            psnr[:, 0].mean(),
            psnr[:, 1:].mean(),
        ]
    )
