"""Symbols to bytes and back; what it costs beside what the ideal distributions say."""

import numpy as np
import pytest

from codec.distributions import SCALE_COUNT, ideal_bits, probabilities, reach_of, scale_of, table
from codec.entropy_coding import SymbolDecoder, SymbolEncoder


def _symbols(count: int, rounding: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    indices = generator.integers(0, SCALE_COUNT, count)
    values = generator.laplace(size=count) * np.array([scale_of(i) for i in range(SCALE_COUNT)])[indices]
    symbols = (np.sign(values) * np.floor(np.abs(values) + rounding)).astype(np.int32)
    symbols[indices == 0] = 0
    return symbols, indices


@pytest.mark.parametrize("rounding", [0.3, 0.5])
def test_symbols_survive_at_the_ideal_cost(rounding: float) -> None:
    symbols, indices = _symbols(60_000, rounding)
    coder = SymbolEncoder()
    coder.encode(symbols, indices, rounding)
    coder.encode_uniform(5, 7)
    payload = coder.finish()
    decoder = SymbolDecoder(payload)
    assert np.array_equal(decoder.decode(indices, rounding), symbols)
    assert decoder.decode_uniform(7) == 5
    ideal = ideal_bits(symbols, indices, rounding)
    assert abs(len(payload) * 8 / ideal - 1) < 0.01


def test_outliers_escape() -> None:
    indices = np.array([1, 1, 20, 63, 63])
    symbols = np.array([3, -4000, 500, 2000, -60_000], np.int32)
    coder = SymbolEncoder()
    coder.encode(symbols, indices, 0.5)
    assert np.array_equal(SymbolDecoder(coder.finish()).decode(indices, 0.5), symbols)


def test_certain_zeros_cost_nothing() -> None:
    coder = SymbolEncoder()
    coder.encode(np.zeros(100_000, np.int32), np.zeros(100_000, np.int64), 0.3)
    assert coder.finish() == b""
    assert coder.estimated_bits == 0


@pytest.mark.parametrize("rounding", [0.3, 0.5])
def test_tables_are_close_to_the_ideal(rounding: float) -> None:
    for index in range(1, SCALE_COUNT):
        ideal, counts = probabilities(index, rounding), table(index, rounding)
        assert counts.sum() == 1 << 16
        assert counts.min() >= 1
        assert len(counts) == 2 * reach_of(index) + 2
        assert abs(ideal.sum() - 1) < 1e-9
        live = ideal > 0
        excess = (ideal[live] * np.log2(ideal[live] / (counts[live] / 65536))).sum()
        entropy = -(ideal[live] * np.log2(ideal[live])).sum()
        # Near-certain zeros pay for the least frequency, 2^-16, of each entry that hardly ever comes.
        assert excess < max(0.003 * entropy, 1.5e-4)
