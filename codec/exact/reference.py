"""The exact layers once more, in pure NumPy integers: what any other implementation must equal, written to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.exact.layers import WIDE_LIMIT, ExactConv2d, ExactQPTable, ExactWideMap, Integers
from codec.exact.operations import GATE_ONE, LIMIT

Whole = NDArray[np.int64]


def shift_right(x: Whole, shift: Whole) -> Whole:
    """x / 2^shift, rounded half up."""
    return (2 * x + (1 << shift)) >> (shift + 1)


def conv(x: Whole, layer: Integers, depthwise: bool) -> Whole:
    """A convolution of stride 1 with zero padding: (B, C, h, w) int64 → (B, O, h, w) within ±127."""
    weight = layer.weight.astype(np.int64)
    batch, _, h, w = x.shape
    kernel = weight.shape[2]
    border = kernel // 2
    wide = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)))
    total = np.zeros((batch, len(weight), h, w), np.int64)
    for i in range(kernel):
        for j in range(kernel):
            part = wide[:, :, i : i + h, j : j + w]
            if depthwise:
                total += part * weight[:, 0, i, j, None, None]
            else:
                total += np.einsum("oc,bchw->bohw", weight[:, :, i, j], part)
    total += layer.bias.astype(np.int64)[:, None, None]
    return np.clip(shift_right(total, layer.shift.astype(np.int64)[:, None, None]), -LIMIT, LIMIT)


def wide_map(x: Whole, layer: Integers) -> Whole:
    """`ExactWideMap`: (B, C, h, w) int64 within ±8191 → (B, O, h, w) within ±8191."""
    weight, shift = layer.weight[:, :, 0, 0].astype(np.int64), layer.shift.astype(np.int64)[:, None, None]
    high = (x + 64) >> 7
    low = x - 128 * high
    above, below = (np.einsum("oc,bchw->bohw", weight, part) for part in (high, low))
    return np.clip(shift_right(128 * above, shift) + shift_right(below, shift), -WIDE_LIMIT, WIDE_LIMIT)


def qp_table(qp: Whole, knots: Whole, spacing: int) -> Whole:
    """`ExactQPTable`: QPs (B,) and whole knots (K, ...) → (B, ...)."""
    low = qp // spacing
    high = np.minimum(low + 1, len(knots) - 1)
    part = (qp - low * spacing).reshape(-1, *[1] * (knots.ndim - 1))
    return (knots[low] * (spacing - part) + knots[high] * part) // spacing


def scale_by_gate(x: Whole, gate: Whole) -> Whole:
    """See `operations.scale_by_gate`."""
    return shift_right(x * np.clip(gate, 0, GATE_ONE), np.int64(6))  # type: ignore[arg-type]


def blend(x: Whole, y: Whole, gate: Whole) -> Whole:
    """See `operations.blend`."""
    share = np.clip(gate, 0, GATE_ONE)
    return shift_right(x * share + y * (GATE_ONE - share), np.int64(6))  # type: ignore[arg-type]


def warp(state: Whole, vectors: Whole) -> Whole:
    """See `warp.warp`."""
    batch, _, h, w = state.shape
    rows = np.clip(np.arange(h)[:, None] * 32 + vectors[:, 0], 0, (h - 1) * 32)
    columns = np.clip(np.arange(w) * 32 + vectors[:, 1], 0, (w - 1) * 32)
    top, left = rows // 32, columns // 32
    below, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    down, across = rows % 32, columns % 32
    moved = np.empty_like(state)
    for b in range(batch):
        s = state[b]
        upper = s[:, top[b], left[b]] * (32 - across[b]) + s[:, top[b], right[b]] * across[b]
        lower = s[:, below[b], left[b]] * (32 - across[b]) + s[:, below[b], right[b]] * across[b]
        moved[b] = shift_right(upper * (32 - down[b]) + lower * down[b], np.int64(10))  # type: ignore[arg-type]
    return moved


def _whole(x: Tensor) -> Whole:
    whole = x.detach().cpu().numpy().astype(np.int64)
    if not np.array_equal(whole, x.detach().cpu().numpy()):
        raise ValueError("an exact layer was given values that are not whole")
    return whole


def _as_layer(layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The layer's NumPy twin with the face of its forward."""

    def run(compute: Callable[[Any], Whole]) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.from_numpy(compute(_whole(x))).float().to(x.device)

    if isinstance(layer, ExactConv2d):
        return run(lambda x, own=layer: conv(x, own.integers(), own.depthwise))  # type: ignore[misc]
    if isinstance(layer, ExactWideMap):
        return run(lambda x, own=layer: wide_map(x, own.integers()))  # type: ignore[misc]
    if isinstance(layer, ExactQPTable):
        knots = np.floor(layer.knots.detach().cpu().numpy() * layer.unit + 0.5).astype(np.int64)
        whole = np.clip(knots, -(1 << 17), 1 << 17)
        return run(lambda qp: qp_table(qp, whole, layer.SPACING))
    return None


@contextmanager
def on_numpy(network: nn.Module) -> Iterator[None]:
    """Within it every exact layer of the network is computed by this file instead of by torch."""
    replaced = []
    try:
        for layer in network.modules():
            twin = _as_layer(layer)
            if twin is not None:
                layer.forward = twin
                replaced.append(layer)
        yield
    finally:
        for layer in replaced:
            del layer.forward
