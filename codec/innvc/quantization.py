"""QP to step size, and the quantizer: dead zone everywhere but at QP 63, which is lossless."""

from __future__ import annotations

import torch
from torch import Tensor

LOSSLESS_QP = 63
FRACTION_BITS = 4  # of the transform's whole numbers, except when lossless
COARSEST_STEP = 128.0  # at QP 0; nine QPs halve it, so the step is 1 at QP 63


def step_size(qp: Tensor) -> Tensor:
    """Quantization step in 8-bit sample units for QPs 0..63, float32 of the same shape."""
    return COARSEST_STEP * torch.exp2(-qp.float() / 9)


def frame_qp(qp: Tensor, intra: bool, boost: int) -> Tensor:
    """QP that a frame of a stream with this QP is coded at; only QP 63 itself is lossless."""
    if not intra:
        return qp
    return torch.where(qp == LOSSLESS_QP, qp, (qp + boost).clamp_max(LOSSLESS_QP - 1))


def whole_step(qp: int) -> tuple[int, int]:
    """(step in the transform's units, the transform's fraction bits) for coding at this QP."""
    if qp == LOSSLESS_QP:
        return 1, 0
    return round(float(step_size(torch.tensor(qp))) * (1 << FRACTION_BITS)), FRACTION_BITS


def rounding_of(qp: int, dead_zone: float) -> float:
    """The quantizer's rounding offset at this QP."""
    return 0.5 if qp == LOSSLESS_QP else dead_zone


def quantize_whole(residual: Tensor, step: int, rounding: float) -> Tensor:
    """Symbols of whole-number residuals: sign·floor(|r|/step + rounding), int32."""
    offset = round(rounding * 256)
    magnitude = torch.div(residual.abs().long() * 256 + offset * step, 256 * step, rounding_mode="floor")
    if step == 1:
        magnitude = residual.abs().long()
    return (magnitude * residual.sign()).int()


def quantize_float(residual: Tensor, rounding: Tensor) -> Tensor:
    """The same in training: residuals in steps; rounding broadcast over samples. No gradient."""
    residual = residual.detach()
    return residual.sign() * torch.floor(residual.abs() + rounding)
