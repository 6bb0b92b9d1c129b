"""Mixed chances: tables that say what they should, and a mixer that learns."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from codec.bit_mixing import LEAST, MOST_VOTES, Mixer, chance, learn, squash_table, stretch_table


def _mixer(contexts: int = 4, sets: int = 2) -> Mixer:
    weights = np.zeros((sets, MOST_VOTES))
    weights[:, :2] = 0.3
    return Mixer(contexts, weights, (0.03, 0.006))


def _code(mixer: Mixer, bits: list[tuple[int, tuple[int, ...]]]) -> list[float]:
    """Bits with the contexts of each: what each costs."""
    parts, spent = mixer.parts(), []
    for bit, contexts in bits:
        parts.places[: len(contexts)] = contexts
        one = int(chance(parts, len(contexts), 0, 1))
        assert LEAST <= one <= 65536 - LEAST
        spent.append(-math.log2((one if bit else 65536 - one) / 65536))
        learn(parts, len(contexts), 0, 1, bit)
    return spent


def test_squash_is_the_logistic_function_rounded() -> None:
    table = squash_table()
    assert table.shape == (4096,)
    with localcontext() as context:
        context.prec = 60
        for odds in (-2048, -2047, -1500, -700, -257, -1, 0, 1, 2, 300, 1100, 2047):
            exact = 65536 / (1 + (Decimal(-odds) / 256).exp())
            assert abs(int(table[odds + 2048]) - min(max(exact, LEAST), 65536 - LEAST)) <= Decimal("0.5")


def test_squash_rises_within_its_bounds_and_is_even_handed() -> None:
    table = squash_table().astype(int)
    assert (np.diff(table) >= 0).all()
    assert (table[0], table[2048], table[-1]) == (LEAST, 32768, 65536 - LEAST)
    assert (table[1:] + table[:0:-1] == 65536).all()


def test_stretch_is_the_least_that_squash_takes_there() -> None:
    odds, squash = stretch_table(), squash_table()
    assert (np.diff(odds) >= 0).all()
    inner = abs(odds) < 2047
    assert inner.sum() > 4000
    wanted = np.arange(4096)[inner] * 16 + 8
    assert (squash[odds[inner] + 2048] >= wanted).all()
    assert (squash[odds[inner] + 2047] < wanted).all()
    assert abs(odds).max() == 2047


def test_a_mixer_learns_a_biased_bit() -> None:
    draw = np.random.default_rng(1)
    bits = [(int(draw.random() < 0.95), (0, 1)) for _ in range(1200)]
    spent = _code(_mixer(), bits)
    assert spent[0] == pytest.approx(1, abs=0.01)
    assert np.mean(spent[400:]) < 0.35  # the entropy is 0.286
    assert np.mean(spent[400:]) > 0.2


def test_a_mixer_finds_the_context_that_tells() -> None:
    """One context knows the bit, the other is noise: the weights learn which."""
    draw = np.random.default_rng(2)
    mixer, bits = _mixer(), []
    for _ in range(1500):
        bit = int(draw.integers(0, 2))
        bits.append((bit, (bit if draw.random() < 0.97 else 1 - bit, 2 + int(draw.integers(0, 2)))))
    assert np.mean(_code(mixer, bits)[500:]) < 0.3  # the entropy is 0.194
    assert (mixer.weights[:, 0] > 2 * abs(mixer.weights[:, 1])).all()


def test_a_mixer_that_was_wrong_pays_and_recovers() -> None:
    spent = _code(_mixer(), [(1, (0, 1))] * 600 + [(0, (0, 1))] * 600)
    assert spent[599] < 0.05
    assert spent[600] > 4
    assert spent[-1] < 0.3
    assert max(spent) <= 16 - math.log2(LEAST)


def test_a_copy_learns_by_itself() -> None:
    mixer = _mixer()
    bits = [(1, (0, 1))] * 30
    _code(mixer, bits)
    kept = [array.copy() for array in (mixer.chances, mixer.seen, mixer.weights, mixer.steps)]
    other = mixer.copy()
    spent = _code(other, bits)
    assert not np.array_equal(other.chances, mixer.chances)
    assert not np.array_equal(other.weights, mixer.weights)
    for array, before in zip((mixer.chances, mixer.seen, mixer.weights, mixer.steps), kept, strict=True):
        assert np.array_equal(array, before)
    assert _code(mixer, bits) == spent  # and it was a copy of all there is


def test_a_given_chance_votes() -> None:
    """The same beginning, told more or less: what is said counts by its weight, and the weight is learned."""
    mixer = _mixer()
    mixer.weights[:, 2 + 1] = 1 << 16
    parts = mixer.parts()
    found = [int(chance(parts, 2, 0, 1, given)) for given in (200, 9000, 32768, 50000, 65300)]
    assert found == sorted(found)
    for one, given in zip(found, (200, 9000, 32768, 50000, 65300), strict=True):
        assert abs(one - given) < 100
    chance(parts, 2, 0, 1, 60000)
    learn(parts, 2, 0, 1, 1)
    assert (mixer.weights[:, 3] > 1 << 16).all()


def test_slower_rates_move_less() -> None:
    moved = []
    for rates in ((0.03, 0.006), (0.005, 0.0015)):
        weights = np.full((2, MOST_VOTES), 0.3)
        mixer = Mixer(4, weights, rates)
        before = mixer.weights.copy()
        _code(mixer, [(1, (0, 1))] * 50)
        moved.append(int(abs(mixer.weights - before).max()))
    assert moved[0] > 3 * moved[1] > 0


def test_contexts_that_have_seen_nothing_do_not_vote() -> None:
    parts = _mixer().parts()
    parts.places[:2] = 2, 3
    parts.chances[2:4] = 60000
    assert abs(int(chance(parts, 2, 0, 1)) - 32768) <= 64
