"""What the prior network looks at: whole numbers of int8 range, the same functions for coding and for training."""

from __future__ import annotations

from bisect import bisect_left

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.exact.kept import kept
from codec.exact.layers import WIDE_LIMIT
from codec.exact.operations import LIMIT, floor_divide
from codec.inter.layout import ORDER
from codec.inter.walk_maps import flat_map, flat_steps, kernels_for

MAGNITUDE_FRACTION = 16  # magnitudes are told in sixteenths of a step
STEP_BITS = 4
STEP_UNITS = 1 << STEP_BITS  # signed values and means: sixteenths of a step
_OCTAVE = 12  # what a doubling of a magnitude is worth as an activation
_TABLE_SIZE = 1 << 15
LARGEST_COEFFICIENT = 1 << 16  # far above any real one, whatever a stream claims
_CODED = 64  # activation that says "not zero"


@kept(4)
def _log_table(device: torch.device) -> Tensor:
    """round(12·log2(1 + n/16)), at most 127, for n in 0..32767, float32.

    Found in whole numbers, for a logarithm's last digit may differ between machines: an entry reaches k where
    (1 + n/16)^24 >= 2^(2k - 1).
    """
    one = MAGNITUDE_FRACTION
    powers = [(one + n) ** (2 * _OCTAVE) for n in range(_TABLE_SIZE)]
    bounds = [bisect_left(powers, 2 ** (2 * k - 1) * one ** (2 * _OCTAVE)) for k in range(1, LIMIT + 1)]
    return torch.bucketize(torch.arange(_TABLE_SIZE), torch.tensor(bounds), right=True).float().to(device)


def log_magnitude(symbols: Tensor) -> Tensor:
    """Activation of |q| for whole symbols of any type: 12·log2(1 + |q|)."""
    scaled = (symbols.abs() * MAGNITUDE_FRACTION).clamp_max(_TABLE_SIZE - 1)
    return _log_table(symbols.device)[scaled.long()]


def log_steps(values: Tensor, step: Tensor) -> Tensor:
    """Activation of |v| / step: 12·log2(1 + |v|/step). Whole values (..., channels, h, w), |v| < 2^31, and steps
    (channels, h, w) or (channels, 1, 1) int64."""
    if (kernels := kernels_for(values)) is not None:
        found = torch.empty(values.shape, dtype=torch.float32)
        into = flat_map(found, torch.float32)
        kernels.log_steps(flat_map(values, torch.int32), flat_steps(step), _log_table(values.device).numpy(), into)
        return found
    scaled = floor_divide(values.abs().long() * MAGNITUDE_FRACTION, step)
    return _log_table(values.device)[scaled.clamp_max(_TABLE_SIZE - 1)]


def log_real(values: Tensor) -> Tensor:
    """The same for real values in steps, in training."""
    scaled = (values.detach().abs() * MAGNITUDE_FRACTION).clamp_max(_TABLE_SIZE - 1)
    return _log_table(values.device)[scaled.long()]


def seen_symbols(symbols: Tensor) -> Tensor:
    """What is told of a decoded group: (B, n, h, w) whole symbols → (B, 2n, h, w), magnitudes and "not zero"."""
    return torch.cat([log_magnitude(symbols), (symbols != 0).float() * _CODED], dim=1)


def signed_units(values: Tensor, step: Tensor) -> Tensor:
    """v / step in sixteenths, rounded half up, within ±8191, float32; values and steps as of `log_steps`."""
    if (kernels := kernels_for(values)) is not None:
        found = torch.empty(values.shape, dtype=torch.float32)
        into = flat_map(found, torch.float32)
        kernels.signed_units(flat_map(values, torch.int32), flat_steps(step), WIDE_LIMIT, into)
        return found
    scaled = floor_divide(values.long() * (2 * STEP_UNITS) + step, 2 * step)
    return scaled.clamp(-WIDE_LIMIT, WIDE_LIMIT).float()


def signed_real(values: Tensor) -> Tensor:
    """The same for real values in steps, in training."""
    return torch.floor(values.detach() * STEP_UNITS + 0.5).clamp(-WIDE_LIMIT, WIDE_LIMIT)


def dc_slopes(dc: Tensor) -> Tensor:
    """Each block's four neighbours' DC minus its own: (B, 3, h, w) → (B, 12, h, w); no slope across the border."""
    return around(dc) - torch.cat([dc] * 4, dim=1)


def around(values: Tensor) -> Tensor:
    """Each block's upper, lower, left and right neighbour's values, its own beyond the border: (B, n, h, w) →
    (B, 4n, h, w)."""
    wide = F.pad(values.double() if values.dtype != torch.float32 else values, (1, 1, 1, 1), mode="replicate")
    sides = wide[:, :, :-2, 1:-1], wide[:, :, 2:, 1:-1], wide[:, :, 1:-1, :-2], wide[:, :, 1:-1, 2:]
    return torch.cat(sides, dim=1).to(values.dtype)


def to_order(coefficients: Tensor) -> Tensor:
    """Channels from the transform's order to the order of importance; channels are the third dimension from last."""
    return coefficients.index_select(-3, _index(ORDER, coefficients.device))


def from_order(coefficients: Tensor) -> Tensor:
    """The inverse of `to_order`."""
    inverse = tuple(int(i) for i in torch.tensor(ORDER).argsort())
    return coefficients.index_select(-3, _index(inverse, coefficients.device))


@kept(8)
def _index(order: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(order, device=device)


def clamp_coefficients(values: Tensor) -> Tensor:
    """Whole coefficients, held where sums of them are safe."""
    return values.clamp(-LARGEST_COEFFICIENT, LARGEST_COEFFICIENT)
