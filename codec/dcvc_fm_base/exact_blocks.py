"""Block A and the sub-pixel step up once more in exact whole numbers, for all that chooses a probability.

They have the parameters and products of the float ones. Two things differ: ReLUs are not leaky, and a sum of more than
1040 products, which float32 would not carry exactly, is made in parts that are rounded one by one and then added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.dcvc_fm_base.blocks import hidden_width
from codec.exact.layers import ExactConv2d
from codec.exact.operations import clamp, relu

_MOST_PRODUCTS = 1040  # see `codec.exact.layers.check_sum`
_QUIET = 0.02  # of the size that keeps activations as they are
_FIRST_BIAS = 0.5  # 8 as an activation


class WideExactConv(nn.Module):
    """A 1x1 or 3x3 over any number of inputs, whole activations (B, inputs, h, w) → (B, outputs, h, w).

    gain: how much larger outputs are than inputs before training, about.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        parts = math.ceil(inputs * kernel * kernel / _MOST_PRODUCTS)
        self.sizes = [inputs // parts + (i < inputs % parts) for i in range(parts)]
        self.parts = nn.ModuleList(ExactConv2d(size, outputs, kernel, bias=i == 0) for i, size in enumerate(self.sizes))
        for part in self.parts:
            nn.init.normal_(part.weight, std=gain / math.sqrt(inputs * kernel * kernel))  # type: ignore[arg-type]
        # Without biases, hyper-latents that are all zero at first would leave every ReLU without a slope.
        nn.init.normal_(self.parts[0].bias, std=_FIRST_BIAS * gain)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return torch.as_tensor(self.parts[0](x))
        made = [part(each.contiguous()) for part, each in zip(self.parts, x.split(self.sizes, dim=1), strict=True)]
        return clamp(sum(made[1:], made[0]))


class ExactBlockA(nn.Module):
    """Block A on whole activations, (B, inputs, h, w) → (B, outputs, h, w).

    quiet: it starts with outputs near zero, and so has no first skip where it would be the input itself.
    """

    def __init__(self, inputs: int, outputs: int = 0, quiet: bool = False) -> None:
        super().__init__()
        outputs = outputs or inputs
        last = _QUIET if quiet else 0.3
        self.enter = WideExactConv(inputs, inputs)
        self.depthwise = ExactConv2d(inputs, inputs, 3, depthwise=True)
        self.leave = WideExactConv(inputs, outputs, gain=last)
        self.skip = WideExactConv(inputs, outputs, gain=last if quiet else 1.0) if inputs != outputs else None
        self.skips = inputs == outputs and not quiet
        self.widen = WideExactConv(outputs, hidden_width(outputs))
        self.narrow = WideExactConv(hidden_width(outputs), outputs, gain=last)

    def forward(self, x: Tensor) -> Tensor:
        made = self.leave(self.depthwise(relu(self.enter(x))))
        if self.skip is not None or self.skips:
            made = clamp(made + (x if self.skip is None else self.skip(x)))
        x = made
        return clamp(x + self.narrow(relu(self.widen(x))))


class ExactUp(nn.Module):
    """Twice the size, on whole activations: 1x1 and pixel shuffle, 3x3, skip 1x1 and pixel shuffle."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = WideExactConv(inputs, 4 * outputs)
        self.second = WideExactConv(outputs, outputs, 3, gain=0.5)
        self.skip = WideExactConv(inputs, 4 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        made = F.pixel_shuffle(relu(self.first(x)), 2)
        return clamp(F.pixel_shuffle(self.skip(x), 2) + self.second(made))


def exact_chain(widths: Sequence[int], quiet: bool = False) -> nn.Sequential:
    """Blocks A from each width to the next; quiet: the last one starts with outputs near zero."""
    last = len(widths) - 2
    return nn.Sequential(*(ExactBlockA(widths[i], widths[i + 1], quiet and i == last) for i in range(last + 1)))
