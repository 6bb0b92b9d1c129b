"""How the walk over samples sorts what it measures into classes, compiled by numba."""

from __future__ import annotations

import numpy as np

from codec.rans import inner

LEVELS = 24  # of errors, two an octave
TAIL_LIMIT = 8191  # 512ths of a distribution's scale: how far its table goes


@inner
def level_of(v):  # type: ignore[no-untyped-def]
    """0 .. LEVELS - 1 for v >= 0 in 64ths: two an octave, from an eighth of a grey level up."""
    level, v = np.int64(0), v + 8
    while v >= 16 and level < LEVELS - 1:
        v >>= 1
        level += 2
    return min(level + (v >= 11), LEVELS - 1)


@inner
def signed_class(v, small, middle, large):  # type: ignore[no-untyped-def]
    """-large .. large in seven classes, 0 .. 6."""
    magnitude = abs(v)
    size = 0 if magnitude < small else 1 if magnitude < middle else 2 if magnitude < large else 3
    return np.int64(3 - size if v < 0 else 3 + size)


@inner
def median(one, other, corner):  # type: ignore[no-untyped-def]
    """The median of one, other and their sum less the corner."""
    low, high = min(one, other), max(one, other)
    return low if corner >= high else high if corner <= low else one + other - corner


@inner
def in_range(v, low, high):  # type: ignore[no-untyped-def]
    return min(max(v, low), high)


@inner
def tail_place(distance, inverse):  # type: ignore[no-untyped-def]
    """Where the table of tails has what lies a distance (64ths) and more above the middle."""
    return TAIL_LIMIT - min(max((distance * inverse) >> 16, -TAIL_LIMIT), TAIL_LIMIT)
