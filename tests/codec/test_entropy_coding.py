"""Symbols to bytes and back; what it costs beside the tables' own charge; no bytes at all can hurt the decoder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.count_tables import ESCAPE_LIMIT, Tables
from codec.distributions import SCALE_COUNT, LearnedTables, ScaleTables, scale_of
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, StreamError

SCALES = np.array([scale_of(i) for i in range(SCALE_COUNT)])


def _drawn(tables: ScaleTables, count: int, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Symbols of random scales, Laplace distributed, and their table numbers."""
    generator = np.random.default_rng(seed)
    indices = generator.integers(0, SCALE_COUNT, count)
    values = generator.laplace(size=count) * SCALES[indices]
    residuals = torch.from_numpy(np.rint(values * 65536).astype(np.int64))
    symbols = tables.quantize(residuals, torch.tensor(65536), torch.from_numpy(indices)).numpy()
    return symbols, tables.number(indices)


def _payload(symbols: NDArray[np.int32], numbers: NDArray[np.int64], tables: Tables) -> bytes:
    coder = SymbolEncoder()
    coder.encode(symbols, numbers, tables)
    return coder.finish()


def _counted_bits(symbols: NDArray[np.int32], numbers: NDArray[np.int64], tables: Tables) -> float:
    """What the whole counts charge for symbols within reach."""
    entries = 2 * np.abs(symbols.astype(np.int64)) - (symbols > 0)
    coded = numbers > 0
    counts = tables.entries[tables.starts[numbers[coded]] + entries[coded]] >> 16
    return float((16 - np.log2(counts)).sum())


@pytest.mark.parametrize("price", [7.5, None])
def test_symbols_survive_at_the_estimated_cost(price: float | None) -> None:
    maker = ScaleTables("laplace", price)
    tables = maker.tables()
    symbols, numbers = _drawn(maker, 60_000)
    coder = SymbolEncoder()
    for part in range(0, 60_000, 20_000):  # in groups, as a prior with several would
        coder.encode(symbols[part : part + 20_000], numbers[part : part + 20_000], tables)
        coder.encode_uniform(5, 7)
    payload = coder.finish()
    decoder = SymbolDecoder(payload)
    for part in range(0, 60_000, 20_000):
        assert np.array_equal(decoder.decode(numbers[part : part + 20_000], tables), symbols[part : part + 20_000])
        assert decoder.decode_uniform(7) == 5
    decoder.finish()
    assert abs(len(payload) * 8 / coder.estimated_bits - 1) < 0.002


def test_the_coder_adds_next_to_nothing_to_what_the_counts_charge() -> None:
    maker = ScaleTables("laplace")
    tables = maker.tables()
    symbols, numbers = _drawn(maker, 200_000)
    reach = tables.reaches[numbers]
    symbols = np.clip(symbols, -reach, reach).astype(np.int32)
    symbols[numbers == 0] = 0
    over = len(_payload(symbols, numbers, tables)) * 8 / _counted_bits(symbols, numbers, tables) - 1
    assert 0 < over < 0.0005


def test_means_between_whole_numbers() -> None:
    maker = ScaleTables("gaussian", fractions=16)
    tables = maker.tables()
    generator = np.random.default_rng(1)
    indices, fractions = generator.integers(1, SCALE_COUNT, 50_000), generator.integers(-8, 8, 50_000)
    values = generator.normal(size=50_000) * SCALES[indices] + fractions / 16
    symbols = np.floor(values + 0.5).astype(np.int32)
    numbers = maker.number(indices, fractions)
    payload = _payload(symbols, numbers, tables)
    assert np.array_equal(SymbolDecoder(payload).decode(numbers, tables), symbols)
    ignored = _payload(symbols, maker.number(indices, np.zeros_like(fractions)), tables)
    assert len(payload) < len(ignored)


def test_learned_tables_share_a_packet_with_others() -> None:
    scaled, learned = ScaleTables("laplace"), LearnedTables(3, 4, [0.3, 1.0, 2.0])
    symbols, numbers = _drawn(scaled, 500)
    hyper, rows = np.array([0, -4, 5, 900, 1, 0], np.int32), np.array([0, 1, 2, 0, 1, 2])
    coder = SymbolEncoder()
    coder.encode(hyper, learned.number(rows), learned.tables())
    coder.encode(symbols, numbers, scaled.tables())
    decoder = SymbolDecoder(coder.finish())
    assert np.array_equal(decoder.decode(learned.number(rows), learned.tables()), hyper)
    assert np.array_equal(decoder.decode(numbers, scaled.tables()), symbols)
    decoder.finish()


def test_outliers_escape_up_to_the_limit() -> None:
    maker = ScaleTables("laplace")
    tables = maker.tables()
    far = np.array([1, 2, 3, 5, 9, 100, 1000, 30_000, ESCAPE_LIMIT - 1, ESCAPE_LIMIT])
    for index in (1, 10, 20, 40, 63):
        reach = int(tables.reaches[index])
        symbols = np.concatenate([reach + far, -reach - far, [reach, -reach]]).astype(np.int32)
        numbers = np.full(len(symbols), index)
        payload = _payload(symbols, numbers, tables)
        decoder = SymbolDecoder(payload)
        assert np.array_equal(decoder.decode(numbers, tables), symbols)
        decoder.finish()
        with pytest.raises(BitreelError, match="too large"):
            SymbolEncoder().encode(np.array([reach + ESCAPE_LIMIT + 1], np.int32), np.array([index]), tables)


