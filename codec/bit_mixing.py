"""Chances of bits that several contexts vote on, in whole numbers: the parts that coding kernels are built of.

Each context keeps a chance of a one, in 65536ths, and how many bits that rests on. A bit's contexts vote with the
logarithm of their odds (`stretch`), as far as they have seen anything. Two sets of weights, each picked by something
else, add the votes up; what they say is averaged and turned back into a chance (`squash`). After the bit has come, the
contexts' chances move towards it, and each set moves its weights by what it was wrong by itself. That is logistic
mixing as data compressors of the PAQ family have it; both sides do the same with the same whole numbers.

A `Mixer` holds it all; kernels get its `parts` and call `mixed_bit`, or `chance` alone to see what a bit would cost.
"""

from __future__ import annotations

import zipfile
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.errors import BitreelError
from codec.rans import chance_bit, inlined

MOST_VOTES = 16  # of contexts, bias and a given chance together
LEAST = 32  # 65536ths: no bit is rarer
_UNIT = 256  # of logarithms of odds
_LIMIT = 2047  # of logarithms of odds, either way
_WEIGHT = 1 << 16  # a weight of one
_LARGEST_WEIGHT = 1 << 22
_MOST_SEEN = 250  # bits that a chance rests on at most; so it forgets
_RATE_FALLS = 64  # bits in which the weights' learning slows down to about half
_START_SEEN, _START_STEPS = 40, 200


@lru_cache
def squash_table() -> NDArray[np.uint16]:
    """(4096,) chances in 65536ths for logarithms of odds -2048 .. 2047, in 256ths; correctly rounded everywhere."""
    context = Context(prec=24, rounding=ROUND_HALF_EVEN)
    half = [int((65536 / (1 + context.exp(Decimal(-s) / _UNIT))).to_integral_value()) for s in range(2049)]
    found = [65536 - half[-s] if s < 0 else half[s] for s in range(-2048, 2048)]
    return np.clip(np.array(found, np.int32), LEAST, 65536 - LEAST).astype(np.uint16)


@lru_cache
def stretch_table() -> NDArray[np.int16]:
    """(4096,) logarithms of odds, -2047 .. 2047, of chances in 4096ths: the least whose chance is not below."""
    found = np.searchsorted(squash_table(), np.arange(4096) * 16 + 8) - 2048
    return np.clip(found, -_LIMIT, _LIMIT).astype(np.int16)


@lru_cache
def _by_bits_seen() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What share of a surprise a chance moves by, in 65536ths, and how far a vote is trusted, in 256ths."""
    seen = np.arange(256)
    found = (65536 * 5) // (5 * seen + 8), (256 * 5 * seen) // (5 * seen + 3)
    return found[0].astype(np.int32), found[1].astype(np.int32)


@lru_cache
def _rates(first: float, last: float) -> NDArray[np.int32]:
    """The weights' rate by steps, in 2^-14."""
    whole, least = round(first * (1 << 14)), round(last * (1 << 14))
    found = least + (whole - least) * _RATE_FALLS // (_RATE_FALLS + np.arange(1024))
    return found.astype(np.int32)


class Parts(NamedTuple):
    """What the functions here call `mixer`: a `Mixer`'s arrays, room for a bit's places and votes, and tables."""

    chances: NDArray[np.uint16]
    seen: NDArray[np.uint8]
    weights: NDArray[np.int32]
    steps: NDArray[np.int32]
    places: NDArray[np.int64]
    votes: NDArray[np.int64]
    stretch: NDArray[np.int16]
    squash: NDArray[np.uint16]
    shares: NDArray[np.int32]
    trusts: NDArray[np.int32]
    rates: NDArray[np.int32]


class Mixer:
    """Contexts and weights of one kind of data.

    contexts: how many chances there are. sets: how many sets of weights. votes: how many votes a bit has at most;
    first_weights: what each vote counts at first, (sets, MOST_VOTES) float. rates: of the weights' learning, at first
    and in the end.
    """

    def __init__(self, contexts: int, first_weights: NDArray[np.float64], rates: tuple[float, float]) -> None:
        self.rates = _rates(*rates)
        self.chances = np.full(contexts, 1 << 15, np.uint16)
        self.seen = np.zeros(contexts, np.uint8)
        self.weights = np.round(first_weights * _WEIGHT).astype(np.int32)
        self.steps = np.zeros(len(first_weights), np.int32)

    def copy(self) -> Mixer:
        """One to try something out on."""
        made = object.__new__(Mixer)
        made.rates = self.rates
        made.chances, made.seen = self.chances.copy(), self.seen.copy()
        made.weights, made.steps = self.weights.copy(), self.steps.copy()
        return made

    def parts(self) -> Parts:
        """For kernels, which change what is in here."""
        return Parts(
            self.chances, self.seen, self.weights, self.steps, np.zeros(MOST_VOTES, np.int64),
            np.zeros(MOST_VOTES + 2, np.int64), stretch_table(), squash_table(), *_by_bits_seen(),
            self.rates,
        )  # fmt: skip


