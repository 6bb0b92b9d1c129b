"""Convolutions and learned tables whose outputs are whole numbers, the same on every machine.

A layer's parameters are floats, as an optimizer wants them. What it computes with is their quantized form: weights
w = q · 2^-k with whole |q| <= 127 and one k an output channel, so that a product with whole inputs of at most 127 and
all K of them summed stay below 127² · K + bias < 2^24 in units of 2^-k. The quantized form follows from the floats by
exact operations alone (a power of two, one rounding), and so does not depend on the machine that loads them either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from codec.errors import BitreelError
from codec.exact import byte_products
from codec.exact.byte_products import ByteWeights
from codec.exact.operations import EXACT_SUMS, LIMIT, activation, add, clamp, is_floating, relu, round_half_up

LARGEST_SHIFT = 12
BIAS_UNIT = 16.0  # one unit of a bias parameter is this much of an activation, so that one learning rate fits both
_LARGEST_KNOT = 1 << 17
_SPLIT = 128  # wide inputs are told in this base
WIDE_LIMIT = _SPLIT * 64 - 1  # largest magnitude of a wide input or output


class Integers(NamedTuple):
    """An exported layer: weight int8 (O, I/groups, k, k), bias int32 (O,), shift int32 (O,); see `reference.conv`."""

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    shift: NDArray[np.int32]


def check_sum(products: int) -> int:
    """The largest magnitude a bias may have, in units of the sum, with this many products in it.

    Raises BitreelError where the products alone could leave the exact range of float32.
    """
    room = EXACT_SUMS - 1 - LIMIT * LIMIT * products - (1 << (LARGEST_SHIFT - 1))
    if room < LIMIT:
        raise BitreelError(
            f"a sum of {products} products is not exact in float32 (at most 1040: 127² times that stays below 2^24); "
            "use fewer channels or a smaller kernel"
        )
    return room


_shared: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("shared", default=None)


@contextmanager
def quantized_once() -> Iterator[None]:
    """Within it each layer's weights are quantized once for all its uses, as in a training step of several frames;
    they must not change meanwhile."""
    with _sharing({}):
        yield


class _Quantized(nn.Module):
    """Keeps the quantized form of weight and bias beside the parameters it was made of.

    These are compared each time: fused optimizers, `.data` and shared memory change a tensor without a trace.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._kept: tuple[tuple[Tensor, Tensor | None], tuple[tuple[Tensor, Tensor], ByteWeights]] | None = None

    def quantized(self) -> tuple[Tensor, Tensor]:
        """Weight (O, I/groups, k, k) and bias (O,), multiples of 2^-k; raises BitreelError for non-finite weights."""
        if self.weight.requires_grad and torch.is_grad_enabled():
            shared = _shared.get()
            if shared is None:
                return self._quantize()[:2]
            if id(self) not in shared:
                shared[id(self)] = self._quantize()[:2]
            return shared[id(self)]
        return self._current()[0]

    def _current(self) -> tuple[tuple[Tensor, Tensor], ByteWeights]:
        """The quantized form and its bytes, made anew where parameters have changed."""
        given = self.weight, self.bias
        if self._kept is None or not all(_same(kept, now) for kept, now in zip(self._kept[0], given, strict=True)):
            for parameter in (self.weight, self.bias):
                if parameter is not None and not bool(torch.isfinite(parameter).all()):
                    raise BitreelError("model weights are not finite: the training that made them diverged")
            with torch.no_grad():
                weight, bias, _ = self._quantize()
            kept = [None if each is None else each.detach().clone() for each in given]
            self._kept = ((kept[0], kept[1]), ((weight, bias), self._bytes()))  # type: ignore[assignment]
        return self._kept[1]  # type: ignore[index]

    def bytes(self) -> ByteWeights:
        """The quantized form as products of bytes take it; raises BitreelError for non-finite weights."""
        return self._current()[1]

    def _bytes(self) -> ByteWeights:
        whole = self.integers()
        weight = torch.from_numpy(whole.weight.reshape(len(whole.weight), -1))
        return ByteWeights(weight.int() if self.weight.shape[2] == 3 else weight, whole.bias, whole.shift)

    def integers(self) -> Integers:
        """The whole numbers behind the quantized form."""
        with torch.no_grad():
            weight, bias, shift = self._quantize()
        scale = torch.exp2(shift)
        whole = weight * scale.view(-1, 1, 1, 1)
        return Integers(
            whole.cpu().numpy().astype(np.int8),
            (bias * scale).cpu().numpy().astype(np.int32),
            shift.cpu().numpy().astype(np.int32),
        )

    def _quantize(self) -> tuple[Tensor, Tensor, Tensor]:
        largest = self.weight.detach().abs().amax((1, 2, 3))
        mantissa, exponent = torch.frexp(largest)
        # The finest power of two that keeps the largest weight within 127 = 0.9921875 · 2^7.
        shift = (7 - exponent - (mantissa > LIMIT / 128).int()).clamp(0, LARGEST_SHIFT).float()
        scale = torch.exp2(shift)
        wide = scale.view(-1, 1, 1, 1)
        weight = _straight(self.weight, (torch.round(self.weight.detach() * wide).clamp(-LIMIT, LIMIT)) / wide)
        if self.bias is None:
            return weight, torch.zeros_like(scale), shift
        bias = self.bias * BIAS_UNIT
        return weight, _straight(bias, torch.round(bias.detach() * scale).clamp(-self._room, self._room) / scale), shift


