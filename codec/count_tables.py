"""Tables of 16-bit counts, in the layout that the coder's kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import BitreelError

COUNT_BITS = 16
COUNT_TOTAL = 1 << COUNT_BITS
ESCAPE_LIMIT = 1 << 16  # magnitudes may exceed a table's reach by no more than this
BUCKET_BITS = 8


def whole_counts(likely: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole counts (rows, n), each row of sum 2^16 and none zero, in proportion to probabilities (rows, n)."""
    rows, n = likely.shape
    share = np.full((rows, 1), float(COUNT_TOTAL))
    for _ in range(64):
        due = likely * share
        counts = np.maximum(1, np.floor(due)).astype(np.int64)
        missing = COUNT_TOTAL - counts.sum(1, keepdims=True)
        over = missing < 0  # the rare ones took a whole count each: the others get less
        if not over.any():
            break
        share = np.where(over, share + missing, share)
    counts[np.arange(rows), counts.argmax(1)] += np.minimum(missing[:, 0], 0)
    # What rounding down left goes to those it took most from.
    rank = np.argsort(np.argsort(counts - due, axis=1, kind="stable"), axis=1, kind="stable")
    extra = np.maximum(missing, 0)
    return np.asarray(counts + extra // n + (rank < extra % n))


def escape_order(reach: int) -> int:
    """Order k of the Exp-Golomb code that an escaped magnitude's rest is written in: about log2 of the tail's scale."""
    return max(0, int(reach).bit_length() - 3)


def escape_bits(rest: Tensor, reach: int) -> Tensor:
    """About what sign and rest (any shape, real-valued) of an escaped symbol cost; 0 where rest is negative."""
    order = escape_order(reach)
    steps = torch.floor(torch.log2(1 + rest.clamp(min=0) / (1 << order)))
    return torch.where(rest < 0, 0.0, 2 + order + 2 * steps)


@dataclass(frozen=True)
class Tables:
    """Tables 0..T-1; number 0 is "certainly zero" and has no entries.

    A table's entries stand for the symbols 0, 1, -1, 2, -2 … ±reach and, last, for the escape.
    entries: (all entries,) uint32, count << 16 | sum of the counts before it. starts: (T,) int64, each table's first
    entry. reaches: (T,) int64. buckets: (T · 256,) uint16, the entry that holds count 256·b of a table.
    ideal: (all entries,) float32, bits that the distribution behind the counts charges.
    """

    entries: NDArray[np.uint32]
    starts: NDArray[np.int64]
    reaches: NDArray[np.int64]
    buckets: NDArray[np.uint16]
    ideal: NDArray[np.float32]

    @classmethod
    def build(cls, counts: NDArray[np.int32], reaches: NDArray[np.int32], ideal: NDArray[np.float64]) -> Tables:
        """Tables 1, 2 … from their counts and ideal bits (all entries,), table after table, and reaches (tables,).

        Raises BitreelError unless every table has 2·reach + 2 entries of at least 1 and of sum 2^16.
        """
        wide = counts.astype(np.int64)
        lengths = np.concatenate([[0], 2 * reaches.astype(np.int64) + 2])
        if len(lengths) < 2 or lengths[1:].min() < 2 or lengths.max() > COUNT_TOTAL or lengths.sum() != len(wide):
            raise BitreelError("the model's probability tables are damaged: their sizes do not fit")
        starts = np.cumsum(lengths) - lengths
        if wide.min() < 1 or (np.add.reduceat(wide, starts[1:]) != COUNT_TOTAL).any():
            raise BitreelError("the model's probability tables are damaged: their counts do not add up")
        before = np.cumsum(wide) - wide  # over all tables: table t begins at (t - 1) · 2^16
        below = before & (COUNT_TOTAL - 1)
        width = COUNT_TOTAL >> BUCKET_BITS
        points = np.arange((len(lengths) - 1) << BUCKET_BITS, dtype=np.int64) * width
        holders = np.searchsorted(before, points, side="right") - 1 - np.repeat(starts[1:], 1 << BUCKET_BITS)
        buckets = np.concatenate([np.zeros(1 << BUCKET_BITS, np.int64), holders]).astype(np.uint16)
        entries = (wide << COUNT_BITS | below).astype(np.uint32)
        return cls(entries, starts, (lengths - 2) // 2, buckets, ideal.astype(np.float32))

    def __post_init__(self) -> None:
        for array in (self.entries, self.starts, self.reaches, self.buckets, self.ideal):
            array.flags.writeable = False

    def counts(self, number: int) -> NDArray[np.int64]:
        """Counts of one table's entries."""
        start = self.starts[number]
        return (self.entries[start : start + 2 * self.reaches[number] + 2] >> COUNT_BITS).astype(np.int64)

    def entropy(self, number: int) -> float:
        """Bits a symbol of a table takes on average, where symbols come as the counts say; escapes' rests apart."""
        share = self.counts(number) / COUNT_TOTAL
        return float(-(share * np.log2(share)).sum()) if number else 0.0


def interval_of(value: int, size: int) -> int:
    """Entry for one of `size` (2..2^16) equally likely values."""
    low, high = (value << COUNT_BITS) // size, ((value + 1) << COUNT_BITS) // size
    return (high - low) << COUNT_BITS | low
