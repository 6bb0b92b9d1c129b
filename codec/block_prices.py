"""How far an 8x8 block is from its prediction, in NumPy: `codec.block_kernels` says the same in vector instructions.

About what coding a difference costs is estimated from its Hadamard transform: a coefficient of u steps costs 7.5 u²
bits where it becomes zero, and from there on so many bits more an octave. All is float32, summed in one order.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
from numpy.typing import NDArray

SIDE = 8
ZERO_PRICE = 7.5
ZERO_ENDS = 0.7
OCTAVE_PRICE = 1.3
MANTISSA = 23  # bits of a float32's
ONE = 0x3F800000  # 1.0 as a float32
# What is added to the octaves of a coefficient that is not zero; 128 + 2/3 is what their reckoning has too many.
KNOWN = ZERO_PRICE * ZERO_ENDS**2 - OCTAVE_PRICE * (128 + 2 / 3 + math.log2(ZERO_ENDS))

Plane = NDArray[np.uint8]


def block_differences(current: Plane, y: int, x: int, plane: Plane, top: int, left: int) -> np.int32:
    """Sum of absolute differences of 8x8 samples: at (y, x) of one plane (H, W), at (top, left) of the other."""
    return np.int32(np.abs(_block(current, y, x) - _block(plane, top, left)).sum())


def block_price(
    current: Plane, y: int, x: int, plane: Plane, top: int, left: int, scale: np.float32
) -> np.float32:  # fmt: skip
    """About what coding the difference costs, rate and distortion together, in bits.

    scale: one over eight times the step that its Hadamard transform will be quantized with.
    """
    return _price(_block(current, y, x) - _block(plane, top, left), scale)


def pair_price(
    current: Plane, y: int, x: int, plane: Plane, top: int, left: int, other: Plane, top_2: int, left_2: int,
    scale: np.float32,
) -> np.float32:  # fmt: skip
    """`block_price` of the mean of two predictions."""
    mean = (_block(plane, top, left) + _block(other, top_2, left_2) + 1) >> 1
    return _price(_block(current, y, x) - mean, scale)


def _block(plane: Plane, y: int, x: int) -> NDArray[np.int32]:
    return plane[y : y + SIDE, x : x + SIDE].astype(np.int32)


def _price(difference: NDArray[np.int32], scale: np.float32) -> np.float32:
    turn = reduce(np.kron, [np.array([[1, 1], [1, -1]], np.int32)] * 3)
    steps = np.abs(turn @ difference @ turn).T.astype(np.float32) * np.float32(scale)
    zero = steps * steps * np.float32(ZERO_PRICE)
    # Their logarithm: the exponent, and a parabola through the mantissa, m in 1..2, right at both ends.
    bits = steps.view(np.int32)
    octave = (bits >> MANTISSA).astype(np.float32)
    m = (bits & ((1 << MANTISSA) - 1) | ONE).astype(np.int32).view(np.float32)
    bend = (m * np.float32(-1 / 3) + np.float32(2)) * m
    coded = (octave + bend) * np.float32(OCTAVE_PRICE) + np.float32(KNOWN)
    prices = np.where(steps < np.float32(ZERO_ENDS), zero, coded)
    while len(prices) > 1:
        prices = prices[::2] + prices[1::2]
    (lanes,) = prices
    for apart in (4, 2, 1):
        lanes = lanes + lanes[np.arange(SIDE) ^ apart]
    return np.float32(lanes[0])
