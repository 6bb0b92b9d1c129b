"""The coder of what one axis of a vector differs by from what is predicted, compiled by numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.motion_context_kernels import (
    LOWER,
    LOWER_BIT,
    POWER_BIT,
    SIGN,
    SIGN_BIT,
    at,
    bits_of,
    place_votes,
    sign_of,
    voted_bit,
)
from codec.rans import even_bits, inner

_LARGEST_POWER = 16  # bits of a difference between two vectors


@inner
def code_difference(coder, mixer, walk, y, x, whole, axis, wanted, context, lean, least, hints):  # type: ignore[no-untyped-def]
    """One axis's difference: how many bits it has, the bits below the first one, the sign.

    axis: 0, 1 down and across of a first vector, 2, 3 of a second one. context: the first adaptive one of the number of
    bits. lean: of the neighbours to one side. least: bits that there are at least. hints: by how much what the frame
    before had at the block and beyond it, the left, the upper and the corner neighbour differ on this axis; the bits of
    the difference down, for one across.
    """
    before, beyond, left, up, _, _ = hints
    first, second = np.int64(at(walk.off[axis], y, x - 1)), np.int64(at(walk.off[axis], y - 1, x))
    power = _power(coder, mixer, walk.fresh, whole, axis, abs(wanted), context, least, hints, (first, second))
    if power == 0:
        return np.int64(0)
    value = _magnitude(coder, mixer, walk.fresh, power, abs(wanted), hints)
    like = np.int64(0 if abs(before) < value else 1 if abs(before) == value else 2)
    signs = sign_of(first) * 3 + sign_of(second)
    told, sides = axis * 3 + sign_of(before), axis * 3 + sign_of(left)
    place_votes(
        mixer, SIGN_BIT, (told * 3 + like) * 9 + min(power, 8), (sides * 3 + sign_of(up)) * 3 + sign_of(hints[4]),
        axis * 9 + signs, (told * 3 + sign_of(beyond)) * 3 + sign_of(lean), sides * 9 + bits_of(left),
        (told * 3 + sign_of(lean)) * 9 + signs,
    )  # fmt: skip
    negative = voted_bit(coder, mixer, SIGN_BIT, walk.fresh, SIGN + sign_of(lean), np.int64(wanted < 0))
    return -value if negative else value


@inner
def _power(coder, mixer, fresh, whole, axis, magnitude, context, least, hints, near):  # type: ignore[no-untyped-def]
    """How many bits the magnitude has."""
    told, beyond = bits_of(hints[0]), bits_of(hints[1])
    left, up, corner = bits_of(hints[2]), bits_of(hints[3]), bits_of(hints[4])
    most, fewest = max(left, up, corner), min(left, up)
    around = min(bits_of(near[0]) + bits_of(near[1]), 15)
    power = np.int64(least)
    while power < _LARGEST_POWER:
        k: Any = min(power, 8)
        place_votes(
            mixer, POWER_BIT + axis, (k * 9 + told) * 9 + beyond, (k * 9 + most) * 9 + fewest,
            (k * 16 + around) * 2 + whole, (k * 9 + hints[5]) * 9 + told, (k * 9 + left) * 9 + up,
            (k * 9 + told) * 9 + most,
        )  # fmt: skip
        more = np.int64(magnitude >> power != 0)
        if not voted_bit(coder, mixer, POWER_BIT + axis, fresh, context + min(power, 7), more):
            break
        power += 1
    return power


@inner
def _magnitude(coder, mixer, fresh, power, magnitude, hints):  # type: ignore[no-untyped-def]
    """What has so many bits. Those below the third are as likely one as another."""
    before, beyond = abs(hints[0]), abs(hints[1])
    value = np.int64(1) << (power - 1)
    for low in range(power - 2, max(power - 4, -1), -1):
        base = min(power, 8) * 4 + (value >> (low + 1) & 3)
        told = before >> low & 1 if bits_of(before) == power else np.int64(2)
        told_beyond = beyond >> low & 1 if bits_of(beyond) == power else np.int64(2)
        place_votes(
            mixer, LOWER_BIT, base, base * 3 + told, base * 3 + told_beyond, (base * 3 + told) * 3 + told_beyond,
            base * 9 + bits_of(hints[2]), base * 9 + hints[5],
        )  # fmt: skip
        value |= voted_bit(coder, mixer, LOWER_BIT, fresh, LOWER, magnitude >> low & 1) << low
    if power > 3:
        value |= even_bits(coder, magnitude & ((1 << (power - 3)) - 1), power - 3)
    return value
