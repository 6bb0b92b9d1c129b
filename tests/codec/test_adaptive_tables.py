"""Tables that learn: they add up, they approach what came, old counts fade, wide tables stay as they are."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from codec.adaptive_tables import AdaptiveTables
from codec.count_tables import COUNT_TOTAL
from codec.distributions import SCALE_COUNT, ScaleTables
from codec.entropy_coding import SymbolDecoder, SymbolEncoder

BASE = ScaleTables("laplace", 7.5).tables()


def _drawn(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Symbols with heavier tails than any table expects, and their tables' numbers, 0 … 63."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, SCALE_COUNT, count)
    symbols = np.where(generator.random(count) < 0.8, 0, generator.integers(-40, 41, count)).astype(np.int32)
    return numbers, np.where(numbers > 0, symbols, 0).astype(np.int32)


def _bits(numbers: NDArray[np.int64], symbols: NDArray[np.int32], adaptive: AdaptiveTables) -> float:
    coder = SymbolEncoder()
    coder.encode(symbols, numbers, adaptive.tables())
    return 8.0 * len(coder.finish())


def test_tables_approach_what_came_and_still_add_up() -> None:
    adaptive = AdaptiveTables(BASE)
    before = _bits(*_drawn(60_000, 1), adaptive)
    for seed in range(2, 8):
        adaptive.count(*_drawn(60_000, seed))
        adaptive.settle()
    tables = adaptive.tables()
    for number in range(1, SCALE_COUNT):
        counts = tables.counts(number)
        assert counts.sum() == COUNT_TOTAL
        assert counts.min() >= 1
    assert _bits(*_drawn(60_000, 1), adaptive) < 0.75 * before


def test_what_was_counted_holds_from_the_next_frame_on() -> None:
    adaptive = AdaptiveTables(BASE)
    adaptive.count(*_drawn(5000, 1))
    assert adaptive.tables() is BASE
    adaptive.settle()
    assert adaptive.tables() is not BASE
    assert np.array_equal(adaptive.tables().counts(63), BASE.counts(63))  # too wide to learn


def test_both_sides_stay_together_and_a_copy_goes_its_own_way() -> None:
    sender, receiver = AdaptiveTables(BASE), AdaptiveTables(BASE)
    for seed in range(4):
        numbers, symbols = _drawn(8000, seed)
        coder = SymbolEncoder()
        coder.encode(symbols, numbers, sender.tables())
        decoder = SymbolDecoder(coder.finish())
        found = decoder.decode(numbers, receiver.tables())
        decoder.finish()
        assert np.array_equal(found, symbols)
        trial = copy.deepcopy(sender)
        trial.count(*_drawn(8000, seed + 50))
        trial.settle()
        for side in (sender, receiver):
            side.count(numbers, symbols)
            side.settle()
        assert np.array_equal(sender.tables().entries, receiver.tables().entries)
        assert not np.array_equal(trial.tables().entries, sender.tables().entries)


def test_old_counts_fade() -> None:
    adaptive = AdaptiveTables(BASE)
    numbers = np.full(200_000, 20, np.int64)
    adaptive.count(numbers, np.zeros(len(numbers), np.int32))
    adaptive.settle()
    sure = int(adaptive.tables().counts(20)[0])
    for _ in range(12):
        adaptive.count(numbers[:6000], np.full(6000, 3, np.int32))
        adaptive.settle()
    assert adaptive.tables().counts(20)[0] < sure / 2
