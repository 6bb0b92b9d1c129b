"""What coding a plane's samples learns as it goes, and the tables that it works with.

The tables are rounded from floating point. None of their entries is so near to a half that another machine's
logarithm could round it otherwise.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codec import sample_kernels as kernels
from codec.sample_filter_kernels import BLOCK
from codec.sample_measure_kernels import LEVELS, TAIL_LIMIT

Whole = NDArray[np.int64]

_FIRST_RATE, _LAST_RATE, _RATE_FALLS = 1200, 80, 32  # of the weights' learning, and the bits that it halves in


def exact_tables() -> dict[str, list[float]]:
    """The entries before rounding."""
    squash, tail, known = kernels.SQUASH_LIMIT, TAIL_LIMIT, 1 << kernels.LOG_BITS
    return {
        "squash": [65536 / (1 + math.exp(-s / 256)) for s in range(-squash, squash + 1)],
        "stretch": [256 * math.log((2 * i + 1) / (8191 - 2 * i)) for i in range(4096)],
        "tails": [(1 << 24) / (1 + math.exp(-i / 512)) for i in range(-tail, tail + 1)],
        "logs": [0.0] + [256 * math.log(v) for v in range(1, known + 1)],
    }


@lru_cache
def tables() -> tuple[Whole, ...]:
    """squash, stretch, tails, logs, shares, trusts, rates: see `codec.sample_coding`."""
    squash, stretch, tails, logs = (np.round(np.array(table)).astype(np.int64) for table in exact_tables().values())
    seen, steps = np.arange(1024), np.arange(1024)
    shares = 65536 * 5 // (5 * seen + 8)
    trusts = 256 * 5 * seen // (5 * seen + 3)
    rates = _LAST_RATE + (_FIRST_RATE - _LAST_RATE) * _RATE_FALLS // (_RATE_FALLS + steps)
    return np.clip(squash, 3, 65533), stretch, np.maximum(tails, 1), logs, shares, trusts, rates


class PlaneModel:
    """What is known of one plane. taps: how many each filter has; width: samples in a row."""

    def __init__(self, taps: int, width: int) -> None:
        votes = np.full(kernels.VOTES, 0.09)  # about where weights settle on real clips
        votes[: kernels.GUIDES] = 0.1, 0.12, 0.03, 0.03, 0.02, 0.24
        votes[-1] = 0
        sets = kernels.SETS * kernels.CHOICES * kernels.NUMBERS
        self.mixing = (
            np.full(kernels.COUNTERS * kernels.PLACES * kernels.NUMBERS, 1 << 31, np.uint32),
            np.tile(np.round(votes * 65536).astype(np.int32), sets),
            np.zeros(sets, np.int32),
        )
        blocks = -(-width // BLOCK)
        self.filters = (
            np.zeros((2, taps, taps), np.int64),
            np.zeros((2, taps), np.int64),
            np.zeros((2, taps), np.int64),
            np.zeros((blocks, 2, taps, taps), np.int64),
            np.zeros((blocks, 2, taps), np.int64),
        )
        level = np.arange(LEVELS)
        # The middle of each level, in 2^-16 grey levels.
        scale = np.maximum((np.where(level % 2, 24, 19) << (level // 2)) * 512 - 8192, 2048)
        self.history = (
            np.tile(np.repeat(scale, LEVELS), (kernels.GUIDES, 1)),
            np.zeros((2, kernels.BIASES), np.int64),
            np.zeros((kernels.GUIDES, 3, width + 2 * kernels.PAD), np.int64),
            np.zeros((3, width + 2 * kernels.PAD), np.int64),
        )
