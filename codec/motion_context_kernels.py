"""What the coder of motion looks at for each bit, compiled by numba; `codec.motion_coding` tells the contexts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from codec.bit_mixing import mixed_bit
from codec.motion import LARGEST_VECTOR
from codec.rans import inlined, inner

SPLIT, REFERENCE, MOVED, NEIGHBOUR, DOWN, ACROSS, SECOND, SECOND_REFERENCE, APART = range(9)
_VOTED = 9  # kinds of bits
VOTES = 6
PLAIN = 283  # contexts of the chances that are votes themselves
SETS = 2 * _VOTED + PLAIN
_SIZE = 4096  # contexts a kind and vote has room for
CONTEXTS = (_VOTED + 4) * VOTES * _SIZE
_SIGNS, _LOWER = _VOTED, _VOTED + 2


class Walk(NamedTuple):
    """A frame's blocks as they are coded, and the last inter frame's.

    blocks: int64 (6, H/8, W/8), see `codec.motion.Motion`. moved: int64 (H/8, W/8), whether a vector is off the median;
    off: int64 (2, H/8, W/8), by how much it was told to be. before: int64 (5, H/8, W/8), what the frame before had:
    vectors over the distance of one frame, reference, second reference, split. fresh: 1 where there was none.
    """

    blocks: Any
    moved: Any
    off: Any
    before: Any
    split: Any
    distances: Any
    fresh: Any


@inlined
def bits_of(value):  # type: ignore[no-untyped-def]
    """How many bits a magnitude has, 0..8."""
    found, rest = np.int64(0), abs(value)
    while rest and found < 8:
        rest >>= 1
        found += 1
    return found


@inlined
def sign_of(value):  # type: ignore[no-untyped-def]
    return np.int64(0) if value < 0 else np.int64(1) if value == 0 else np.int64(2)


@inlined
def at(map_, y, x):  # type: ignore[no-untyped-def]
    return map_[y, x] if y >= 0 and x >= 0 and x < map_.shape[1] and y < map_.shape[0] else np.int64(0)


@inner
def place_votes(mixer, kind, a, b, c, d, e, f):  # type: ignore[no-untyped-def]
    start = kind * VOTES * _SIZE
    places = mixer.places
    places[0] = start + a
    places[1] = start + _SIZE + b
    places[2] = start + 2 * _SIZE + c
    places[3] = start + 3 * _SIZE + d
    places[4] = start + 4 * _SIZE + e
    places[5] = start + 5 * _SIZE + f


@inner
def voted_bit(coder, mixer, wanted, context, kind):  # type: ignore[no-untyped-def]
    """Code a bit, or find it; the context's plain chance votes too, and learns."""
    _, chances, seen, _, _, _, _ = coder
    chance = chances[context]
    one = mixed_bit(coder, mixer, VOTES, kind, 2 * _VOTED + context, wanted, chance)
    learn_plain(chances, seen, context, one)
    return one


@inlined
def learn_plain(chances, seen, context, one):  # type: ignore[no-untyped-def]
    chance, weight = chances[context], seen[context] + 2
    if one:
        chances[context] = min(chance + (65536 - chance) // weight, 65536 - 32)
    else:
        chances[context] = max(chance - chance // weight, 32)
    seen[context] = min(seen[context] + 1, 64)
