"""Tables that learn from the symbols that came: counts of the frames before, mixed with what the model expects.

A model's tables have one shape for all videos. Each scale's table is moved towards how often magnitudes really came
with it, as far as enough of them came. All is in whole numbers, and both sides count the same symbols.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from codec.count_tables import COUNT_BITS, COUNT_TOTAL, Tables
from codec.inter.walk_maps import walk_kernels

_PRIOR = 600  # symbols that the model's own table counts for
_MOST = 1 << 15  # symbols of a table, beyond which old ones count half
_LONGEST = 512  # entries of a table that learns: wider ones rarely see the same symbol twice


class AdaptiveTables:
    """Counts of magnitudes for the first tables of a model, and the tables that follow from them.

    base: the model's tables, one for each scale. Positive and negative symbols share their counts.
    """

    def __init__(self, base: Tables) -> None:
        self.base = base
        entries = 2 * base.reaches + 2
        self._learning = int(np.argmax(entries > _LONGEST)) or len(entries)  # tables 1 … below this learn
        reaches = base.reaches[: self._learning]
        lengths = reaches + 2  # magnitudes 0 … reach, and what is beyond
        lengths[0] = 0
        self._starts = np.cumsum(lengths) - lengths
        self._table = np.repeat(np.arange(len(lengths)), lengths)
        self._seen = np.zeros(len(self._table), np.int64)
        # Where each magnitude has its entry: zero and the escape one, the others a pair of which this is the first.
        magnitude = np.arange(len(self._table)) - self._starts[self._table]
        beyond = magnitude > reaches[self._table]
        within = np.where(beyond, 2 * reaches[self._table] + 1, np.maximum(2 * magnitude - 1, 0))
        self._entry = base.starts[self._table] + within
        self._paired = ~beyond & (magnitude > 0)
        self._counts = (base.entries >> COUNT_BITS).astype(np.int64)
        self._kept: Tables | None = base

    def __deepcopy__(self, memo: dict[int, object]) -> AdaptiveTables:
        made = copy.copy(self)  # nothing is changed in place
        memo[id(self)] = made
        return made

    def tables(self) -> Tables:
        """The tables for the coming frame."""
        if self._kept is None:
            self._kept = self._mixed()
        return self._kept

    def count(self, numbers: NDArray[np.int64], symbols: NDArray[np.int32]) -> None:
        """Take in symbols coded with the tables of these numbers, of one shape; they count from the next frame on."""
        if (kernels := walk_kernels()) is not None:
            seen = self._seen.copy()
            given = np.ascontiguousarray(np.atleast_2d(numbers)), np.ascontiguousarray(np.atleast_2d(symbols))
            kernels.count_magnitudes(*given, self._starts, self.base.reaches, seen)
            self._seen = seen
            return
        numbers, symbols = numbers.reshape(-1), symbols.reshape(-1)
        live = (numbers > 0) & (numbers < self._learning)
        numbers, magnitude = numbers[live], np.abs(symbols[live].astype(np.int64))
        place = self._starts[numbers] + np.minimum(magnitude, self.base.reaches[numbers] + 1)
        self._seen = self._seen + np.bincount(place, minlength=len(self._seen))

    def settle(self) -> None:
        """The frame has ended: its symbols count, and old ones of much used tables count half."""
        self._seen = np.where(self._totals() > _MOST, self._seen >> 1, self._seen)
        self._kept = None

    def _totals(self) -> NDArray[np.int64]:
        total = np.zeros(self._learning, np.int64)
        np.add.at(total, self._table, self._seen)
        return total[self._table]

    def _mixed(self) -> Tables:
        # Of a pair each sign gets half of what came.
        came = self._seen * COUNT_TOTAL // np.where(self._paired, 2, 1)
        mixed = np.maximum((self._counts[self._entry] * _PRIOR + came) // (self._totals() + _PRIOR), 1)
        counts = self._counts.copy()
        counts[self._entry] = mixed
        counts[self._entry[self._paired] + 1] = mixed[self._paired]
        for number in range(1, self._learning):
            start = int(self.base.starts[number])
            own = counts[start : start + 2 * int(self.base.reaches[number]) + 2]
            # What rounding took or gave is settled with the likeliest symbol.
            top = int(own.argmax())
            own[top] += COUNT_TOTAL - int(own.sum())
            if own[top] < 1:
                own[:] = self._counts[start : start + len(own)]
        ideal = COUNT_BITS - np.log2(counts)
        return Tables.build(counts.astype(np.int32), self.base.reaches[1:].astype(np.int32), ideal)