def mixer_arrays(mixer: Mixer) -> dict[str, NDArray[Any]]:
    """A mixer as training left it, for a file that coding starts from.

    A chance rests on 40 bits at most and the weights keep learning, so that both still follow the video.
    """
    return {
        "chances": mixer.chances.astype(np.uint16), "seen": np.minimum(mixer.seen, _START_SEEN),
        "weights": mixer.weights, "steps": np.minimum(mixer.steps, _START_STEPS),
    }  # fmt: skip


def load_mixer(file: Path, new: Mixer) -> Mixer:
    """A new mixer with what a file has for it. Raises BitreelError where that is for another kind of mixer."""
    learned = stored_arrays(file)
    for name in ("chances", "seen", "weights", "steps"):
        values, place = learned.get(name), getattr(new, name)
        if values is None or values.shape != place.shape:
            raise BitreelError(f"'{file}' is damaged or of another version; install bitreel anew")
        place[:] = values
    return new


@lru_cache
def stored_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """What an .npz file has, read once. Raises BitreelError where it can't be read."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BitreelError(f"can't read '{file}' ({error}); install bitreel anew") from error


@inlined
def chance(mixer, count, first, second, given=32768):  # type: ignore[no-untyped-def]
    """Chance of a one in 65536ths, LEAST .. 65536 - LEAST, by the contexts places[:count] and two sets of weights.

    given: what somebody else thinks the chance is, who votes too.
    """
    chances, seen, weights, _, places, votes, stretch, squash, _, trusts, _ = mixer
    one: Any = np.int64(0)
    other: Any = np.int64(0)
    for i in range(count):
        place = places[i]
        vote = (np.int64(stretch[np.int64(chances[place]) >> 4]) * np.int64(trusts[seen[place]])) >> 8
        votes[i] = vote
        one += weights[first, i] * vote
        other += weights[second, i] * vote
    one += np.int64(weights[first, count]) * 256
    other += np.int64(weights[second, count]) * 256
    votes[count] = 256  # a set's own inclination
    vote = np.int64(stretch[given >> 4])
    votes[count + 1] = vote
    one += weights[first, count + 1] * vote
    other += weights[second, count + 1] * vote
    one = min(max(one >> 16, -_LIMIT), _LIMIT)
    other = min(max(other >> 16, -_LIMIT), _LIMIT)
    votes[MOST_VOTES] = np.int64(squash[one + 2048])
    votes[MOST_VOTES + 1] = np.int64(squash[other + 2048])
    return np.int64(squash[((one + other) >> 1) + 2048])


@inlined
def learn(mixer, count, first, second, bit):  # type: ignore[no-untyped-def]
    """The bit that `chance` was asked for has come. Nothing else may be asked in between."""
    chances, seen, weights, steps, places, votes, _, _, shares, _, rates = mixer
    target = np.int64(65536) if bit else np.int64(0)
    wrong, wronger = target - votes[MOST_VOTES], target - votes[MOST_VOTES + 1]
    wrong *= np.int64(rates[min(steps[first], 1023)])
    wronger *= np.int64(rates[min(steps[second], 1023)])
    steps[first] += 1
    steps[second] += 1
    for i in range(count + 2):
        moved = weights[first, i] + ((votes[i] * wrong + (1 << 21)) >> 22)
        weights[first, i] = min(max(moved, -_LARGEST_WEIGHT), _LARGEST_WEIGHT)
        moved = weights[second, i] + ((votes[i] * wronger + (1 << 21)) >> 22)
        weights[second, i] = min(max(moved, -_LARGEST_WEIGHT), _LARGEST_WEIGHT)
    for i in range(count):
        place = places[i]
        known = seen[place]
        before = np.int64(chances[place])
        moved = before + (((target - before) * np.int64(shares[known])) >> 16)
        chances[place] = min(max(moved, LEAST), 65536 - LEAST)
        if known < _MOST_SEEN:
            seen[place] = known + 1


@inlined
def mixed_bit(coder, mixer, count, first, second, wanted, given=32768):  # type: ignore[no-untyped-def]
    """Code a bit, or find it, with the chance that `chance` gives; the mixer learns. coder: see `codec.rans`."""
    one = chance_bit(coder, chance(mixer, count, first, second, given), wanted)
    learn(mixer, count, first, second, one)
    return one
