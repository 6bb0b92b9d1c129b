"""What the float transforms are built of: blocks A and B, strides, sub-pixel steps up, a small U-Net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SLOPE = 0.01  # of leaky ReLUs
_WIDEST_HIDDEN = 1024


def hidden_width(width: int) -> int:
    """Channels within a feed-forward part: four times the width up to 1024, but at least twice."""
    return max(min(4 * width, _WIDEST_HIDDEN), 2 * width)


class BlockA(nn.Module):
    """1x1, leaky ReLU, depthwise 3x3, 1x1, skip; then a feed-forward part with skip: (B, inputs, h, w) → outputs."""

    def __init__(self, inputs: int, outputs: int = 0) -> None:
        super().__init__()
        outputs = outputs or inputs
        self.depth = _DepthPart(inputs, outputs)
        self.widen = nn.Conv2d(outputs, hidden_width(outputs), 1)
        self.narrow = nn.Conv2d(hidden_width(outputs), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(x)
        return torch.as_tensor(x + self.narrow(_leaky(self.widen(x))))


class BlockB(nn.Module):
    """Block A with a gated feed-forward part: 1x1 to four times the width in two halves, a · sigmoid(b), 1x1.

    The gate is bounded: with one that is not, a chain of these blocks squares large values over and over.
    """

    def __init__(self, inputs: int, outputs: int = 0) -> None:
        super().__init__()
        outputs = outputs or inputs
        self.depth = _DepthPart(inputs, outputs)
        self.widen = nn.Conv2d(outputs, 4 * outputs, 1)
        self.narrow = nn.Conv2d(2 * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(x)
        value, gate = self.widen(x).chunk(2, dim=1)
        return torch.as_tensor(x + self.narrow(value * torch.sigmoid(gate)))


class _DepthPart(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, inputs, 1)
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
        self.leave = nn.Conv2d(inputs, outputs, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.skip(x) + self.leave(self.depthwise(_leaky(self.enter(x)))))


class Down(nn.Module):
    """Half the size: 3x3 of stride 2, 3x3, skip 1x1 of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.skip(x) + _leaky(self.second(_leaky(self.first(x)))))


class Up(nn.Module):
    """Twice the size: 1x1 or 3x3 (kernel) and pixel shuffle, 3x3, skip 1x1 and pixel shuffle."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, 4 * outputs, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        made = F.pixel_shuffle(_leaky(self.first(x)), 2)
        return F.pixel_shuffle(self.skip(x), 2) + _leaky(self.second(made))


class UNet(nn.Module):
    """Looks at three scales: (B, inputs, h, w) → (B, outputs, h, w); h and w are multiples of 4."""

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, int, int], blocks: int) -> None:
        super().__init__()
        full, half, quarter = widths
        self.at_full = BlockB(inputs, full)
        self.at_half = BlockB(full, half)
        self.at_quarter = BlockB(half, quarter)
        self.deep = nn.Sequential(*(BlockB(quarter) for _ in range(blocks)))
        self.to_half = Up(quarter, half, 3)
        self.join_half = BlockB(2 * half, half)
        self.to_full = Up(half, full, 3)
        self.join_full = BlockB(2 * full, outputs)

    def forward(self, x: Tensor) -> Tensor:
        full = self.at_full(x)
        half = self.at_half(F.max_pool2d(full, 2))
        quarter = self.deep(self.at_quarter(F.max_pool2d(half, 2)))
        half = self.join_half(torch.cat([half, self.to_half(quarter)], dim=1))
        return torch.as_tensor(self.join_full(torch.cat([full, self.to_full(half)], dim=1)))


def stride_two(inputs: int, outputs: int) -> nn.Conv2d:
    """A plain 3x3 of stride 2, as transforms end with."""
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)
