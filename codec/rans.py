"""The coder's inner loops, compiled by numba at first use. Import this module only where something is coded.

Encoding takes two steps: symbols become intervals (uint32, count << 16 | sum of the counts before), and all intervals
of a packet are pushed, last first, onto one asymmetric numeral system's state (Duda, arXiv:1311.2540) of 48 bits that
spills 16-bit words. The stream's layout: `codec.entropy_coding`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import float32, float64, int32, int64, types, uint16, uint32, uint64

from codec.count_tables import BUCKET_BITS, COUNT_BITS, ESCAPE_LIMIT

BAD_NUMBER, NOT_ZERO, TOO_LARGE = -1, -2, -3  # what kernels return instead of a count
_LOW = np.uint64(0xFFFF)
_BITS = np.uint64(COUNT_BITS)
_FLOOR = np.uint64(1 << 32)  # a state below it takes the next word
_ROOM = np.uint64(32)  # a state of at least count << 32 spills a word first
_TO_BUCKET = np.uint64(COUNT_BITS - BUCKET_BITS)
_HALF = np.uint32(1 << 31)
_njit: Any = numba.njit  # its types know few ways to call it
# What kernels are made of. None of these makes an array, so none needs to count references to those it is given: that
# costs more than most of them do. Small ones of inner loops go straight into the code around them.
inner: Any = _njit(error_model="numpy", _nrt=False)
inlined: Any = _njit(error_model="numpy", _nrt=False, forceinline=True)


def read_only(kind: Any) -> Any:
    return types.Array(kind, 1, "C", readonly=True)


@lru_cache
def kernels_digest() -> str:
    """Changes with any kernel's source: one file's kernels are compiled into another's, which a cache would not see."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        if path.stem in ("rans", "bit_mixing", "block_prices", "count_tables") or path.stem.endswith("kernels"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def compiled(*signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """numba.njit for one signature (or a list of them), or for the types of the first call's arguments where none is
    given.

    Cached on disk where any place for it can be written; whatever ails the cache (no place, a full or damaged one),
    the kernel is compiled anew in each process.
    """

    def compile_kernel(kernel: Callable[..., Any]) -> Callable[..., Any]:
        kernel.__qualname__ += kernels_digest()  # the cache's key
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        if not signature:
            return _compiled_at_first(kernel, options)
        given = signature[0] if isinstance(signature[0], list) else signature
        try:
            return _njit(given, cache=True, **options)(kernel)
        except Exception:
            return _njit(given, **options)(kernel)

    return compile_kernel


def _compiled_at_first(kernel: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    made: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> Any:
        if not made:
            types_given = tuple(numba.typeof(argument) for argument in arguments)
            try:
                found = _njit(cache=True, **options)(kernel)
                found.compile(types_given)
            except Exception:
                found = _njit(**options)(kernel)
            made.append(found)
        return made[0](*arguments)

    return call


@compiled(read_only(int32), read_only(int64), read_only(int64))
def count_intervals(symbols, numbers, reaches):  # type: ignore[no-untyped-def]
    """At most how many intervals the symbols (n,) take; negative (see above) where they can't be coded."""
    total = 0
    for i in range(len(symbols)):
        number = numbers[i]
        if number < 0 or number >= len(reaches):
            return BAD_NUMBER
        magnitude = abs(np.int64(symbols[i]))
        if number == 0:
            if magnitude != 0:
                return NOT_ZERO
        else:
            rest = magnitude - reaches[number]
            total += 1
            if rest > 0:
                if rest > ESCAPE_LIMIT:
                    return TOO_LARGE
                total += 3
    return total


@compiled(
    read_only(int32),
    read_only(int64),
    read_only(uint32),
    read_only(int64),
    read_only(int64),
    read_only(float32),
    uint32[::1],
    float64[::1],
)
def fill_intervals(symbols, numbers, entries, starts, reaches, ideal, intervals, bits):  # type: ignore[no-untyped-def]
    """Write the symbols' intervals and add their ideal bits to bits[0]; gives the number of intervals."""
    count, spent = 0, 0.0
    for i in range(len(symbols)):
        number = numbers[i]
        if number == 0:
            continue
        symbol = np.int64(symbols[i])
        magnitude, reach, start = abs(symbol), reaches[number], starts[number]
        if magnitude <= reach:
            place = start + 2 * magnitude - (symbol > 0)
            intervals[count] = entries[place]
            spent += ideal[place]
            count += 1
            continue
        place = start + 2 * reach + 1
        intervals[count] = entries[place]
        intervals[count + 1] = _HALF if symbol > 0 else _HALF | np.uint32(1 << 15)
        order = 0
        while reach >> (order + 3) > 0:
            order += 1
        rest = magnitude - reach - 1 + (1 << order)
        length = order
        while rest >> (length + 1) > 0:
            length += 1
        ones = length - order
        intervals[count + 2] = np.uint32(((1 << max(15 - ones, 0)) << 16) | (65536 - (1 << (16 - ones))))
        count += 3
        if length > 0:
            width = 16 - length
            intervals[count] = np.uint32((1 << (width + 16)) | ((rest - (1 << length)) << width))
            count += 1
        spent += ideal[place] + 2 + ones + length
    bits[0] += spent
    return count


