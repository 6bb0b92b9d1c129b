"""The coder of an inter frame's symbols, compiled by numba; `codec.inter.symbol_mixing` says what it does."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from codec.bit_mixing import LEAST, mixed_bit
from codec.rans import chance_bit, compiled, even_bits, inner

NOT_ZERO = -1  # what the kernel returns instead of a count
_RARE = 260  # 65536ths: what the network holds for rarer than this to be other than zero goes by it alone
STAGES = 6  # magnitudes that are asked for one by one
_ROWS = STAGES * 96
_A = 0
_B = _A + _ROWS * 64
_C = _B + _ROWS * 2 * 16
_D = _C + STAGES * 2 * 16 * 16 * 2
_E = _D + _ROWS * 16
_F = _E + _ROWS * 16
_G = _F + STAGES * 3 * 16 * 64
_H = _G + STAGES * 2 * 64 * 16
_I = _H + STAGES * 2 * 16 * 16
_J = _I + _ROWS * 16
_SIGN = _J + STAGES * 2 * 64 * 16
_LONG = _SIGN + 96 * (9 + 9 + 9 + 5 + 9)
CONTEXTS = _LONG + 2 * 64 * 16
_SIGN_KIND, _LONG_KIND = STAGES, STAGES + 1
_KINDS = STAGES + 2
SETS = _KINDS * 5 * 2 + _KINDS * 64
VOTES = 10  # contexts of a magnitude's bit

PLANE, LEFT, UP, CORNER, OTHER, GROUP = range(6)  # columns of `layout`


class FrameSymbols(NamedTuple):
    """What is coded of a frame. now, before: (96, h, w) int32 symbols of this frame and the last; spent: (h, w) int32.

    layout: (96, 6) int32 of each channel: plane, the channels of the next lower frequency across, down and both, the
    channel of the same frequency in the plane before (-1: none), and its group.
    """

    now: Any
    before: Any
    spent: Any
    layout: Any


@inner
def _level(x):  # type: ignore[no-untyped-def]
    """A class, 0..15, of a sum of magnitudes: about two to the octave."""
    if x < 2:
        return x
    found = np.int64(1)
    y = x
    while y > 1:
        y >>= 1
        found += 2
    if (x << 1) >> ((found - 1) >> 1) >= 3:  # upper half of its octave
        found += 1
    return min(found - 1, 15)


@inner
def _value(map_, c, y, x):  # type: ignore[no-untyped-def]
    if y < 0 or x < 0 or y >= map_.shape[1] or x >= map_.shape[2]:
        return np.int64(0)
    return np.int64(map_[c, y, x])


@inner
def _beyond(entries, start, reach, magnitude):  # type: ignore[no-untyped-def]
    """Of 65536, how much of a table lies at this magnitude and above."""
    if magnitude <= reach:
        return 65536 - np.int64(entries[start + 2 * magnitude - 1] & 0xFFFF)
    return np.int64(entries[start + 2 * reach + 1] >> 16)


@inner
def _magnitude(coder, mixer, frame, c, y, x, second_half, scale, start, reach, entries, wanted):  # type: ignore[no-untyped-def]
    places, now = mixer.places, frame.now
    layout = frame.layout[c]
    rare = _beyond(entries, start, reach, np.int64(1))
    if rare < _RARE and not chance_bit(coder, max(rare, 1), np.int64(wanted > 0)):
        return np.int64(0)
    left, up = abs(_value(now, c, y, x - 1)), abs(_value(now, c, y - 1, x))
    corners = abs(_value(now, c, y - 1, x - 1)) + abs(_value(now, c, y - 1, x + 1))
    if second_half:
        near = 2 * (left + up + abs(_value(now, c, y, x + 1)) + abs(_value(now, c, y + 1, x))) + corners
    else:
        near = 3 * corners + abs(_value(now, c, y, x - 2)) + abs(_value(now, c, y - 2, x))
    lower = np.int64(0)
    across = abs(_value(now, layout[LEFT], y, x)) if layout[LEFT] >= 0 else np.int64(0)
    down = abs(_value(now, layout[UP], y, x)) if layout[UP] >= 0 else np.int64(0)
    lower = 2 * across + 2 * down + (abs(_value(now, layout[CORNER], y, x)) if layout[CORNER] >= 0 else 0)
    other = np.int64(0)
    if layout[OTHER] >= 0:
        other = abs(_value(now, layout[OTHER], y, x))
        beyond = frame.layout[layout[OTHER], OTHER]
        if beyond >= 0:
            other = 2 * other + abs(_value(now, beyond, y, x))
    earlier = 2 * abs(_value(frame.before, c, y, x))
    earlier += abs(_value(frame.before, c, y, x - 1)) + abs(_value(frame.before, c, y, x + 1))
    earlier += abs(_value(frame.before, c, y - 1, x)) + abs(_value(frame.before, c, y + 1, x))
    near_level, lower_level, earlier_level = _level(near), _level(lower), _level(earlier)
    chroma = 1 if layout[PLANE] else 0
    half = 1 if second_half else 0
    places[0] = _A + c * 64 + scale
    places[1] = _B + (c * 2 + half) * 16 + near_level
    places[2] = _C + ((chroma * 16 + near_level) * 16 + lower_level) * 2 + half
    places[3] = _D + c * 16 + _level(np.int64(frame.spent[y, x]))
    places[4] = _E + c * 16 + earlier_level
    places[5] = _F + (layout[PLANE] * 16 + _level(other)) * 64 + scale
    places[6] = _G + (chroma * 64 + scale) * 16 + lower_level
    places[7] = _H + (chroma * 16 + earlier_level) * 16 + near_level
    places[8] = _I + c * 16 + min(left + up, 3) * 4 + min(across + down, 3)
    places[9] = _J + (chroma * 64 + scale) * 16 + near_level
    mass: Any = np.int64(65536)
    found = np.int64(0)
    while found < STAGES:
        # Of a rare one it is told already that it is there.
        more = _beyond(entries, start, reach, found + 1) if found <= reach else mass >> 1
        given = min(max((more << 16) // max(mass, 1), LEAST), 65536 - LEAST)
        mass = more
        if found:
            places[0] += 96 * 64
            places[1] += 96 * 2 * 16
            places[2] += 2 * 16 * 16 * 2
            places[3] += 96 * 16
            places[4] += 96 * 16
            places[5] += 3 * 16 * 64
            places[6] += 2 * 64 * 16
            places[7] += 2 * 16 * 16
            places[8] += 96 * 16
            places[9] += 2 * 64 * 16
        first = (found * 5 + layout[GROUP]) * 2 + chroma
        second = _KINDS * 10 + found * 64 + scale
        if found == 0 and rare < _RARE:
            found = np.int64(1)
            continue
        if not mixed_bit(coder, mixer, VOTES, first, second, np.int64(wanted > found), given):
            return found
        found += 1
    # The rest by Exp-Golomb.
    value = wanted - STAGES + 1
    power = np.int64(0)
    while power < 14:
        places[0] = _LONG + (chroma * 64 + scale) * 16 + power
        first, second = (_LONG_KIND * 5 + layout[GROUP]) * 2 + chroma, _KINDS * 10 + _LONG_KIND * 64 + scale
        if not mixed_bit(coder, mixer, 1, first, second, np.int64(value >> (power + 1) > 0)):
            break
        power += 1
    low = even_bits(coder, value & ((np.int64(1) << power) - 1), power) if power else np.int64(0)
    return found + ((np.int64(1) << power) | low) - 1


@inner
def _is_negative(coder, mixer, frame, c, y, x, mean, scale, wanted):  # type: ignore[no-untyped-def]
    places, now, layout = mixer.places, frame.now, frame.layout[c]
    left, up = np.sign(_value(now, c, y, x - 1)) + 1, np.sign(_value(now, c, y - 1, x)) + 1
    right, low = np.sign(_value(now, c, y, x + 1)) + 1, np.sign(_value(now, c, y + 1, x)) + 1
    across = np.sign(_value(now, layout[LEFT], y, x)) + 1 if layout[LEFT] >= 0 else np.int64(1)
    down = np.sign(_value(now, layout[UP], y, x)) + 1 if layout[UP] >= 0 else np.int64(1)
    other = np.sign(_value(now, layout[OTHER], y, x)) + 1 if layout[OTHER] >= 0 else np.int64(1)
    earlier = np.sign(_value(frame.before, c, y, x)) + 1
    places[0] = _SIGN + c * 9 + left * 3 + up
    places[1] = _SIGN + 96 * 9 + c * 9 + right * 3 + low
    places[2] = _SIGN + 96 * 18 + c * 9 + across * 3 + down
    places[3] = _SIGN + 96 * 27 + c * 5 + (2 if mean == 0 else 0 if mean < 0 else 4)
    places[4] = _SIGN + 96 * 32 + c * 9 + earlier * 3 + other
    first, second = (_SIGN_KIND * 5 + layout[GROUP]) * 2, _KINDS * 10 + _SIGN_KIND * 64 + scale
    return mixed_bit(coder, mixer, 5, first, second, wanted)


@compiled()
def code_symbols(given, mixer, frame, start_channel, flat, second_half, index, numbers, means, tables, symbols):  # type: ignore[no-untyped-def]
    """Code symbols (n, places) int32 of n channels from start_channel on, or find them; gives the number of intervals.

    given: whether to decode, intervals, words, state, as in `codec.rans`. flat: (n, places) int64, their places in the
    grid. index, numbers: (n, places) int64 scale indices and numbers of tables; number 0 is a certain zero. means:
    (n, places) int64, of which the sign counts. tables: entries, starts, reaches.
    """
    decoding, intervals, words, state = given
    entries, starts, reaches = tables
    used, none = np.zeros(1, np.int64), np.zeros(0, np.int64)
    coder = (decoding, none, none, intervals, used, words, state)
    width = frame.now.shape[2]
    for row in range(flat.shape[0]):
        c = start_channel + row
        for i in range(flat.shape[1]):
            y, x = flat[row, i] // width, flat[row, i] % width
            number = numbers[row, i]
            symbol = np.int64(0) if decoding else np.int64(symbols[row, i])
            if number == 0:
                if symbol:
                    return NOT_ZERO
                symbols[row, i] = 0
                continue
            scale = index[row, i]
            found = _magnitude(
                coder, mixer, frame, c, y, x, second_half, scale, starts[number], reaches[number], entries, abs(symbol)
            )
            if found:
                if _is_negative(coder, mixer, frame, c, y, x, means[row, i], scale, np.int64(symbol < 0)):
                    symbol = -found
                else:
                    symbol = found
                frame.spent[y, x] += min(found, 2)
            else:
                symbol = np.int64(0)
            symbols[row, i] = symbol
            frame.now[c, y, x] = symbol
    return used[0]
