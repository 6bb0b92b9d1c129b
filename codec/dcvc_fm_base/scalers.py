"""Quantization scalers: what features are multiplied by at each QP, so that one model codes from coarse to fine."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codec.streams import QP_COUNT

_SPREAD = 2.0  # an encoder's scaler is 1/2 at QP 0 and 2 at QP 63 before training; a decoder's the other way round


class ScalerTable(nn.Module):
    """A vector of its own for each of the 64 QPs (the intra model's). Parameter values (64, channels) float32."""

    def __init__(self, channels: int, decoder: bool) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.exp(_first(torch.arange(QP_COUNT), decoder))[:, None].repeat(1, channels))

    def forward(self, qp: Tensor) -> Tensor:
        """QPs (B,) int64 → (B, channels, 1, 1)."""
        return self.values[qp][:, :, None, None]


class InterpolatedScaler(nn.Module):
    """exp(ln q0 + (ln q1 - ln q0) · qp / 63) between two learned ends (the inter model's). Parameter ends: their
    logarithms, (2, channels) float32."""

    def __init__(self, channels: int, decoder: bool) -> None:
        super().__init__()
        self.ends = nn.Parameter(_first(torch.tensor([0, QP_COUNT - 1]), decoder)[:, None].repeat(1, channels))

    def forward(self, qp: Tensor) -> Tensor:
        """QPs (B,) int64 → (B, channels, 1, 1)."""
        share = qp.to(self.ends.dtype)[:, None] / (QP_COUNT - 1)
        return torch.exp(self.ends[0] + (self.ends[1] - self.ends[0]) * share)[:, :, None, None]


def _first(qp: Tensor, decoder: bool) -> Tensor:
    rising = math.log(_SPREAD) * (2 * qp.float() / (QP_COUNT - 1) - 1)
    return -rising if decoder else rising
