"""What the prior network looks at, made from whole numbers when coding and from floats when training."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.arithmetic import ONE
from codec.innvc.layout import ORDER

SIGNED_LIMIT = 64.0  # quantization steps; larger signed values enter the network as this
_MAGNITUDE_FRACTION = 16  # magnitudes of predicted coefficients count sixteenths of a step
_TABLE_SIZE = 1 << 16


@lru_cache(maxsize=4)
def _log_table(device: torch.device) -> Tensor:
    """round(256·log2(1 + n/16)) for n in 0..65535, float64."""
    n = torch.arange(_TABLE_SIZE, dtype=torch.float64) / _MAGNITUDE_FRACTION
    return torch.round(torch.log2(1 + n) * ONE).to(device)


def log_magnitude_fixed(symbols: Tensor) -> Tensor:
    """log2(1 + |q|) of whole symbols, in fixed point (float64)."""
    return _log_table(symbols.device)[(symbols.abs().long() * _MAGNITUDE_FRACTION).clamp_max(_TABLE_SIZE - 1)]


def log_steps_fixed(values: Tensor, step: Tensor) -> Tensor:
    """log2(1 + |v| / step) of whole values, in fixed point (float64); step is broadcast."""
    scaled = torch.div(values.abs().long() * _MAGNITUDE_FRACTION, step, rounding_mode="floor")
    return _log_table(values.device)[scaled.clamp_max(_TABLE_SIZE - 1)]


def signed_steps_fixed(values: Tensor, step: Tensor | int) -> Tensor:
    """v / step clamped to ±SIGNED_LIMIT, in fixed point (float64); step is broadcast."""
    bound = int(SIGNED_LIMIT * ONE)
    scaled = torch.div(values.long() * (2 * ONE) + step, 2 * step, rounding_mode="floor")
    return scaled.clamp(-bound, bound).double()


def log_magnitude_float(values: Tensor) -> Tensor:
    """log2(1 + |v|) for values in steps, in training."""
    return torch.log2(1 + values.detach().abs())


def signed_steps_float(values: Tensor) -> Tensor:
    """Values in steps clamped to ±SIGNED_LIMIT, in training."""
    return values.detach().clamp(-SIGNED_LIMIT, SIGNED_LIMIT)


def dc_slopes(dc: Tensor) -> Tensor:
    """Each block's four neighbours' DC minus its own: (B, 3, h, w) → (B, 12, h, w); no slope across the border."""
    wide = F.pad(dc.double() if dc.dtype != torch.float32 else dc, (1, 1, 1, 1), mode="replicate")
    centre = wide[:, :, 1:-1, 1:-1]
    around = (wide[:, :, :-2, 1:-1], wide[:, :, 2:, 1:-1], wide[:, :, 1:-1, :-2], wide[:, :, 1:-1, 2:])
    return torch.cat([side - centre for side in around], dim=1)


def to_order(coefficients: Tensor) -> Tensor:
    """Channels from the transform's order to the order of importance; channels are the third dimension from last."""
    return coefficients.index_select(-3, _index(ORDER, coefficients.device))


def from_order(coefficients: Tensor) -> Tensor:
    """The inverse of `to_order`."""
    inverse = tuple(int(i) for i in torch.tensor(ORDER).argsort())
    return coefficients.index_select(-3, _index(inverse, coefficients.device))


@lru_cache(maxsize=8)
def _index(order: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(order, device=device)