def _same(kept: Tensor | None, given: Tensor | None) -> bool:
    if kept is None or given is None:
        return kept is given
    return kept.device == given.device and torch.equal(kept, given)


def _straight(value: Tensor, quantized: Tensor) -> Tensor:
    """The quantized value with the gradient of the real one."""
    return value + (quantized - value).detach() if value.requires_grad else quantized


def _in_bytes(x: Tensor) -> bool:
    """Whether products with x are made of bytes; gradients need floats."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and byte_products.kernels() is not None


class ExactConv2d(_Quantized):
    """A 1x1, 3x3 or depthwise 3x3 convolution of stride 1 with zero padding, on activations (B, C, h, w).

    Whole inputs within ±127 give whole outputs within ±127, rounded half up. Raises BitreelError when it is built with
    more products in a sum than float32 carries exactly.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, depthwise: bool = False, bias: bool = True) -> None:
        if kernel not in (1, 3) or (depthwise and outputs != inputs):
            raise BitreelError("an exact convolution is 1x1 or 3x3; a depthwise one keeps the number of channels")
        per_group = 1 if depthwise else inputs
        super().__init__(check_sum(per_group * kernel * kernel))
        self.kernel, self.depthwise = kernel, depthwise
        self.weight = nn.Parameter(torch.empty(outputs, per_group, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h, w) float32."""
        if is_floating():
            return self._sum(x, self.weight, None if self.bias is None else self.bias * BIAS_UNIT)
        if _in_bytes(x) and (self.depthwise or self.kernel == 1):
            product = byte_products.depthwise if self.depthwise else byte_products.conv
            return product(x, self.bytes())
        return activation(self._sum(x, *self.quantized()))

    def _sum(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.depthwise or torch.is_grad_enabled():
            # In training the weights' gradient of a batched matrix product takes several times as long.
            groups = x.shape[1] if self.depthwise else 1
            return F.conv2d(x, weight, bias, padding=self.kernel // 2, groups=groups)
        if self.kernel == 1:
            total = torch.matmul(weight[:, :, 0, 0], x.flatten(2)).unflatten(2, x.shape[2:])
            return total if bias is None else total + bias.view(-1, 1, 1)
        # A library may choose Winograd for a dense 3x3, which is not exact; a matrix product always is.
        columns = F.unfold(x, 3, padding=1)
        total = torch.matmul(weight.flatten(1), columns).unflatten(2, x.shape[2:])
        return total if bias is None else total + bias.view(-1, 1, 1)


def branch(x: Tensor, onto: Tensor, spatial: ExactConv2d, widen: ExactConv2d, narrow: ExactConv2d) -> Tensor:
    """onto + narrow(relu(widen(spatial(x)))) as an activation, spatial a depthwise convolution: (B, C, h, w) → onto's
    shape."""
    if _in_bytes(x) and not is_floating():
        return byte_products.branch(x, onto, *(layer.bytes() for layer in (spatial, widen, narrow)))
    return add(onto, narrow(relu(widen(spatial(x)))))


class ExactWideMap(_Quantized):
    """A linear 1x1 map without bias on wide values, whole numbers within ±8191: two exact passes, high and low part.

    For values that int8 is too narrow for, as coefficients in sixteenths of a step. Outputs are rounded, within ±8191.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(check_sum(inputs))
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 1, 1))
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h, w) float32."""
        if is_floating():
            return torch.matmul(self.weight[:, :, 0, 0], x.flatten(2)).unflatten(2, x.shape[2:])
        if _in_bytes(x):
            return byte_products.wide_map(x, self.bytes(), WIDE_LIMIT)
        weight = self.quantized()[0]
        high = torch.floor((x + _SPLIT // 2) / _SPLIT)
        low = x - high * _SPLIT
        # Each part is rounded by itself: their sum would need more digits than float32 has.
        if torch.is_grad_enabled():
            parts = [F.conv2d(part, weight) for part in (high, low)]
        else:
            parts = [torch.matmul(weight[:, :, 0, 0], part.flatten(2)) for part in (high, low)]
        total = clamp(round_half_up(parts[0] * _SPLIT) + round_half_up(parts[1]), WIDE_LIMIT)
        return total if total.dim() == 4 else total.unflatten(2, x.shape[2:])


class ExactQPTable(nn.Module):
    """Learned values for every QP: `knots` an octave of step size apart, straight lines between, rounded down.

    unit: how many whole numbers one unit of the parameter is worth. Values are held within ±2^17.
    """

    KNOTS = 8
    SPACING = 9  # QPs

    def __init__(self, *shape: int, unit: int) -> None:
        super().__init__()
        self.unit = unit
        self.knots = nn.Parameter(torch.zeros(self.KNOTS, *shape))

    def forward(self, qp: Tensor) -> Tensor:
        """qp (B,) int64 → (B, *shape) float32."""
        knots = clamp(round_half_up(self.knots * self.unit), _LARGEST_KNOT)
        low = torch.div(qp, self.SPACING, rounding_mode="floor")
        high = (low + 1).clamp_max(self.KNOTS - 1)
        part = (qp - low * self.SPACING).view(-1, *[1] * (knots.dim() - 1))
        total = knots[low] * (self.SPACING - part) + knots[high] * part  # whole, below 2^21
        if is_floating():
            return total / self.SPACING
        # In integers: a GPU may divide floats by a number as a product with its rounded reciprocal.
        whole = torch.div(total.detach().long(), self.SPACING, rounding_mode="floor").float()
        return _straight(total / self.SPACING, whole)


def recomputed(network: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, which uses layers of `network`, without keeping what its gradients need: the backward pass runs it again.

    Within `quantized_once`, both runs share one quantized form of the weights. For runs that draw no random numbers.
    """
    shared = _shared.get()
    if shared is not None:
        for layer in network.modules():  # now, so that no run finds the form missing that the other finds there
            if isinstance(layer, _Quantized) and layer.weight.requires_grad and torch.is_grad_enabled():
                layer.quantized()

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _sharing(shared)

    def call(*inputs: Any) -> Any:
        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

    return call


@contextmanager
def _sharing(shared: dict[int, tuple[Tensor, Tensor]] | None) -> Iterator[None]:
    token = _shared.set(shared)
    try:
        yield
    finally:
        _shared.reset(token)
