"""The distributions that symbols are coded with: discretized Laplace, 64 log-spaced scales, integer tables.

Scale index 0 means "certainly zero": such a symbol is not coded at all. The table of an index gives whole 16-bit
frequencies for the symbols -reach..reach, and for an escape behind which the rest of a large value follows.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SCALE_COUNT = 64
SMALLEST_SCALE = 0.05  # in quantization steps; below it a symbol is as good as never other than zero
LARGEST_SCALE = 384.0
LOG2_STEP = math.log2(LARGEST_SCALE / SMALLEST_SCALE) / (SCALE_COUNT - 1)
TABLE_BITS = 16
ESCAPE_LIMIT = 1 << 16  # what an escaped value may exceed the table's reach by
_LARGEST_REACH = 1024


def scale_of(index: int) -> float:
    """The Laplace scale b of a scale index, in quantization steps."""
    return SMALLEST_SCALE * 2 ** (LOG2_STEP * index)


def reach_of(index: int) -> int:
    """The largest magnitude that the index's table holds without escape."""
    return min(_LARGEST_REACH, max(2, math.ceil(9 * scale_of(index)) + 1))


def probabilities(index: int, rounding: float) -> NDArray[np.float64]:
    """Ideal probabilities of -reach..reach and, last, of everything beyond.

    rounding: the quantizer takes floor(|r| + rounding) for a residual r in steps, so 0.5 is plain rounding and less
    is a dead zone; the probability of a symbol is the Laplace mass that the quantizer sends to it.
    """
    b, reach = scale_of(index), reach_of(index)
    edges = np.arange(1, reach + 2) - rounding
    tails = np.exp(-edges / b) / 2  # mass above each edge, one side
    sides = tails[:-1] - tails[1:]
    return np.concatenate([sides[::-1], [1 - 2 * tails[0]], sides, [2 * tails[-1]]])


@lru_cache
def table(index: int, rounding: float) -> NDArray[np.int64]:
    """Whole frequencies that sum to 2^16, none zero, for the entries of `probabilities`."""
    ideal = probabilities(index, rounding)
    spare = (1 << TABLE_BITS) - len(ideal)
    counts = 1 + np.floor(ideal * spare).astype(np.int64)
    counts[reach_of(index)] += (1 << TABLE_BITS) - counts.sum()  # what rounding left over goes to zero
    return counts


@lru_cache
def ideal_bits_table(rounding: float) -> NDArray[np.float64]:
    """Bits of each magnitude under each scale index's ideal Laplace, (SCALE_COUNT, largest reach + 2); row 0 is zeros.

    Magnitudes past an index's reach pay for the escape and what follows it. No entry counts as rarer than 2^-16.
    """
    bits = np.zeros((SCALE_COUNT, _LARGEST_REACH + 2))
    for index in range(1, SCALE_COUNT):
        reach = reach_of(index)
        ideal = -np.log2(np.maximum(probabilities(index, rounding), 2.0**-TABLE_BITS))
        bits[index, : reach + 1] = ideal[reach : 2 * reach + 1]
        bits[index, reach + 1 :] = ideal[-1] + 1 + math.log2(ESCAPE_LIMIT)
    return bits


def ideal_bits(symbols: NDArray[np.int32], indices: NDArray[np.int64], rounding: float) -> float:
    """What the ideal distributions of these indices charge for the symbols, in bits."""
    magnitude = np.minimum(np.abs(symbols.astype(np.int64)), _LARGEST_REACH + 1)
    return float(ideal_bits_table(rounding)[indices, magnitude].sum())
