"""What the coder of motion looks at for a bit, and the votes on it, compiled by numba; the contexts themselves are told
by `codec.motion_coding`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from codec.adaptive_bit_kernels import learn_adaptive
from codec.bit_mixing import mixed_bit
from codec.rans import inlined, inner

# Where each kind of bit has its adaptive contexts.
SPLIT, MOVED, NEIGHBOUR, POWER, LOWER, SIGN, REFERENCE, SECOND, SECOND_REFERENCE, APART = (
    0, 3, 63, 123, 219, 220, 223, 241, 247, 259,
)  # fmt: skip
ADAPTIVE_CONTEXTS = 283

# Kinds of bits whose contexts vote. A difference has a kind for each axis: down and across of the first vector, then
# of the second one.
SPLIT_BIT, REFERENCE_BIT, SECOND_REFERENCE_BIT, MOVED_BIT, NEIGHBOUR_BIT, SECOND_BIT, POWER_BIT = range(7)
LOWER_BIT, SIGN_BIT = POWER_BIT + 4, POWER_BIT + 5
KINDS = SIGN_BIT + 1
VOTES = 6  # contexts that a bit has
SETS = 2 * KINDS + ADAPTIVE_CONTEXTS
_POWER_SIZES = (729, 729, 288, 729, 729, 729)
SIZES = np.array([
    (32, 144, 90, 24, 30, 128), (288, 288, 1728, 288, 288, 288), (288, 288, 1728, 288, 288, 288),
    (180, 243, 60, 243, 60, 324), (243, 135, 243, 36, 243, 72), (400, 30, 144, 50, 120, 48),
    _POWER_SIZES, _POWER_SIZES, _POWER_SIZES, _POWER_SIZES, (36, 108, 108, 324, 324, 324),
    (324, 108, 36, 108, 108, 324),
])  # fmt: skip
"""How many contexts each vote of each kind has, (KINDS, VOTES)."""
CONTEXTS = int(SIZES.sum())
_STARTS = (np.cumsum(SIZES) - SIZES.reshape(-1)).reshape(SIZES.shape)


class Walk(NamedTuple):
    """A frame's blocks as they are coded, and the last inter frame's; maps of 8x8 blocks, (…, H/8, W/8) int64.

    blocks: (6, …), see `codec.motion.Motion`. distances: of the references, in frames. moved: whether a block's first
    vector is off the median. off: (4, …), by how much it was coded to be off, and the second one off the first, 0 where
    it was not. before: (5, …), what the last inter frame had: first vectors over the distance of one frame, reference,
    second reference, whether split. fresh: 1 where there was none, else 0.
    """

    blocks: Any
    distances: Any
    moved: Any
    off: Any
    before: Any
    fresh: Any


@inlined
def bits_of(value):  # type: ignore[no-untyped-def]
    """How many bits a magnitude has, 0..8, 8 for more too."""
    found, rest = np.int64(0), abs(value)
    while rest and found < 8:
        rest >>= 1
        found += 1
    return found


@inlined
def sign_of(value):  # type: ignore[no-untyped-def]
    """0 below zero, 1 at it, 2 above."""
    return np.int64(0) if value < 0 else np.int64(1) if value == 0 else np.int64(2)


@inlined
def at(map_, y, x):  # type: ignore[no-untyped-def]
    """What a map has there; zero outside of it."""
    return map_[y, x] if y >= 0 and x >= 0 and x < map_.shape[1] and y < map_.shape[0] else np.int64(0)


@inner
def place_votes(mixer, kind, a, b, c, d, e, f):  # type: ignore[no-untyped-def]
    """Say which of their contexts a kind's votes come from."""
    places = mixer.places
    places[0], places[1], places[2] = _STARTS[kind, 0] + a, _STARTS[kind, 1] + b, _STARTS[kind, 2] + c
    places[3], places[4], places[5] = _STARTS[kind, 3] + d, _STARTS[kind, 4] + e, _STARTS[kind, 5] + f


@inner
def voted_bit(coder, mixer, kind, fresh, context, wanted):  # type: ignore[no-untyped-def]
    """Code a bit, or find it, by the votes that were placed; its adaptive context's chance votes too, and learns."""
    _, chances, _, _, _, _, _ = coder
    one = mixed_bit(coder, mixer, VOTES, 2 * kind + fresh, 2 * KINDS + context, wanted, chances[context])
    learn_adaptive(coder, context, one)
    return one
