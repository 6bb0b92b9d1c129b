"""Exact layers: whole numbers, equal to the NumPy reference, whatever the batch, memory layout or mode."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from codec.errors import BitreelError
from codec.exact import operations, reference
from codec.exact.blocks import CheckerboardContext, ResidualBlock, TemporalState, checkerboard
from codec.exact.layers import WIDE_LIMIT, ExactConv2d, ExactQPTable, ExactWideMap
from codec.exact.operations import blend, floating, full_precision, scale_by_gate
from codec.exact.warp import warp
from codec.inter.context import log_magnitude, log_real


def randomized(layer: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer


def whole(*shape: int, limit: int = 127, seed: int = 1) -> Tensor:
    return torch.randint(-limit, limit + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


LAYERS = {
    "1x1": (lambda: ExactConv2d(40, 30), 40, 127),
    "1x1 at the limit": (lambda: ExactConv2d(1040, 6), 1040, 127),
    "3x3 at the limit": (lambda: ExactConv2d(115, 6, 3), 115, 127),
    "depthwise": (lambda: ExactConv2d(40, 40, 3, depthwise=True), 40, 127),
    "no bias": (lambda: ExactConv2d(40, 30, bias=False), 40, 127),
    "wide": (lambda: ExactWideMap(76, 20), 76, WIDE_LIMIT),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_equal_the_numpy_reference_and_their_training_form(name: str) -> None:
    make, channels, limit = LAYERS[name]
    layer, x = randomized(make()), whole(2, channels, 7, 9, limit=limit)
    in_training = layer(x)
    assert in_training.requires_grad
    with torch.no_grad():
        coding = layer(x)
        assert torch.equal(coding, in_training)
        assert torch.equal(coding, torch.round(coding)) and float(coding.abs().max()) <= limit
        assert len(coding.unique()) > 20, "the test's weights must make it speak"
        assert torch.equal(layer(x[1:]), coding[1:]), "frame by frame as in a batch"
        assert torch.equal(layer(x.to(memory_format=torch.channels_last)), coding)
        with reference.on_numpy(layer):
            assert torch.equal(layer(x), coding)


@pytest.mark.parametrize("name", LAYERS)
def test_nobodys_settings_change_a_layer(name: str) -> None:
    make, channels, limit = LAYERS[name]
    layer, x = randomized(make()), whole(2, channels, 7, 9, limit=limit)
    before = torch.get_float32_matmul_precision()
    with torch.no_grad():
        expected = layer(x)
        with torch.autocast("cpu", torch.bfloat16), full_precision():
            assert torch.equal(layer(x), expected)
        try:
            torch.set_float32_matmul_precision("medium")
            assert torch.equal(layer(x), expected)
        finally:
            torch.set_float32_matmul_precision(before)


def test_worst_case_sums_are_still_exact() -> None:
    layer = ExactConv2d(1040, 1)
    with torch.no_grad():
        layer.weight.fill_(127.0)
        layer.bias.fill_(1e9)  # type: ignore[union-attr]
        layer.weight[:, 1:520] = -127.0
        x = torch.full((1, 1040, 1, 1), 127.0)
        x[:, 1:520] = -127.0
        with reference.on_numpy(layer):
            expected = layer(x)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (6, 1), (2, 67)])
@pytest.mark.parametrize("largest", [False, True])
def test_coding_equals_training_at_any_size(name: str, height: int, width: int, largest: bool) -> None:
    """Where the CPU multiplies bytes, coding takes another way than training."""
    make, channels, limit = LAYERS[name]
    layer, x = randomized(make(), 2), whole(3, channels, height, width, limit=limit)
    if largest:
        x = torch.where(x > 0, limit, -limit).float()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.where(parameter > -0.1, 127.0, -127.0))
    expected = layer(x).detach()
    with torch.no_grad():
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(("inputs", "kernel"), [(1041, 1), (116, 3)])
def test_a_layer_with_too_many_products_is_refused_when_built(inputs: int, kernel: int) -> None:
    with pytest.raises(BitreelError, match="not exact in float32"):
        ExactConv2d(inputs, 4, kernel)


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = ExactConv2d(4, 4)
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
        with pytest.raises(BitreelError, match="not finite"):
            layer(whole(1, 4, 2, 2))


def test_quantized_weights_fit_half_precision_and_quantize_to_themselves() -> None:
    layer = randomized(ExactConv2d(40, 30))
    before = layer.integers()  # type: ignore[operator]
    with torch.no_grad():
        weight, _ = layer.quantized()  # type: ignore[operator]
        layer.weight.copy_(weight.half().float())  # type: ignore[operator]
    after = layer.integers()  # type: ignore[operator]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("way", ["in place", "data", "fused optimizer", "bias"])
def test_a_changed_weight_is_not_coded_with_the_old_one(way: str) -> None:
    layer, x = randomized(ExactConv2d(8, 8)), whole(1, 8, 3, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5, fused=True)
    layer(x).sum().backward()
    with torch.no_grad():
        first = layer(x)
        if way == "in place":
            layer.weight.mul_(2)  # type: ignore[operator]
        elif way == "data":
            layer.weight.data.copy_(layer.weight * 2)  # type: ignore[operator]
        elif way == "bias":
            layer.bias.data += 3  # type: ignore[operator]
        else:
            optimizer.step()
        with reference.on_numpy(layer):
            expected = layer(x)
        assert torch.equal(layer(x), expected)
        assert not torch.equal(expected, first)


def test_full_precision_is_off_again_when_the_last_thread_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU; the switches are there on every machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (place, switch, off), *_ = operations._tf32_off()
    before = getattr(place, switch)
    on = "tf32" if isinstance(off, str) else True
    try:
        setattr(place, switch, on)
        first, second = full_precision(), full_precision()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert getattr(place, switch) == off
        second.__exit__(None, None, None)
        assert getattr(place, switch) == on
    finally:
        setattr(place, switch, before)


def test_gradients_reach_weights_and_inputs_through_the_rounding() -> None:
    block, x = randomized(ResidualBlock(16)), whole(1, 16, 5, 5).requires_grad_()
    block(x).square().sum().backward()
    assert x.grad is not None and bool(x.grad.abs().sum() > 0)
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in block.parameters())


def test_floating_leaves_the_rounding_out() -> None:
    layer, x = randomized(ExactConv2d(40, 30)), whole(1, 40, 3, 3)
    with torch.no_grad():
        exact = layer(x)
        with floating():
            real = layer(x)
    assert not torch.equal(real, torch.round(real))
    inside = real.abs() < 120
    assert float((real - exact)[inside].abs().max()) < 12  # int8 weights of std 0.3 on 40 inputs of up to 127


def test_division_rounds_down_next_to_whole_quotients() -> None:
    generator = torch.Generator().manual_seed(6)
    divisor = torch.randint(1, 1 << 20, (10000,), generator=generator)
    product = divisor * torch.randint(-(1 << 31), 1 << 31, (10000,), generator=generator)
    for off in (-1, 0, 1):
        expected = (product + off).numpy() // divisor.numpy()
        assert np.array_equal(operations.floor_divide(product + off, divisor).numpy(), expected)


def test_qp_tables_equal_the_reference_and_hit_their_knots() -> None:
    table = randomized(ExactQPTable(3, 5, unit=16))
    qps = torch.arange(64)
    with torch.no_grad():
        values = table(qps)
        with reference.on_numpy(table):
            assert torch.equal(table(qps), values)
        far = ExactQPTable(3, unit=16)
        far.knots.copy_(torch.randn(far.knots.shape) * 1e6)
        with reference.on_numpy(far):
            held = far(qps)
        assert torch.equal(far(qps), held)
        assert float(held.abs().max()) <= 1 << 17
        assert torch.equal(values[::9], torch.floor(table.knots * 16 + 0.5))  # type: ignore[operator]


def test_warp_blend_and_gate_equal_the_reference() -> None:
    state = whole(2, 5, 6, 8)
    vectors = whole(2, 2, 6, 8, limit=400, seed=2).long()
    moved = warp(state, vectors)
    as_whole = [t.numpy().astype(np.int64) for t in (state, moved)]
    assert np.array_equal(as_whole[1], reference.warp(as_whole[0], vectors.numpy()))
    gate = whole(2, 5, 6, 8, seed=3)
    expected = reference.blend(as_whole[0], as_whole[1], gate.numpy().astype(np.int64))
    assert np.array_equal(blend(state, moved, gate).numpy(), expected)
    wide = whole(2, 5, 6, 8, limit=WIDE_LIMIT, seed=4)
    expected = reference.scale_by_gate(wide.numpy().astype(np.int64), gate.numpy().astype(np.int64))
    assert np.array_equal(scale_by_gate(wide, gate).numpy(), expected)


def test_a_state_follows_its_vectors() -> None:
    state = torch.zeros(1, 1, 4, 6)
    state[0, 0, 2, 3] = 100
    one_right = torch.zeros(1, 2, 4, 6, dtype=torch.int64)
    one_right[:, 1] = -32  # each place looks one cell to the left
    assert float(warp(state, one_right)[0, 0, 2, 4]) == 100
    half = one_right // 2
    assert warp(state, half)[0, 0, 2, 3:5].tolist() == [50, 50]


def test_a_state_survives_an_open_gate_and_yields_to_a_closed_one() -> None:
    part = TemporalState(8, 4)
    moved, decoded = whole(1, 4, 3, 3), whole(1, 8, 3, 3, seed=5)
    with torch.no_grad():
        part.keep.weight.zero_()
        part.keep.bias.fill_(4.0)  # type: ignore[union-attr]
        assert torch.equal(part.renew(moved, decoded), moved)
        part.keep.bias.fill_(0.0)  # type: ignore[union-attr]
        assert torch.equal(part.renew(moved, decoded), part.candidate(decoded))


def test_the_halves_of_a_checkerboard_alternate_by_channel() -> None:
    first, second = checkerboard(3, 4, 6, torch.device("cpu"))
    for channel in range(3):
        assert sorted([*first[channel].tolist(), *second[channel].tolist()]) == list(range(24))
    assert torch.equal(first[0], second[1])
    assert torch.equal(first[0], first[2])


def test_the_second_half_sees_its_place_and_its_direct_neighbours_only() -> None:
    context = randomized(CheckerboardContext(2, 8))
    place = 2 * 7 + 2
    state, known = whole(1, 8, 5, 7), torch.zeros(1, 2, 5, 7)
    with torch.no_grad():
        before = context(state, known).flatten(2)
        known.flatten(2)[0, :, place] = 80
        changed = (context(state, known).flatten(2) != before).any(1)[0].nonzero().flatten().tolist()
    assert set(changed) - {place} == {
        place - 8,
        place - 7,
        place - 6,
        place - 1,
        place + 1,
        place + 6,
        place + 7,
        place + 8,
    }


def test_logarithms_are_rounded_right() -> None:
    symbols = torch.arange(-2000, 2001)
    expected = [min(127, math.floor(12 * math.log2(1 + abs(int(n))) + 0.5)) for n in symbols]
    assert log_magnitude(symbols).tolist() == expected
    assert torch.equal(log_real(symbols.float()), log_magnitude(symbols))
