"""Whole tensors of symbols to bytes and back: one asymmetric numeral system a packet, over tables of 16-bit counts.

Payload
-------
All numbers are whole. A symbol with table number 0 is zero and not coded. Any other takes one *interval* (count f,
start c) of its table, whose counts sum to 2^16: the entries are the symbols 0, 1, -1, 2, -2 … reach, -reach and last
the escape; c is the sum of the counts before. One of n equally likely values v takes the interval from
floor(v·2^16 / n) up to floor((v+1)·2^16 / n); n = 1 takes none.

An escaped symbol s goes on with the intervals of: its sign, one of 2 (1: negative); u (0..16), the number of one bits
that its slot (below) begins with, so c = 2^16 - 2^(16-u) and f = 2^(15-u), or 1 for u = 16; and where k + u > 0, one
of 2^(k+u) values w. Then |s| = reach + 1 + (2^(k+u) + w - 2^k), with k = max(0, bits of reach - 3). k + u > 16 and a
rest (in brackets) of 2^16 or more are not valid.

To decode, read the payload as 16-bit big-endian words, with a zero byte set before it where its length is odd. The
state x is the number formed by the first three words (by all, where there are fewer). For each interval, in order:

    slot = x mod 2^16; find the entry with c <= slot < c + f; x = f · floor(x / 2^16) + slot - c
    if x < 2^32 and words are left: x = x · 2^16 + next word

At the end of the packet x is 0 and no word is left. An encoder goes the other way: from x = 0, over the intervals last
to first: where x >= f · 2^32, it puts x mod 2^16 before the words there are and keeps floor(x / 2^16); then
x = floor(x / f) · 2^16 + x mod f + c. The words of x come first in the payload, without leading zero bytes.
So zeros at the end of a packet, at c = 0, cost nothing, and a packet of likely zeros alone has no bytes at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from codec.count_tables import COUNT_BITS, COUNT_TOTAL, Tables, interval_of
from codec.errors import BitreelError, StreamError

Symbols = NDArray[np.int32]
Numbers = NDArray[np.int64]

_WHY_NOT = {
    -1: "a table number is out of range",
    -2: "a symbol whose table says 'certainly zero' is not zero",
    -3: "a symbol is too large for any stream",
}


class SymbolEncoder:
    """Collects a packet's symbols in the order in which the decoder will ask for them.

    estimated_bits: what the distributions behind the tables charge for all of them.
    """

    def __init__(self) -> None:
        self._intervals: list[NDArray[np.uint32]] = []
        self._bits = np.zeros(1)

    @property
    def estimated_bits(self) -> float:
        return float(self._bits[0])

    def encode(self, symbols: Symbols, numbers: Numbers, tables: Tables) -> None:
        """Code symbols (n,) int32 with the tables of `numbers` (n,) int64. Symbols with number 0 must be zero.

        Raises BitreelError for symbols that their tables can't code.
        """
        from codec import rans

        symbols = np.ascontiguousarray(symbols, np.int32).reshape(-1)
        numbers = np.ascontiguousarray(numbers, np.int64).reshape(-1)
        if len(symbols) != len(numbers):
            raise BitreelError(f"{len(symbols)} symbols can't be coded with {len(numbers)} table numbers")
        room = rans.count_intervals(symbols, numbers, tables.reaches)
        if room < 0:
            raise BitreelError(f"can't encode: {_WHY_NOT[room]}")
        if not room:
            return
        intervals = np.empty(room, np.uint32)
        used = rans.fill_intervals(
            symbols, numbers, tables.entries, tables.starts, tables.reaches, tables.ideal, intervals, self._bits
        )
        self._intervals.append(intervals[:used])

    def encode_intervals(self, intervals: NDArray[np.uint32]) -> None:
        """Code intervals (n,), count << 16 | start, of somebody else's model; they are estimated at their cost."""
        self._intervals.append(intervals)
        self._bits[0] += float((COUNT_BITS - np.log2(intervals >> COUNT_BITS)).sum())

    def encode_uniform(self, value: int, size: int) -> None:
        """Code one of `size` (1..2^16) equally likely values. Raises BitreelError where it is none of them."""
        if not 0 <= value < size <= COUNT_TOTAL:
            raise BitreelError(f"can't encode {value} as one of {size} values")
        if size > 1:
            self._intervals.append(np.array([interval_of(value, size)], np.uint32))
            self._bits[0] += math.log2(size)

    def append(self, other: SymbolEncoder) -> None:
        """Code all that another encoder has collected."""
        self._intervals.extend(other._intervals)
        self._bits += other._bits

    def finish(self) -> bytes:
        """The packet's payload."""
        from codec import rans

        if not self._intervals:
            return b""
        intervals = np.concatenate(self._intervals)
        words = np.empty(len(intervals) + 3, np.uint16)
        payload = words[rans.push_intervals(intervals, words) :].astype(">u2").tobytes()
        return payload[1:] if payload[:1] == b"\0" else payload


class SymbolDecoder:
    """Gives back what a SymbolEncoder took, asked in the same order. Any bytes at all are safe to decode."""

    def __init__(self, payload: bytes) -> None:
        self._words = np.frombuffer(bytes(len(payload) % 2) + payload, ">u2").astype(np.uint16)
        state = 0
        for word in self._words[:3].tolist():
            state = state << 16 | word
        self._state = np.array([state, min(3, len(self._words))], np.uint64)

    def decode(self, numbers: Numbers, tables: Tables) -> Symbols:
        """Symbols (n,) int32 for the table numbers (n,) int64. Raises StreamError where the code is not valid."""
        from codec import rans

        numbers = np.ascontiguousarray(numbers, np.int64).reshape(-1)
        symbols = np.empty(len(numbers), np.int32)
        problem = rans.pull_symbols(
            numbers, tables.entries, tables.starts, tables.reaches, tables.buckets, self._words, self._state, symbols
        )
        if problem == rans.BAD_NUMBER:
            raise BitreelError(f"can't decode: {_WHY_NOT[problem]}")
        if problem:
            raise StreamError("damaged stream: the payload is not a valid code")
        return symbols

    def run(self, kernel: Callable[[NDArray[np.uint16], NDArray[np.uint64]], int]) -> int:
        """Have a kernel take intervals by a model of its own from (words, state); gives what it gives.

        state: x and the number of words read, which the kernel moves on as the module says.
        """
        return kernel(self._words, self._state)

    def decode_uniform(self, size: int) -> int:
        """One of `size` (1..2^16) equally likely values."""
        if not 0 < size <= COUNT_TOTAL:
            raise BitreelError(f"can't decode one of {size} values")
        if size == 1:
            return 0
        state, place = int(self._state[0]), int(self._state[1])
        slot = state & (COUNT_TOTAL - 1)
        value = ((slot + 1) * size - 1) >> COUNT_BITS
        interval = interval_of(value, size)
        state = (interval >> COUNT_BITS) * (state >> COUNT_BITS) + slot - (interval & (COUNT_TOTAL - 1))
        if state < 1 << 32 and place < len(self._words):
            state, place = state << 16 | int(self._words[place]), place + 1
        self._state[:] = state, place
        return value

    def finish(self) -> None:
        """Raises StreamError unless the payload ends with the last symbol taken."""
        if int(self._state[0]) or int(self._state[1]) != len(self._words):
            raise StreamError("damaged stream: a payload does not end with its last symbol")
