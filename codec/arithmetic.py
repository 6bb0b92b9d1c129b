"""One network, two ways to compute it: float32 for training, exact fixed point for coding.

What decides a symbol's probability must come out bit-identical at encoder and decoder. So coding runs the networks on
whole numbers: activations in units of 1/256, clamped to 16 bits; weights rounded to 1/4096; sums in float64, where
every product and partial sum is a whole number below 2^53 and thus exact in any order of summation, on any device.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.errors import BitreelError

ACTIVATION_BITS = 8  # fraction bits
WEIGHT_BITS = 12
ONE = 1 << ACTIVATION_BITS
LIMIT = (1 << 15) - 1  # largest activation, in units of 1/256


class Arithmetic(Protocol):
    """What a network may be built of. Activations are (B, C, h, w)."""

    def conv(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """1x1 or depthwise 3x3 convolution, with or without bias."""

    def relu(self, x: Tensor) -> Tensor: ...

    def add(self, x: Tensor, y: Tensor) -> Tensor: ...

    def gate(self, x: Tensor, gate: Tensor) -> Tensor:
        """x times the gate clamped to 0..1."""

    def table(self, values: Tensor) -> Tensor:
        """A learned table, as activations."""

    def constant(self, value: float) -> float: ...


class FloatArithmetic:
    """Training: float32 with gradients, and the same clamps as in fixed point."""

    limit = LIMIT / ONE

    def conv(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        return layer(x).clamp(-self.limit, self.limit)

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + y).clamp(-self.limit, self.limit)

    def gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate.clamp(0, 1)

    def table(self, values: Tensor) -> Tensor:
        return values

    def constant(self, value: float) -> float:
        return value


class FixedArithmetic:
    """Coding: whole numbers carried in float64."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def conv(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        weight, bias = self._whole(layer)
        batch, channels, h, w = x.shape
        if layer.kernel_size == (1, 1):
            total = torch.matmul(weight[:, :, 0, 0], x.reshape(batch, channels, h * w)).reshape(batch, -1, h, w)
        else:
            wide = F.pad(x, (1, 1, 1, 1))
            total = torch.zeros_like(x)
            for i in range(3):
                for j in range(3):
                    total += wide[:, :, i : i + h, j : j + w] * weight[:, 0, i, j].view(-1, 1, 1)
        return self._round(total + bias.view(-1, 1, 1), WEIGHT_BITS)

    def relu(self, x: Tensor) -> Tensor:
        return x.clamp_min(0)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + y).clamp(-LIMIT, LIMIT)

    def gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return self._round(x * gate.clamp(0, ONE), ACTIVATION_BITS)

    def table(self, values: Tensor) -> Tensor:
        return torch.round(values.detach().double() * ONE).clamp(-LIMIT, LIMIT)

    def constant(self, value: float) -> float:
        return float(round(value * ONE))

    @staticmethod
    def _round(total: Tensor, bits: int) -> Tensor:
        return torch.floor(total * 2.0**-bits + 0.5).clamp(-LIMIT, LIMIT)

    def _whole(self, layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Weights and bias as whole numbers; raises BitreelError where a sum could leave the exact range."""
        if id(layer) not in self._layers:
            weight = torch.round(layer.weight.detach().double() * (1 << WEIGHT_BITS))
            given = layer.bias if layer.bias is not None else torch.zeros(1, device=weight.device)
            bias = torch.round(given.detach().double() * (1 << (WEIGHT_BITS + ACTIVATION_BITS)))
            worst = weight.abs().sum((1, 2, 3)).max() * LIMIT + bias.abs().max()
            if not bool(torch.isfinite(worst)) or float(worst) >= 2.0**53:
                raise BitreelError("model weights are too large for exact coding (not finite, or sums over 2^53)")
            self._layers[id(layer)] = (weight, bias)
        return self._layers[id(layer)]
