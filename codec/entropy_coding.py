"""Whole tensors of symbols to bytes and back, by the range coder of the `constriction` library and integer tables."""

from __future__ import annotations

from functools import lru_cache

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.distributions import ESCAPE_LIMIT, TABLE_BITS, ideal_bits, reach_of, table
from codec.errors import StreamError

Symbols = NDArray[np.int32]
Indices = NDArray[np.int64]


@lru_cache
def _table_model(index: int, rounding: float) -> constriction.stream.model.Categorical:
    # 16-bit frequencies over 2^16 are exact in float64, so the library's own table is the same everywhere.
    return constriction.stream.model.Categorical(table(index, rounding) / (1 << TABLE_BITS), perfect=False)


@lru_cache
def _uniform_model(size: int) -> constriction.stream.model.Uniform:
    return constriction.stream.model.Uniform(size)


def _by_index(indices: Indices) -> list[tuple[int, NDArray[np.int64]]]:
    """Positions of each scale index in turn; index 0 is left out, for its symbols cost nothing."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    present, starts = np.unique(ordered, return_index=True)
    return [(int(i), part) for i, part in zip(present, np.split(order, starts[1:]), strict=True) if i > 0]


class SymbolEncoder:
    """Collects a packet's symbols in the order in which the decoder will ask for them."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()
        self.estimated_bits = 0.0

    def encode(self, symbols: Symbols, indices: Indices, rounding: float) -> None:
        """Code symbols (n,) with the tables of `indices` (n,). Symbols with index 0 must be zero."""
        if not len(indices):
            return
        for index, positions in _by_index(indices):
            values, reach = symbols[positions], reach_of(index)
            beyond = np.abs(values) > reach
            entries = np.where(beyond, 2 * reach + 1, values + reach).astype(np.int32)
            self._coder.encode(entries, _table_model(index, rounding))
            if beyond.any():
                rest = values[beyond]
                self._coder.encode((rest < 0).astype(np.int32), _uniform_model(2))
                extra = np.minimum(np.abs(rest) - reach - 1, ESCAPE_LIMIT - 1).astype(np.int32)
                self._coder.encode(extra, _uniform_model(ESCAPE_LIMIT))
        self.estimated_bits += ideal_bits(symbols, indices, rounding)

    def encode_uniform(self, value: int, size: int) -> None:
        """Code one of `size` equally likely values."""
        self._coder.encode(value, _uniform_model(size))
        self.estimated_bits += float(np.log2(size))

    def finish(self) -> bytes:
        """The packet's payload: little-endian 32-bit words without the zero bytes at the end."""
        return self._coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class SymbolDecoder:
    """Gives back what a SymbolEncoder took, asked in the same order."""

    def __init__(self, payload: bytes) -> None:
        words = np.frombuffer(payload + bytes(-len(payload) % 4), "<u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)

    def decode(self, indices: Indices, rounding: float) -> Symbols:
        """Symbols (n,) int32 for the scale indices (n,). Raises StreamError where the payload is no valid code."""
        symbols = np.zeros(len(indices), np.int32)
        if not len(indices):
            return symbols
        for index, positions in _by_index(indices):
            reach = reach_of(index)
            entries = self._take(_table_model(index, rounding), len(positions))
            beyond = entries == 2 * reach + 1
            values = entries - reach
            if beyond.any():
                count = int(beyond.sum())
                negative = self._take(_uniform_model(2), count)
                extra = self._take(_uniform_model(ESCAPE_LIMIT), count) + reach + 1
                values[beyond] = np.where(negative == 1, -extra, extra)
            symbols[positions] = values
        return symbols

    def decode_uniform(self, size: int) -> int:
        """One of `size` equally likely values."""
        return int(self._take(_uniform_model(size), 1)[0])

    def _take(self, model: object, count: int) -> Symbols:
        try:
            return np.asarray(self._coder.decode(model, count), np.int32)
        except (AssertionError, ValueError) as error:
            raise StreamError("damaged stream: the payload is not a valid code") from error
