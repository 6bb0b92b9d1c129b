"""The compiled walk gives the very numbers of the tensors it stands for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from codec.distributions import ScaleTables
from codec.exact import byte_products, layers
from codec.exact.blocks import ResidualBlock
from codec.innvc.frame_coding import surprise
from codec.inter import context, symbol_sources, walk_maps
from codec.inter.walk_maps import QPBase, look_up

pytest.importorskip("numba")
H, W = 5, 7


@contextmanager
def by_tensors() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (walk_maps, context, symbol_sources):
            patch.setattr(module, "kernels_for", lambda x: None)
        patch.setattr(layers, "_in_bytes", lambda x: False)
        yield


def drawn(seed: int, low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("wide", [True, False])
def test_logs_and_units_of_steps(wide: bool) -> None:
    values = drawn(1, -(1 << 17), 1 << 17, 2, 6, H, W).int()
    values[0, 0] = drawn(2, -40, 40, H, W)
    steps = drawn(3, 1, 2048, 6, H if wide else 1, W if wide else 1)
    for found in (context.log_steps, context.signed_units):
        with by_tensors():
            expected = found(values, steps)
        assert torch.equal(found(values, steps), expected)
        assert len(expected.unique()) > 20


def test_scale_indices_numbers_and_means_of_places() -> None:
    scales = ScaleTables("laplace", 7.5)
    heads, means = drawn(1, -127, 128, 1, 9, H, W).float(), drawn(2, -5000, 5000, 9, H * W)
    base = QPBase(drawn(3, -200, 900, 64, 9).float(), drawn(4, 0, 64, H * W), drawn(5, -64, 65, 9))
    flat = torch.stack([torch.randperm(H * W)[:17] for _ in range(9)])
    with by_tensors():
        expected = look_up(scales, heads, base, 7, means, flat)
    assert all(map(torch.equal, look_up(scales, heads, base, 7, means, flat), expected))
    assert len(expected[0].unique()) > 20


def test_quantizing() -> None:
    tables = symbol_sources.FrameTables(ScaleTables("laplace", 7.5), None)
    source = symbol_sources.Quantizing(tables, drawn(1, -4000, 4000, 96, H, W).int(), drawn(2, 1, 900, 96, H, W))
    flat = torch.stack([torch.randperm(H * W)[:17] for _ in range(20)])
    given = drawn(3, 0, 64, 20, 17), drawn(4, 0, 64, 20, 17), drawn(5, -900, 900, 20, 17)
    with by_tensors():
        expected = source.exchange(*given, symbol_sources.Places(12, 32, flat))
    assert torch.equal(source.exchange(*given, symbol_sources.Places(12, 32, flat)), expected)
    assert len(expected.unique()) > 20


def test_symbols_taken_in() -> None:
    kernels = walk_maps.walk_kernels()
    found, numbers, zeros = drawn(1, -2, 3, 4, 17).int(), drawn(2, 0, 9, 4, 17), drawn(3, 1, 65536, 9)
    flat = torch.stack([torch.randperm(H * W)[:17] for _ in range(4)])
    symbols, told = torch.zeros(4, H * W, dtype=torch.int32), torch.empty(2, 4, dtype=torch.int64)
    kernels.take_in(*(each.numpy() for each in (found, numbers, flat, zeros, symbols, told)))
    expected = surprise(zeros, numbers, found)
    assert torch.equal(symbols.gather(1, flat), found) and int((symbols != 0).sum()) == int((found != 0).sum())
    assert torch.equal(told[0], expected.excess) and torch.equal(told[1], expected.variance)


@pytest.mark.skipif(byte_products.kernels() is None, reason="this CPU doesn't multiply bytes")
def test_residual_blocks_in_bytes() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(24, 40).requires_grad_(False)
    for parameter in block.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    x = drawn(1, -127, 128, 2, 24, H, W).float()
    with torch.no_grad():
        with by_tensors():
            expected = block(x)
        assert torch.equal(block(x), expected)
    assert len(expected.unique()) > 50
