"""How fast is our entropy coder beside the `constriction` library, and what do coder and tables add to the ideal rate?

Both code the same symbols in the same run, in turns, each in one thread: symbols of 63 log-spaced scales (the 64th
says "certainly zero" and costs neither anything), mixed so that they take about 0.5 or 2 bits each. constriction is
used as its documentation shows: whole arrays, one call, QuantizedLaplace or QuantizedGaussian with a scale a symbol,
by its range coder and by its ANS coder; and once more symbol group by symbol group with our tables as Categorical
models, grouping counted.

Example: OMP_NUM_THREADS=1 python benchmarks/entropy_coder.py --json entropy.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.count_tables import COUNT_TOTAL, Tables, escape_order
from codec.distributions import SCALE_COUNT, Family, ScaleTables, probabilities, scale_of
from codec.entropy_coding import SymbolDecoder, SymbolEncoder

SCALES = np.array([scale_of(index) for index in range(SCALE_COUNT)])
LARGEST = 8191  # of a symbol, for those that must know

Symbols = NDArray[np.int32]
Encode = Callable[[], Any]
Decode = Callable[[Any], Symbols]


def draw(family: Family, tables: Tables, count: int, bits: float) -> tuple[Symbols, NDArray[np.int64]]:
    """Symbols within their tables' reach, and scale indices 1..63, of about `bits` bits each on average."""
    generator = np.random.default_rng(1)
    entropy = np.array([tables.entropy(index) for index in range(1, SCALE_COUNT)])
    low, high = -40.0, 80.0
    for _ in range(40):
        centre = (low + high) / 2
        weight = np.exp(-0.5 * ((np.arange(1, SCALE_COUNT) - centre) / 10) ** 2) + 0.0005  # each scale occurs
        low, high = (centre, high) if (weight @ entropy) / weight.sum() < bits else (low, centre)
    indices = generator.choice(np.arange(1, SCALE_COUNT), count, p=weight / weight.sum())
    drawn = generator.laplace(size=count) if family == "laplace" else generator.normal(size=count)
    reach = tables.reaches[indices]
    return np.clip(np.rint(drawn * SCALES[indices]), -reach, reach).astype(np.int32), indices


def ours(symbols: Symbols, indices: NDArray[np.int64], tables: Tables) -> tuple[Encode, Decode]:
    def encode() -> bytes:
        coder = SymbolEncoder()
        coder.encode(symbols, indices, tables)
        return coder.finish()

    def decode(payload: bytes) -> Symbols:
        coder = SymbolDecoder(payload)
        found = coder.decode(indices, tables)
        coder.finish()
        return found

    return encode, decode


def theirs(symbols: Symbols, indices: NDArray[np.int64], family: Family, kind: str) -> tuple[Encode, Decode]:
    import constriction

    stream = constriction.stream
    made = stream.model.QuantizedLaplace if family == "laplace" else stream.model.QuantizedGaussian
    model, means, scales = made(-LARGEST, LARGEST), np.zeros(len(symbols)), SCALES[indices]

    def encode() -> Any:
        if kind == "ANS":
            stack = stream.stack.AnsCoder()
            stack.encode_reverse(symbols, model, means, scales)
            return stack.get_compressed()
        queue = stream.queue.RangeEncoder()
        queue.encode(symbols, model, means, scales)
        return queue.get_compressed()

    def decode(words: Any) -> Symbols:
        coder = stream.stack.AnsCoder(words) if kind == "ANS" else stream.queue.RangeDecoder(words)
        return np.asarray(coder.decode(model, means, scales), np.int32)

    return encode, decode


def theirs_by_group(symbols: Symbols, indices: NDArray[np.int64], tables: Tables) -> tuple[Encode, Decode]:
    import constriction

    stream = constriction.stream
    # Our entries 0, 1, -1 … in the order -reach … reach that a Categorical over whole numbers from 0 wants.
    models: list[Any] = [None]
    for index in range(1, SCALE_COUNT):
        counts, reach = tables.counts(index), int(tables.reaches[index])
        entry = [2 * abs(s) - (s > 0) for s in range(-reach, reach + 1)]
        likely = np.append(counts[entry], counts[-1]) / COUNT_TOTAL
        models.append(stream.model.Categorical(likely, perfect=False))

    def groups() -> list[tuple[int, NDArray[np.int64]]]:
        order = np.argsort(indices.astype(np.uint8), kind="stable")
        present, starts = np.unique(indices[order], return_index=True)
        return list(zip(present.tolist(), np.split(order, starts[1:]), strict=True))

    def encode() -> Any:
        queue = stream.queue.RangeEncoder()
        for index, places in groups():
            queue.encode((symbols[places] + tables.reaches[index]).astype(np.int32), models[index])
        return queue.get_compressed()

    def decode(words: Any) -> Symbols:
        coder, found = stream.queue.RangeDecoder(words), np.empty(len(indices), np.int32)
        for index, places in groups():
            found[places] = coder.decode(models[index], len(places)) - tables.reaches[index]
        return found

    return encode, decode


