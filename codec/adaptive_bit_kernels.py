"""Bits whose chance is that of one context, compiled by numba; `codec.motion_coding` says how a chance learns."""

from __future__ import annotations

from codec.rans import chance_bit, inlined, inner

_MOST_SEEN = 64  # bits that a chance rests on; so it forgets
_LEAST = 32  # 65536ths: no bit is rarer


@inlined
def learn_adaptive(coder, context, one):  # type: ignore[no-untyped-def]
    """A bit of this context has come. coder: see `codec.rans`, with its chances and what they have seen."""
    _, chances, seen, _, _, _, _ = coder
    chance, weight = chances[context], seen[context] + 2
    if one:
        chances[context] = min(chance + (65536 - chance) // weight, 65536 - _LEAST)
    else:
        chances[context] = max(chance - chance // weight, _LEAST)
    seen[context] = min(seen[context] + 1, _MOST_SEEN)


@inner
def adaptive_bit(coder, wanted, context):  # type: ignore[no-untyped-def]
    """Code a bit, or find it, with its context's chance of a one; the chance learns from it."""
    _, chances, _, _, _, _, _ = coder
    one = chance_bit(coder, chances[context], wanted)
    learn_adaptive(coder, context, one)
    return one
