"""What may stand between exact layers: rounding, clamping, sums, gates. Training runs the very same operations.

Rounding passes gradients straight through, so a network meets its own quantization from the first step.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LIMIT = 127  # largest magnitude of an activation
GATE_ONE = 64  # a gate of this lets everything pass
EXACT_SUMS = 1 << 24  # whole numbers below it are exact in float32

_floating: ContextVar[bool] = ContextVar("floating", default=False)


@contextmanager
def full_precision() -> Iterator[None]:
    """Within it nobody's settings make float32 products less than float32: no autocast, no TF32 on a GPU.

    On CPUs bfloat16 products would do no harm: whole numbers of int8 range are exact in them, and sums stay float32.
    """
    with _without_tf32, torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


class _WithoutTF32:
    """Sets the process-wide switches for as long as any thread is within, and then as they were before."""

    def __init__(self) -> None:
        self._lock, self._within = threading.Lock(), 0
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._within and torch.cuda.is_available():
                for place, switch, value in _tf32_off():
                    self._before.append((place, switch, getattr(place, switch)))
                    setattr(place, switch, value)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            while not self._within and self._before:
                setattr(*self._before.pop())


_without_tf32 = _WithoutTF32()


def _tf32_off() -> list[tuple[Any, str, Any]]:
    """(where, switch, its value without TF32). Since torch 2.9 there are new switches, not to be mixed with the old."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):
        return [(matmul, "fp32_precision", "ieee"), (cudnn.conv, "fp32_precision", "ieee")]
    return [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]


@contextmanager
def floating() -> Iterator[None]:
    """Within it nothing is rounded or clamped: the same networks in plain floats, for measuring what exactness costs.

    Streams coded inside are decodable in the same process only; nothing in Bitreel codes a stream this way by itself.
    """
    token = _floating.set(True)
    try:
        yield
    finally:
        _floating.reset(token)


def is_floating() -> bool:
    """Whether the caller stands within `floating`."""
    return _floating.get()


def round_half_up(x: Tensor) -> Tensor:
    """floor(x + 1/2), with the gradient of x; x is returned as it is within `floating`."""
    if is_floating():
        return x
    rounded = torch.floor(x + 0.5)
    return x + (rounded - x).detach() if x.requires_grad else rounded


def clamp(x: Tensor, limit: int = LIMIT) -> Tensor:
    """x held within ±limit; as it is within `floating`."""
    return x if is_floating() else x.clamp(-limit, limit)


def activation(x: Tensor) -> Tensor:
    """clamp(round_half_up(x)) in one go, for training spends much of its time there; as it is within `floating`."""
    if is_floating():
        return x
    if x.requires_grad and torch.is_grad_enabled():
        return torch.as_tensor(_Activation.apply(x))
    return torch.floor(x + 0.5).clamp_(-LIMIT, LIMIT)


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rounded = torch.floor(x + 0.5)
        whole = rounded.clamp(-LIMIT, LIMIT)
        ctx.save_for_backward(rounded == whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.saved_tensors[0]


def floor_divide(x: Tensor, y: Tensor) -> Tensor:
    """floor(x / y) of whole numbers of any type, |x| below 2^53 and y positive; int64."""
    if x.device.type == "cpu":
        # A quotient of doubles is rounded right there, and never up to a whole number from so far below; whole
        # numbers are divided one by one and take several times as long. A GPU may round otherwise.
        return (x.double() / y.double()).floor_().long()
    return torch.div(x.long(), y.long(), rounding_mode="floor")


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y as an activation."""
    return clamp(x + y)


def relu(x: Tensor) -> Tensor:
    """Negative values become zero."""
    return F.relu(x)


def scale_by_gate(x: Tensor, gate: Tensor) -> Tensor:
    """x · gate / 64, rounded; the gate is clamped to 0..64. |x| must stay below 2^17 for an exact product."""
    return round_half_up(x * gate.clamp(0, GATE_ONE) / GATE_ONE)


def lean(differences: Tensor, gates: Tensor) -> Tensor:
    """Sum over the second dimension of difference · gate / 64, rounded; gates are activations and may be negative.

    At most 4 differences (B, k, ...), below 2^13 each, for an exact sum.
    """
    return round_half_up((differences * gates).sum(1) / GATE_ONE)


def blend(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """(x · gate + y · (64 - gate)) / 64, rounded: the gate keeps x. Both are activations."""
    share = gate.clamp(0, GATE_ONE)
    return round_half_up((x * share + y * (GATE_ONE - share)) / GATE_ONE)
