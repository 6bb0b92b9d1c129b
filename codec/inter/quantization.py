"""QP to step size. QP 63 has no step: frames without loss are coded sample by sample."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.exact.kept import kept
from codec.inter.layout import LUMA_CHANNELS, ORDER

LOSSLESS_QP = 63
FRACTION_BITS = 4  # of the transform's whole numbers
COARSEST_STEP = 128.0  # at QP 0; nine QPs halve it, so the step is 1 at QP 63
# Chroma's steps beside luma's: chroma has few coefficients, and the decibels of its planes count like luma's.
CHROMA_SHARE = 0.45


def step_size(qp: Tensor) -> Tensor:
    """Quantization step in 8-bit sample units for QPs 0..63, float32 of the same shape."""
    return COARSEST_STEP * torch.exp2(-qp.float() / 9)


def frame_qp(qp: Tensor, boost: int) -> Tensor:
    """QP that a frame of a stream with this QP is coded at, `boost` finer; only QP 63 itself is lossless."""
    return torch.where(qp == LOSSLESS_QP, qp, (qp + boost).clamp(0, LOSSLESS_QP - 1))


def channel_step_sizes(qp: Tensor) -> Tensor:
    """Step of every channel in order of importance, for training: QPs (B,) → (B, 96, 1, 1) float32, or (B, h, w) of
    blocks → (B, 96, h, w).
    """
    qps = qp if qp.dim() == 3 else qp.view(-1, 1, 1)
    chroma = torch.tensor([c >= LUMA_CHANNELS for c in ORDER], device=qp.device).view(1, -1, 1, 1)
    return torch.where(chroma, CHROMA_SHARE, 1.0).float() * step_size(qps)[:, None]


def whole_steps(qps: Tensor) -> Tensor:
    """The same for coding, in the transform's units: QPs (h, w) of blocks → (96, h, w) int64."""
    return _step_table(qps.device)[:, qps]


@kept(4)
def _step_table(device: torch.device) -> Tensor:
    return torch.tensor([_whole_steps(qp) for qp in range(LOSSLESS_QP + 1)], device=device).T.contiguous()


@lru_cache
def _whole_steps(qp: int) -> tuple[int, ...]:
    luma = COARSEST_STEP * 2 ** (-qp / 9) * (1 << FRACTION_BITS)
    chroma = luma * CHROMA_SHARE
    return tuple(round(chroma if c >= LUMA_CHANNELS else luma) for c in ORDER)


@lru_cache
def intra_steps() -> NDArray[np.int64]:
    """Luma's and chroma's whole step at QPs 0..62, (63, 2)."""
    # In order of importance, Y's DC and U's.
    return np.array([_whole_steps(qp)[:2] for qp in range(LOSSLESS_QP)], np.int64)


def sample_step(qp: Tensor) -> Tensor:
    """The luma step of QPs (B,) in whole sample units, rounded down, int64, at least 1."""
    return torch.tensor([max(_whole_steps(int(q))[0] >> FRACTION_BITS, 1) for q in qp], device=qp.device)


def quantize_float(residual: Tensor, dead_zone: Tensor, rounding: Tensor) -> Tensor:
    """`ScaleTables.quantize` in training: residuals in steps, decisions of the same shape or broadcast. No gradient."""
    magnitude = residual.detach().abs()
    coded = torch.floor(magnitude + rounding).clamp_min(1)
    return torch.where(magnitude >= dead_zone, coded, 0.0) * residual.detach().sign()
