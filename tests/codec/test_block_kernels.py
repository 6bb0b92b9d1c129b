"""The blocks' differences and prices in vector instructions are those in NumPy, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from codec import block_kernels, block_prices
from codec.block_prices import ZERO_ENDS, ZERO_PRICE

rng = np.random.default_rng(3)
CURRENT = rng.integers(0, 256, (40, 56), dtype=np.uint8)
OTHER = rng.integers(0, 256, (44, 64), dtype=np.uint8)
# About what motion compensation gives, and the farthest that samples can be from each other.
CLOSE = np.clip(CURRENT + rng.integers(-9, 10, CURRENT.shape), 0, 255).astype(np.uint8)
OPPOSITE = np.where(CURRENT > 127, 0, 255).astype(np.uint8)
PLACES = [(0, 0, 0, 0, 0, 0), (3, 7, 3, 7, 5, 1), (32, 48, 32, 48, 36, 56), (11, 20, 12, 20, 9, 30)]


@njit
def _differences(current, y, x, plane, top, left):  # type: ignore[no-untyped-def]
    return block_kernels.block_differences(current, y, x, plane, top, left)


@njit
def _price(current, y, x, plane, top, left, scale):  # type: ignore[no-untyped-def]
    return block_kernels.block_price(current, y, x, plane, top, left, scale)


@njit
def _pair_price(current, y, x, plane, top, left, other, top_2, left_2, scale):  # type: ignore[no-untyped-def]
    return block_kernels.pair_price(current, y, x, plane, top, left, other, top_2, left_2, scale)


@pytest.mark.parametrize("plane", [CLOSE, OPPOSITE, CURRENT], ids=["close", "opposite", "the same"])
@pytest.mark.parametrize("step", [0.4, 3.0, 77.0])
@pytest.mark.parametrize("place", PLACES)
def test_vectors_agree_with_numpy(place: tuple[int, ...], step: float, plane: Any) -> None:
    y, x, top, left, top_2, left_2 = place
    scale = np.float32(1 / (8 * step))
    given = CURRENT, y, x, plane, top, left
    assert _differences(*given) == block_prices.block_differences(*given)
    assert _price(*given, scale) == block_prices.block_price(*given, scale)
    pair = *given, OTHER, top_2, left_2
    assert _pair_price(*pair, scale) == block_prices.pair_price(*pair, scale)


def test_price_follows_its_formula() -> None:
    """One coefficient alone, of more and more steps: its squared error, then so many bits an octave."""
    flat, found = np.zeros((8, 8), np.uint8), []
    for steps in (0.3, 0.69, 0.71, 1.4, 2.8):
        brighter = np.full((8, 8), 8, np.uint8)  # its transform is 512, all at one place
        found.append(block_prices.block_price(brighter, 0, 0, flat, 0, 0, np.float32(steps / 512)))
    zero = ZERO_PRICE * ZERO_ENDS**2
    expected = [ZERO_PRICE * 0.3**2, ZERO_PRICE * 0.69**2, zero, zero + 1.3, zero + 2.6]
    np.testing.assert_allclose(found, expected, atol=0.04)
    assert block_prices.block_price(flat, 0, 0, flat, 0, 0, np.float32(1)) == 0