def test_certain_zeros_cost_nothing_and_likely_zeros_next_to_nothing() -> None:
    tables = ScaleTables("laplace", 7.5).tables()
    zeros = np.zeros(100_000, np.int32)
    coder = SymbolEncoder()
    coder.encode(zeros, np.zeros(100_000, np.int64), tables)
    assert coder.estimated_bits == 0
    coder.encode(zeros, np.full(100_000, 30), tables)
    assert coder.finish() == b""
    decoder = SymbolDecoder(b"")
    assert not decoder.decode(np.full(100_000, 30), tables).any()
    decoder.finish()


def test_what_no_stream_could_hold_is_refused() -> None:
    tables = ScaleTables("laplace", 7.5).tables()
    coder = SymbolEncoder()
    with pytest.raises(BitreelError, match="certainly zero"):
        coder.encode(np.array([0, 1], np.int32), np.array([0, 0]), tables)
    for number in (-1, SCALE_COUNT, 1 << 40):
        with pytest.raises(BitreelError, match="out of range"):
            coder.encode(np.array([0], np.int32), np.array([number]), tables)
        with pytest.raises(BitreelError, match="out of range"):
            SymbolDecoder(b"abcdef").decode(np.array([number]), tables)
    with pytest.raises(BitreelError, match="as one of"):
        coder.encode_uniform(7, 7)
    with pytest.raises(BitreelError, match="table numbers"):
        coder.encode(np.zeros(2, np.int32), np.zeros(3, np.int64), tables)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 65_535, 65_536])
def test_uniform_values(size: int) -> None:
    values = sorted({0, 1 % size, size // 2, size - 1})
    coder = SymbolEncoder()
    for value in values:
        coder.encode_uniform(value, size)
    decoder = SymbolDecoder(coder.finish())
    assert [decoder.decode_uniform(size) for _ in values] == values
    decoder.finish()


def test_any_bytes_decode_or_are_refused() -> None:
    maker = ScaleTables("laplace")
    tables = maker.tables()
    symbols, numbers = _drawn(maker, 2000)
    payload = _payload(symbols, numbers, tables)
    generator = np.random.default_rng(2)
    unnoticed = 0
    for trial in range(1500):
        damaged = bytearray(payload)
        if trial % 3 == 0:
            damaged = bytearray(generator.bytes(int(generator.integers(0, 3000))))
        elif trial % 3 == 1:
            damaged[int(generator.integers(len(damaged)))] ^= 1 << int(generator.integers(8))
        else:
            del damaged[int(generator.integers(len(damaged))) :]
        decoder = SymbolDecoder(bytes(damaged))
        try:
            found = decoder.decode(numbers, tables)
            assert np.abs(found.astype(np.int64)).max() <= tables.reaches.max() + ESCAPE_LIMIT
            decoder.decode_uniform(5)
            decoder.finish()
            unnoticed += 1
        except StreamError:
            pass
    assert unnoticed < 75  # the end of the code is a check beside the packet's CRC, not instead of it


def test_a_payload_with_more_to_say_is_refused() -> None:
    maker = ScaleTables("laplace")
    symbols, numbers = _drawn(maker, 100)
    payload = _payload(symbols, numbers, maker.tables())
    for altered in (payload + b"\1\1", payload + b"\0\0"):
        decoder = SymbolDecoder(altered)
        with pytest.raises(StreamError):
            decoder.decode(numbers, maker.tables())
            decoder.finish()


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["nowhere", "shared", "damaged"])
def test_kernels_compile_whatever_the_cache(tmp_path: Path, cache: str) -> None:
    """A read-only install and no home folder, or two processes with one cache: slow to start, but it works."""
    package = tmp_path / "site" / "codec"
    package.mkdir(parents=True)
    for source in Path(__file__).parents[2].joinpath("codec").glob("*.py"):
        (package / source.name).write_bytes(source.read_bytes())
    program = (
        "import numpy as np\n"
        "from codec.distributions import ScaleTables\n"
        "from codec.entropy_coding import SymbolDecoder, SymbolEncoder\n"
        "tables, numbers = ScaleTables('laplace').tables(), np.full(50, 30)\n"
        "coder = SymbolEncoder(); coder.encode(np.arange(50, dtype=np.int32), numbers, tables)\n"
        "print(SymbolDecoder(coder.finish()).decode(numbers, tables).sum())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
    environment["PYTHONPATH"] = str(package.parent)
    if cache == "nowhere":
        # Files where folders would have to be made stop even root, whom permissions do not.
        (package / "__pycache__").write_text("")
        environment |= {"HOME": str(package / "__pycache__"), "XDG_CACHE_HOME": str(package / "__pycache__")}
    for _ in range(2 if cache == "damaged" else 1):
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", program], env=environment, cwd=tmp_path, stdout=-1, stderr=-1, text=True
            )
            for _ in range(2)
        ]
        for run in runs:
            out, errors = run.communicate(timeout=200)
            assert out.strip() == "1225", errors
        kept = [*package.glob("__pycache__/*.nbi"), *package.glob("__pycache__/*.nbc")]
        assert bool(kept) == (cache != "nowhere")
        for file in kept:
            file.write_bytes(file.read_bytes()[:40])
