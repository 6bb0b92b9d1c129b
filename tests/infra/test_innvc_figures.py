"""The figures script: QPs that every quality range asks for, and bits that add up to the payload."""

from __future__ import annotations

import numpy as np

from benchmarks.innvc_bits import symbol_bits
from benchmarks.innvc_figures import WANTED_DB, choose_qps
from codec.distributions import ScaleTables
from codec.entropy_coding import SymbolEncoder


def test_every_range_gets_its_points() -> None:
    curves = [
        {qp: start + slope * qp for qp in (0, 12, 24, 36, 48, 60)}
        for start, slope in ((27, 0.45), (31, 0.5), (24, 0.6))
    ]
    chosen = choose_qps(curves)
    assert chosen[0] == 0
    assert chosen[-1] == 63
    for curve in curves:
        probed = sorted(curve)
        quality = [float(np.interp(qp, probed, [curve[p] for p in probed])) for qp in chosen if qp <= 60]
        for low, high in WANTED_DB:
            assert sum(low <= db <= high for db in quality) >= 4


def test_symbols_are_charged_what_the_coder_takes() -> None:
    tables = ScaleTables("laplace", 7.5)
    generator = np.random.default_rng(1)
    numbers = generator.integers(0, 64, 20_000)
    symbols = np.where(numbers > 0, np.rint(generator.laplace(size=20_000) * 0.2 * numbers), 0).astype(np.int32)
    coder = SymbolEncoder()
    coder.encode(symbols, numbers, tables.tables())
    charged = symbol_bits(symbols, numbers, tables.tables())
    assert charged[numbers == 0].sum() == 0
    assert abs(charged.sum() / (8 * len(coder.finish())) - 1) < 0.001
