"""What decoding a frame takes, in multiply-accumulates a luma pixel."""

from __future__ import annotations

from torch import nn

from codec.exact.layers import ExactConv2d, ExactWideMap
from codec.inter.prediction import GUESSES

# Multiply-accumulates a luma pixel outside the networks: lifting (54 shears a line of 8, two ways, with chroma) and
# the interpolation of a moved 8x8 block (8 taps luma, 4 taps chroma).
TRANSFORM_MAC = 2 * 54 / 8 + 2 * 15 / 4 / 2
_INTERPOLATION_MAC = (15 * 8 * 8 + 8 * 8 * 8 + 2 * (7 * 4 * 4 + 4 * 4 * 4)) / 64
# An inter frame is moved twice, and once more with each block's four neighbours' vectors; three further transforms.
INTER_MAC = (2 + 1 + 4 / 2) * _INTERPOLATION_MAC + (1 + GUESSES) * TRANSFORM_MAC
# A block's modes: 46 values of its surroundings for each luma sample, 21 for each chroma sample.
INTRA_MAC = TRANSFORM_MAC + 46 + 21 / 2


def macs_per_pixel(module: nn.Module) -> float:
    """All convolutions once at 1/8 resolution, a luma pixel; a wide map is two passes."""
    layers = [m for m in module.modules() if isinstance(m, ExactConv2d | ExactWideMap)]
    return sum(m.weight.numel() * (2 if isinstance(m, ExactWideMap) else 1) for m in layers) / 64