@compiled(read_only(uint32), uint16[::1])
def push_intervals(intervals, words):  # type: ignore[no-untyped-def]
    """Code intervals (n,), last first, into the end of words (n + 3,); gives the place of the first word written."""
    state = np.uint64(0)
    place = len(words)
    for i in range(len(intervals) - 1, -1, -1):
        count = np.uint64(intervals[i]) >> _BITS
        if state >= count << _ROOM:
            place -= 1
            words[place] = np.uint16(state & _LOW)
            state >>= _BITS
        quotient = state // count
        state = (quotient << _BITS) + (state - quotient * count) + (np.uint64(intervals[i]) & _LOW)
    while state > np.uint64(0):
        place -= 1
        words[place] = np.uint16(state & _LOW)
        state >>= _BITS
    return place


@compiled(
    read_only(int64),
    read_only(uint32),
    read_only(int64),
    read_only(int64),
    read_only(uint16),
    read_only(uint16),
    uint64[::1],
    int32[::1],
)
def pull_symbols(numbers, entries, starts, reaches, buckets, words, state, symbols):  # type: ignore[no-untyped-def]
    """Decode symbols (n,); state holds the coder's state and the place of the next word. 0, or negative (see above)."""
    x, place, end = state[0], np.int64(state[1]), len(words)
    for i in range(len(numbers)):
        number = numbers[i]
        if number <= 0 or number >= len(starts):
            symbols[i] = 0
            if number == 0:
                continue
            return BAD_NUMBER
        start = starts[number]
        slot = x & _LOW
        entry = start + np.int64(buckets[(number << BUCKET_BITS) + np.int64(slot >> _TO_BUCKET)])
        interval = np.uint64(entries[entry])
        while slot - (interval & _LOW) >= interval >> _BITS:
            entry += 1
            interval = np.uint64(entries[entry])
        x = (interval >> _BITS) * (x >> _BITS) + slot - (interval & _LOW)
        if x < _FLOOR and place < end:
            x = x << _BITS | np.uint64(words[place])
            place += 1
        entry -= start
        reach = reaches[number]
        if entry <= 2 * reach:
            half = (entry + 1) >> 1
            symbols[i] = half if entry & 1 else -half
            continue
        # Escape: sign, Exp-Golomb length, low bits.
        negative = (x >> np.uint64(15)) & np.uint64(1)
        x = (x >> _BITS) << np.uint64(15) | (x & np.uint64(0x7FFF))
        if x < _FLOOR and place < end:
            x = x << _BITS | np.uint64(words[place])
            place += 1
        order = 0
        while reach >> (order + 3) > 0:
            order += 1
        slot = x & _LOW
        ones = 0
        while ones < 16 and (slot >> np.uint64(15 - ones)) & np.uint64(1):
            ones += 1
        length = order + ones
        if length > 16:
            return TOO_LARGE
        width = np.uint64(max(15 - ones, 0))
        x = (x >> _BITS) << width | (slot & ((np.uint64(1) << width) - np.uint64(1)))
        if x < _FLOOR and place < end:
            x = x << _BITS | np.uint64(words[place])
            place += 1
        rest = np.int64(1) << length
        if length > 0:
            width = np.uint64(16 - length)
            slot = x & _LOW
            rest += np.int64(slot >> width)
            x = (x >> _BITS) << width | (slot & ((np.uint64(1) << width) - np.uint64(1)))
            if x < _FLOOR and place < end:
                x = x << _BITS | np.uint64(words[place])
                place += 1
        rest -= np.int64(1) << order
        if rest >= ESCAPE_LIMIT:
            return TOO_LARGE
        magnitude = reach + 1 + rest
        symbols[i] = -magnitude if negative else magnitude
    state[0], state[1] = x, np.uint64(place)
    return 0


# Kernels with a model of their own take intervals one by one. What their functions call `coder` is (decoding, chances,
# seen, intervals, used, words, state): intervals are filled when encoding, as far as there is room, and used (1,)
# counts them all; words and state are the decoder's. Chances are the kernel's own.


@inlined
def refill(coder, x):  # type: ignore[no-untyped-def]
    _, _, _, _, _, words, state = coder
    place = np.int64(state[1])
    if x < np.uint64(1 << 32) and place < len(words):
        x = x << np.uint64(16) | np.uint64(words[place])
        state[1] = np.uint64(place + 1)
    state[0] = x


@inlined
def note(coder, count, start):  # type: ignore[no-untyped-def]
    _, _, _, intervals, used, _, _ = coder
    if used[0] < len(intervals):
        intervals[used[0]] = np.uint32(count << 16 | start)
    used[0] += 1


@inlined
def chance_bit(coder, one_chance, wanted):  # type: ignore[no-untyped-def]
    """Code a bit, or find it, that is a one with this chance, in 65536ths: a zero's interval comes first."""
    decoding, _, _, _, _, _, state = coder
    rest = 65536 - one_chance
    if not decoding:
        one = wanted != 0
        count, start = (one_chance, rest) if one else (rest, 0)
        note(coder, count, start)
        return np.int64(one)
    x = state[0]
    slot = np.int64(x & np.uint64(0xFFFF))
    one = slot >= rest
    count, start = (one_chance, rest) if one else (rest, 0)
    refill(coder, np.uint64(count) * (x >> np.uint64(16)) + np.uint64(slot - start))
    return np.int64(one)


@inlined
def even_bits(coder, wanted, width):  # type: ignore[no-untyped-def]
    """Code `width` bits, 1..14, or find them, of which any is as likely as another."""
    decoding, _, _, _, _, _, state = coder
    if not decoding:
        note(coder, np.int64(1) << (16 - width), wanted << (16 - width))
        return wanted
    x, shift = state[0], np.uint64(16 - width)
    slot = x & np.uint64(0xFFFF)
    refill(coder, (x >> np.uint64(16)) << shift | (slot & ((np.uint64(1) << shift) - np.uint64(1))))
    return np.int64(slot >> shift)