def compare(family: Family, bits: float, count: int, repeats: int) -> dict[str, Any]:
    """One mixture, all coders in turns; megasymbols a second (median), and bits a symbol."""
    tables = ScaleTables(family).tables()
    symbols, indices = draw(family, tables, count, bits)
    coders = {
        "ours": ours(symbols, indices, tables),
        "constriction range": theirs(symbols, indices, family, "range"),
        "constriction ANS": theirs(symbols, indices, family, "ANS"),
        "constriction categorical by group": theirs_by_group(symbols, indices, tables),
    }
    small = slice(0, 1000)
    warm_up, warm_down = ours(symbols[small], indices[small], tables)
    warm_down(warm_up())  # compiled or loaded once a process
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in coders}
    sizes = {}
    for _ in range(repeats):
        for name, (encode, decode) in coders.items():
            begin = time.perf_counter()
            coded = encode()
            middle = time.perf_counter()
            found = decode(coded)
            times[name].append((middle - begin, time.perf_counter() - middle))
            assert np.array_equal(found, symbols), name
            sizes[name] = len(coded) * 8 if isinstance(coded, bytes) else len(coded) * 32
    rows = {}
    for name, measured in times.items():
        encode_rate, decode_rate = (count / statistics.median(part) / 1e6 for part in zip(*measured, strict=True))
        rows[name] = {"encode": encode_rate, "decode": decode_rate, "bits_per_symbol": sizes[name] / count}
    entries = tables.entries[tables.starts[indices] + 2 * np.abs(symbols.astype(np.int64)) - (symbols > 0)] >> 16
    charged = float((16 - np.log2(entries)).sum())
    peers = [row for name, row in rows.items() if name != "ours"]
    return {
        "family": family,
        "symbols": count,
        "scales": len(np.unique(indices)),
        "coders": rows,
        "encode_ratio": rows["ours"]["encode"] / max(row["encode"] for row in peers),
        "decode_ratio": rows["ours"]["decode"] / max(row["decode"] for row in peers),
        "rate_over_counts": sizes["ours"] / charged - 1,
    }


def excess_of_tables(family: Family, price: float | None, fractions: int) -> dict[str, Any]:
    """What the whole counts and the escape's code add to the ideal entropy, scale by scale, at ideal statistics."""
    maker = ScaleTables(family, price, fractions)
    tables = maker.tables()
    excess, entropy, scales = [], [], []
    for index in range(1, SCALE_COUNT):
        for fraction in range(-(fractions // 2), max(1, fractions // 2)):
            number = int(maker.number(np.array(index), fraction))
            counts, reach = tables.counts(number), int(tables.reaches[number])
            far = max(reach + 10, int(14 * scale_of(index)))
            ideal = probabilities(family, index, maker.decisions(index), far, [fraction / fractions])[0, :-1]
            order = escape_order(reach)
            steps = np.floor(np.log2(np.arange(far - reach).repeat(2) + (1 << order)))
            paid = np.concatenate([16 - np.log2(counts[:-1]), 16 - np.log2(counts[-1]) + 2 + 2 * steps - order])
            live = ideal > 0
            scales.append(scale_of(index))
            entropy.append(float(-(ideal[live] * np.log2(ideal[live])).sum()))
            excess.append(float((ideal * paid).sum()) - entropy[-1])
    share = np.array(excess) / np.array(entropy)
    large = np.array(entropy) >= 0.01
    return {
        "family": family,
        "price": price,
        "fractions": fractions,
        "total": sum(excess) / sum(entropy),
        "mean_from_0.01_bits": float(share[large].mean()),
        "worst_from_0.01_bits": float(share[large].max()),
        "worst_scale": scales[int(np.flatnonzero(large)[share[large].argmax()])],
        "tables_below_0.01_bits": int((~large).sum()),
        "their_most_bits_a_symbol": max(np.array(excess)[~large], default=0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"speed": [], "tables": []}
    families: tuple[Family, ...] = ("laplace", "gaussian")
    for family in families:
        for bits in (0.5, 2.0):
            found = compare(family, bits, arguments.symbols, arguments.repeats)
            figures["speed"].append(found)
            print(f"\n{family}, about {bits} bits a symbol, {found['symbols']:,} symbols, {found['scales']} scales")
            for name, row in found["coders"].items():
                print(f"  {name:34} encode {row['encode']:6.1f} decode {row['decode']:6.1f} Msymbols/s", end="")
                print(f"  {row['bits_per_symbol']:.4f} bits a symbol")
            print(f"  ours beside the best other: encode {found['encode_ratio']:.1f}x,", end=" ")
            print(f"decode {found['decode_ratio']:.1f}x; over the counts' own charge: {found['rate_over_counts']:.4%}")
    print("\ntables over the ideal distribution (at ideal statistics, escapes paid)")
    for family in families:
        for price, fractions in ((None, 1), (7.5, 1), (None, 16)):
            row = excess_of_tables(family, price, fractions)
            figures["tables"].append(row)
            decided = "plain rounding" if price is None else f"decisions at {price}"
            print(f"  {family}, {decided}, {fractions} fractions: all {row['total']:.4%};", end=" ")
            print(f"mean {row['mean_from_0.01_bits']:.3%}, worst {row['worst_from_0.01_bits']:.3%}", end=" ")
            print(
                f"at scale {row['worst_scale']:.3f}; {row['tables_below_0.01_bits']} tables of less than 0.01 bits",
                end="",
            )
            print(f" add {row['their_most_bits_a_symbol']:.1e} bits a symbol at most")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
