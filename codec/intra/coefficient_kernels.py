"""Coefficients of one block of an intra frame to bits and back; `codec.intra.coding` says what the bits are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from codec.bit_mixing import mixed_bit
from codec.rans import even_bits, inner


class Unit(NamedTuple):
    """What is known of the block at hand before its symbols.

    kinds: (6,) int64, see the constants below. near: (64, 4) int64, magnitudes of the same frequency: the blocks around
    summed up, the left one's, the upper one's, and what else tells (for luma the next higher frequencies of these two,
    for chroma luma's and U's). signs: (64, 3) int64 of the left one's, the upper one's, and the other plane's. rest:
    (16,) int64, what left and upper block have from each diagonal on.
    """

    kinds: Any
    near: Any
    signs: Any
    rest: Any


SIZE, TYPE, MODE, BAND, END_LEFT, END_UP = range(6)  # places in `kinds`
LUMA, QUARTER, CHROMA = 0, 1, 2  # types of blocks; V's is 3

STAGES = 6  # magnitudes that are asked for one by one
_K = STAGES * 4 * 64
# Where each family of contexts begins.
C0 = 0
C1 = C0 + _K * 16
C2 = C1 + _K * 16
C3 = C2 + STAGES * 4 * 16 * 16 * 8
C4 = C3 + _K * 34
C5 = C4 + _K * 16
C6 = C5 + STAGES * 4 * 16 * 16 * 4
C7 = C6 + _K * 16
C8 = C7 + _K * 16
E0 = C8 + _K * 8
S0 = E0 + 4 * 16 * (16 + 16 + 34 + 16 + 16) + 4 * 16 * 16
S1 = S0 + 4 * 64 * 9
S2 = S1 + 4 * 64 * 34
S3 = S2 + 4 * 64 * 9
G0 = S3 + 4 * 64 * 3
G1 = G0 + 4 * 16 * 16
MODE0 = G1 + 4 * 16 * 16
CONTEXTS = MODE0 + 3 * (32 * 34 * 2 + 32 * 34 * 34) + 4096

# Sets of weights: by kind of bit, type and diagonal; by kind of bit and level. Kinds 0 .. 5 are the stages.
SIGN, END, TREE, SPLIT, PREFIX = 6, 7, 8, 9, 10
_KINDS = 11
SETS = _KINDS * 4 * 4 + _KINDS * 16


@inner
def level(x):  # type: ignore[no-untyped-def]
    """A class, 0..15, of a sum of magnitudes."""
    if x < 4:
        return x
    if x < 6:
        return np.int64(4)
    if x < 8:
        return np.int64(5)
    if x < 12:
        return np.int64(6)
    if x < 16:
        return np.int64(7)
    if x < 24:
        return np.int64(8)
    if x < 32:
        return np.int64(9)
    if x < 48:
        return np.int64(10)
    if x < 64:
        return np.int64(11)
    if x < 96:
        return np.int64(12)
    if x < 128:
        return np.int64(13)
    if x < 256:
        return np.int64(14)
    return np.int64(15)


@inner
def first_set(kind, type_, diagonal):  # type: ignore[no-untyped-def]
    return (kind * 4 + type_) * 4 + min(diagonal >> 1, 3)


@inner
def second_set(kind, of_level):  # type: ignore[no-untyped-def]
    return _KINDS * 16 + kind * 16 + of_level


@inner
def magnitude_contexts(places, unit, symbols, at, spent, run, last):  # type: ignore[no-untyped-def]
    """Contexts of the first stage of the coefficient `at`; each later stage adds its own offset. Gives levels."""
    kinds, near = unit.kinds, unit.near
    size, type_ = kinds[SIZE], kinds[TYPE]
    v, u = at // size, at % size
    left = abs(symbols[at - 1]) if u else np.int64(0)
    up = abs(symbols[at - size]) if v else np.int64(0)
    corner = abs(symbols[at - size - 1]) if u and v else np.int64(0)
    around = level(near[at, 0])
    local = level(2 * left + 2 * up + corner)
    base = type_ * 64 + at
    diagonal = u + v
    places[0] = C0 + base * 16 + around
    places[1] = C1 + base * 16 + local
    places[2] = C2 + ((type_ * 16 + around) * 16 + local) * 8 + min(diagonal >> 1 if size == 8 else diagonal, 7)
    places[3] = C3 + base * 34 + kinds[MODE]
    places[4] = C4 + base * 16 + level(spent)
    places[5] = C5 + ((type_ * 16 + level(last)) * 16 + around) * 4 + min(run, 3)
    places[6] = C6 + base * 16 + min(near[at, 1], 3) * 4 + min(near[at, 2], 3)
    places[7] = C7 + base * 16 + level(near[at, 3])
    places[8] = C8 + base * 8 + kinds[BAND]
    return around, local


@inner
def to_stage(places, stage):  # type: ignore[no-untyped-def]
    """Move the contexts of the stage before to this one."""
    if stage == 0:
        return
    places[0] += 4 * 64 * 16
    places[1] += 4 * 64 * 16
    places[2] += 4 * 16 * 16 * 8
    places[3] += 4 * 64 * 34
    places[4] += 4 * 64 * 16
    places[5] += 4 * 16 * 16 * 4
    places[6] += 4 * 64 * 16
    places[7] += 4 * 64 * 16
    places[8] += 4 * 64 * 8


@inner
def end_contexts(places, unit, diagonal, spent, lately):  # type: ignore[no-untyped-def]
    kinds = unit.kinds
    type_ = kinds[TYPE]
    base = type_ * 16 + diagonal
    rest = level(unit.rest[diagonal])
    places[0] = E0 + base * 16 + rest
    places[1] = E0 + 1024 + base * 16 + level(spent)
    places[2] = E0 + 2048 + base * 34 + kinds[MODE]
    places[3] = E0 + 2048 + 64 * 34 + base * 16 + min(kinds[END_LEFT], 15)
    places[4] = E0 + 3072 + 64 * 34 + base * 16 + min(kinds[END_UP], 15)
    places[5] = E0 + 4096 + 64 * 34 + (type_ * 16 + level(lately)) * 16 + rest
    return rest


@inner
def _sign_contexts(places, unit, symbols, at):  # type: ignore[no-untyped-def]
    kinds, signs = unit.kinds, unit.signs
    size = kinds[SIZE]
    base = kinds[TYPE] * 64 + at
    left = np.sign(symbols[at - 1]) + 1 if at % size else 1
    up = np.sign(symbols[at - size]) + 1 if at >= size else 1
    places[0] = S0 + base * 9 + (signs[at, 0] + 1) * 3 + signs[at, 1] + 1
    places[1] = S1 + base * 34 + kinds[MODE]
    places[2] = S2 + base * 9 + left * 3 + up
    places[3] = S3 + base * 3 + signs[at, 2] + 1


@inner
def code_symbols(coder, mixer, unit, scan, diagonals, symbols):  # type: ignore[no-untyped-def]
    """Code the block's symbols (size²,) int64, or find them; gives the diagonal that the end was told at, or 15."""
    size, type_ = unit.kinds[SIZE], unit.kinds[TYPE]
    places = mixer.places
    count = size * size
    spent, run, last, lately, before = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    current = np.int64(-1)
    ended = np.int64(15)
    end_at = np.int64(count)
    if not coder[0]:
        while end_at > 0 and symbols[scan[end_at - 1]] == 0:
            end_at -= 1
    for k in range(count):
        at = scan[k]
        diagonal = diagonals[k]
        if diagonal != current:
            current = diagonal
            rest = end_contexts(places, unit, diagonal, spent, before + lately)
            before, lately = lately, np.int64(0)
            wanted = np.int64(k >= end_at)
            if mixed_bit(coder, mixer, 6, first_set(END, type_, diagonal), second_set(END, rest), wanted):
                ended = diagonal
                for j in range(k, count):
                    symbols[scan[j]] = 0
                break
        magnitude = abs(symbols[at])
        around, local = magnitude_contexts(places, unit, symbols, at, spent, run, last)
        found: Any = np.int64(0)
        while found < STAGES:
            to_stage(places, found)
            first, second = first_set(found, type_, diagonal), second_set(found, (around + local) >> 1)
            if not mixed_bit(coder, mixer, 9, first, second, np.int64(magnitude > found)):
                break
            found += 1
        if found == STAGES:
            # The rest by Exp-Golomb: as many ones as it has bits more than one.
            value = magnitude - STAGES + 1
            power = np.int64(0)
            while power < 14:
                places[0] = G0 + (type_ * 16 + around) * 16 + power
                places[1] = G1 + (type_ * 16 + local) * 16 + power
                first, second = first_set(PREFIX, type_, diagonal), second_set(PREFIX, around)
                if not mixed_bit(coder, mixer, 2, first, second, np.int64(value >> (power + 1) > 0)):
                    break
                power += 1
            low = even_bits(coder, value & ((np.int64(1) << power) - 1), power) if power else np.int64(0)
            found += ((np.int64(1) << power) | low) - 1
        if found:
            _sign_contexts(places, unit, symbols, at)
            first, second = first_set(SIGN, type_, diagonal), second_set(SIGN, min(at, 15))
            negative = mixed_bit(coder, mixer, 4, first, second, np.int64(symbols[at] < 0))
            symbols[at] = -found if negative else found
            run = np.int64(0)
        else:
            symbols[at] = 0
            run += 1
        spent += min(found, 15)
        lately += min(found, 15)
        last = min(found, 127) * 2 + (last >> 2)
    return ended
