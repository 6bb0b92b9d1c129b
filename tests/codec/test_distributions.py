"""Tables that add up, stay close to the ideal, travel with the weights; bits that can be learned from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.count_tables import COUNT_TOTAL, Tables, escape_bits, escape_order, whole_counts
from codec.distributions import (
    SCALE_COUNT,
    Decisions,
    Family,
    LearnedTables,
    ScaleTables,
    best_decisions,
    probabilities,
    scale_bits,
    scale_of,
)
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError


@pytest.mark.parametrize(
    ("family", "price", "fractions"),
    [("laplace", None, 1), ("laplace", 7.5, 1), ("gaussian", None, 1), ("laplace", None, 16), ("gaussian", None, 16)],
)
def test_tables_are_close_to_the_ideal(family: Family, price: float | None, fractions: int) -> None:
    maker = ScaleTables(family, price, fractions)
    tables = maker.tables()
    excesses, entropies = [], []
    for index in range(1, SCALE_COUNT):
        for fraction in {0, -(fractions // 2), fractions // 4}:
            number = int(maker.number(np.array(index), fraction))
            counts, reach = tables.counts(number), int(tables.reaches[number])
            assert counts.sum() == COUNT_TOTAL
            assert counts.min() >= 1
            assert len(counts) == 2 * reach + 2
            # The ideal goes on far beyond the table; there an escape costs its entry, a sign and Exp-Golomb bits.
            far = max(reach + 10, int(14 * scale_of(index)))
            ideal = probabilities(family, index, maker.decisions(index), far, [fraction / fractions])[0, :-1]
            assert ideal.min() >= 0
            assert abs(ideal.sum() - 1) < 1e-5
            order = escape_order(reach)
            steps = np.floor(np.log2(np.arange(far - reach).repeat(2) + (1 << order)))
            paid = 16 - np.log2(counts[:-1]), 16 - np.log2(counts[-1]) + 2 + 2 * steps - order
            live = ideal > 0
            entropies.append(-(ideal[live] * np.log2(ideal[live])).sum())
            excesses.append((ideal * np.concatenate(paid)).sum() - entropies[-1])
    # Near-certain zeros pay for the least count of three entries that hardly ever come: 7e-5 bits a symbol at most.
    assert all(e < max(0.003 * h, 7e-5) for e, h in zip(excesses, entropies, strict=True))
    assert sum(excesses) < 0.0003 * sum(entropies)


def test_numbers_count_scales_and_fractions() -> None:
    plain, fine = ScaleTables("laplace"), ScaleTables("laplace", fractions=16)
    indices = np.array([0, 1, 2, 63])
    assert plain.number(indices).tolist() == [0, 1, 2, 63]
    last = 40 * 16 + 23  # from a scale of 15 on, fractions no longer matter
    assert fine.number(indices, np.array([5, -8, 7, 7])).tolist() == [0, 1, 32, last]
    assert fine.number(np.array([40, 41, 41]), np.array([7, -8, 7])).tolist() == [640, 641, 641]
    assert len(fine.tables().starts) == last + 1
    there = fine.number(torch.from_numpy(indices).view(2, 2), torch.tensor([[5, -8], [7, 7]]))
    assert there.dtype == torch.int64
    assert there.tolist() == [[0, 1], [32, last]]
    with pytest.raises(ValueError, match="rounding"):
        ScaleTables("laplace", 7.5, fractions=16)


def test_fractions_mirror_each_other() -> None:
    maker = ScaleTables("laplace", fractions=16)
    tables = maker.tables()
    for index in (5, 20, 40):
        up = tables.counts(int(maker.number(np.array(index), 3)))
        down = tables.counts(int(maker.number(np.array(index), -3)))
        assert np.abs(up[1:-1:2] - down[2:-1:2]).max() <= 1
        assert up[1] > up[2]  # a mean above zero makes 1 likelier than -1


def test_whole_counts_add_up_whatever_the_probabilities() -> None:
    generator = np.random.default_rng(0)
    likely = generator.random((50, 600)) ** generator.integers(1, 60, (50, 1))
    likely = np.concatenate([likely / likely.sum(1, keepdims=True), np.eye(600)[:3]])
    counts = whole_counts(likely)
    assert (counts.sum(1) == COUNT_TOTAL).all()
    assert counts.min() == 1
    common = likely * COUNT_TOTAL > 50
    assert (np.abs(counts / COUNT_TOTAL / np.maximum(likely, 1e-9) - 1)[common] < 0.05).all()


def test_counts_travel_with_the_weights() -> None:
    """Another machine's exp() may give other counts, even other reaches: those in the weights are what counts."""
    origin = ScaleTables("laplace")
    state = {name: value.clone() for name, value in origin.state_dict().items()}
    assert set(state) == {"counts", "reaches", "dead_zones", "roundings"}
    end = int(2 * state["reaches"][0] + 2)
    longer = torch.tensor([COUNT_TOTAL - 700, 300, 300, 50, 40, 10], dtype=torch.int32)
    state["counts"] = torch.cat([longer, state["counts"][end:]])
    state["reaches"][0] = 2
    there = ScaleTables("laplace")
    there.tables()
    there.load_state_dict(state)
    assert there.tables().counts(1).tolist() == longer.tolist()
    assert there.tables().counts(9).tolist() == origin.tables().counts(9).tolist()


def test_damaged_tables_are_refused() -> None:
    for place, value in ((3, 0), (3, -5), (4, 9999)):
        maker = ScaleTables("laplace")
        maker.counts[place] = value
        with pytest.raises(BitreelError, match="damaged"):
            maker.tables()
    for reaches in (np.array([-1]), np.array([1 << 20]), np.array([], np.int64)):
        with pytest.raises(BitreelError, match="damaged"):
            Tables.build(np.array([65000, 500, 30, 6], np.int32), reaches.astype(np.int32), np.zeros(4))


def _decided(maker: ScaleTables, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    decisions = maker.decisions(index)
    return torch.tensor(decisions.dead_zone), torch.tensor(decisions.rounding)


def _cost(maker: ScaleTables, index: int, residual: float, symbol: int) -> float:
    """Bits, and squared error at 7.5 bits a squared step."""
    bits = scale_bits("laplace", torch.tensor(float(symbol)), torch.tensor(float(index)), *_decided(maker, index))
    return float(bits) + 7.5 * (residual - symbol) ** 2


@pytest.mark.parametrize("index", [12, 16, 20, 28])
def test_quantizer_takes_what_is_cheapest(index: int) -> None:
    maker = ScaleTables("laplace", 7.5)
    residuals = torch.arange(-4096, 4097, 64)
    found = maker.quantize(residuals, torch.tensor(1024), torch.tensor(index))
    worst = 0.0
    for residual, symbol in zip((residuals / 1024).tolist(), found.tolist(), strict=True):
        nearby = [_cost(maker, index, residual, symbol + change) for change in (-1, 0, 1)]
        worst = max(worst, nearby[1] - min(nearby))
    assert worst < 0.6  # in bits: a widest dead zone and whole 256ths leave a little
    assert not maker.quantize(residuals, torch.tensor(1024), torch.tensor(0)).any()


def test_plain_decisions_are_plain_rounding() -> None:
    assert ScaleTables("laplace").decisions(30) == Decisions(0.5, 0.5)
    wide, narrow = (best_decisions("laplace", index, 7.5) for index in (14, 34))
    assert wide.dead_zone > narrow.dead_zone > 0.5
    assert wide.rounding < narrow.rounding < 0.5


@pytest.mark.parametrize("family", ["laplace", "gaussian"])
@pytest.mark.parametrize("price", [7.5, None])
def test_training_bits_are_those_of_the_tables(family: Family, price: float | None) -> None:
    maker = ScaleTables(family, price)
    tables = maker.tables()
    for index in (8, 20, 35, 60):
        symbols = torch.arange(-6, 7, dtype=torch.float64)
        bits = scale_bits(family, symbols, torch.tensor(float(index), dtype=torch.float64), *_decided(maker, index))
        entries = np.abs(symbols.numpy()) * 2 - (symbols.numpy() > 0)
        inside = np.abs(symbols.numpy()) <= tables.reaches[index]
        ideal = tables.ideal[tables.starts[index] + entries[inside].astype(int)]
        # Nothing in a table is rarer than one in 65536.
        assert np.allclose(np.minimum(bits.numpy()[inside], 16), ideal, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["laplace", "gaussian"])
@pytest.mark.parametrize("index", [5, 15, 30, 45])
def test_training_knows_what_an_escape_costs(family: Family, index: int) -> None:
    maker = ScaleTables(family, 7.5)
    number, tables = int(maker.number(np.array(index))), maker.tables()
    reach = int(tables.reaches[number])
    for symbol in (reach + 3, 2 * reach + 5, 6 * reach + 40):
        at = torch.tensor(float(index))
        bits = float(scale_bits(family, torch.tensor(float(symbol)), at, *_decided(maker, index)))
        paid = 16 - np.log2(tables.counts(number)[-1]) + float(escape_bits(torch.tensor(symbol - reach - 1.0), reach))
        assert abs(bits - paid) < 5.5
    likely = probabilities(family, index, maker.decisions(index), symbol)[0, -2]
    assert likely < 2 ** -(bits + 10)  # the distribution itself would charge far more


@pytest.mark.parametrize("family", ["laplace", "gaussian"])
def test_training_bits_know_of_fractions(family: Family) -> None:
    maker = ScaleTables(family, fractions=16)
    tables = maker.tables()
    for fraction in (-8, -3, 7):
        number = int(maker.number(np.array(15), fraction))
        ideal = tables.ideal[tables.starts[number] + np.array([4, 2, 0, 1, 3])]
        bits = scale_bits(family, torch.arange(-2.0, 3.0) - fraction / 16, torch.tensor(15.0), *_decided(maker, 15))
        assert np.allclose(np.minimum(bits.numpy(), 16), ideal, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["laplace", "gaussian"])
@pytest.mark.parametrize("price", [7.5, None])
def test_gradients_are_finite_everywhere(family: Family, price: float | None) -> None:
    maker = ScaleTables(family, price)
    symbols = torch.tensor([0.0, 1, -1, 3, -40, 2000, -60_000]).requires_grad_()
    for value in (-30.0, 0, 1, 20, 63, 90):
        index = torch.full((7,), float(value)).requires_grad_()
        bits = scale_bits(family, symbols, index, *_decided(maker, min(max(int(value), 0), 63)))
        by_symbol, by_index = torch.autograd.grad(bits.sum(), [symbols, index])
        assert torch.isfinite(bits).all()
        assert torch.isfinite(by_symbol).all()
        assert torch.isfinite(by_index).all()
        assert (bits >= 0).all()


def test_learned_tables_learn_and_their_bits_are_the_coders() -> None:
    torch.manual_seed(0)
    tables = LearnedTables(2, 6, [0.5, 0.5])
    rows = torch.tensor([0, 1]).repeat(3000)
    generator = torch.Generator().manual_seed(1)
    symbols = torch.randint(2, 5, (6000,), generator=generator) * torch.where(rows == 0, 1, -1)
    symbols[:40] += 9  # a few escape
    before = float(tables.bits(symbols.float(), rows).detach().sum())
    optimizer = torch.optim.Adam(tables.parameters(), lr=0.1)
    stale = tables.state_dict()["counts"].clone()
    for _ in range(120):
        optimizer.zero_grad()
        tables.bits(symbols.float(), rows).mean().backward()
        optimizer.step()
    bits = float(tables.bits(symbols.float(), rows).detach().sum())
    assert bits < 0.5 * before
    assert not torch.equal(tables.state_dict()["counts"], stale)
    coder = SymbolEncoder()
    coder.encode(symbols.int().numpy(), tables.number(rows).numpy(), tables.tables())
    payload = coder.finish()
    assert abs(coder.estimated_bits / bits - 1) < 0.01
    assert abs(len(payload) * 8 / bits - 1) < 0.01

    there = LearnedTables(2, 6, [1.0, 1.0])
    state = {name: value.clone() for name, value in tables.state_dict().items()}
    state["counts"][0, 0] += 3  # as if counted on a machine with another exp()
    state["counts"][0, 7] -= 3
    there.load_state_dict(state)
    there.bits(symbols.float(), rows).mean().backward()  # looking at it does not count as training
    assert torch.equal(there.state_dict()["counts"], state["counts"])
    assert there.tables().counts(1).tolist() == state["counts"][0].tolist()
    there.load_state_dict(tables.state_dict())
    back = SymbolDecoder(payload).decode(there.number(rows).numpy(), there.tables())
    assert np.array_equal(back, symbols.numpy())


def test_learned_bits_pull_symbols_where_they_are_cheap() -> None:
    tables = LearnedTables(1, 4, [1.0])
    symbols = torch.tensor([-7.0, -5, -4, -1, 0, 1, 4, 5, 7]).requires_grad_()
    tables.bits(symbols, torch.zeros(9, dtype=torch.int64)).sum().backward()
    assert symbols.grad is not None
    assert torch.isfinite(symbols.grad).all()
    assert (symbols.grad[:4] <= 0).all()
    assert symbols.grad[4].abs() < 1e-5
    assert (symbols.grad[5:] >= 0).all()
    assert symbols.grad[5] > 0.5
