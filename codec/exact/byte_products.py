"""Exact layers on CPUs that multiply bytes: the same numbers as `layers` in float32, several times as fast.

Activations and weights are whole numbers of at most 127 and sums are whole anyway, so products of bytes summed in 32
bits lose nothing. Not every CPU has instructions for it that keep sums from being cut off at 16 bits, so it is asked,
and then tried on the largest sums there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST_PRODUCTS = 1040  # see `layers.check_sum`


@dataclass(frozen=True)
class ByteWeights:
    """The whole numbers behind a layer: weight int8 (O, I), or int32 (O, 9) of a depthwise layer; bias and shift int32
    (O,)."""

    weight: Tensor
    bias: NDArray[np.int32]
    shift: NDArray[np.int32]


@lru_cache
def kernels() -> Any:
    """What there is beside the products, compiled; None where products of bytes or numba are missing."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    if supported is None or not supported() or not hasattr(torch, "_int_mm"):
        return None
    try:
        from codec.exact import layer_kernels
    except ImportError:
        return None
    return layer_kernels if _products_are_right() else None


def _products_are_right() -> bool:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        for inputs, outputs, places in ((128, 128, 130), (_MOST_PRODUCTS, 16, 37), (36, 6, 1)):
            left = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
            right = torch.randint(-127, 128, (inputs, places), generator=generator, dtype=torch.int8)
            left[::3], left[1::3] = 127, -127
            right[:, ::3], right[:, 1::3] = 127, -127
            if not torch.equal(torch._int_mm(left, right).double(), left.double() @ right.double()):
                return False
    return True


def conv(x: Tensor, layer: ByteWeights) -> Tensor:
    """A 1x1 convolution: activations (B, I, h, w) float32 → (B, O, h, w)."""
    out = np.empty((len(x), len(layer.bias), x.shape[2] * x.shape[3]), np.float32)
    for single, into in zip(x.flatten(2).to(torch.int8), out, strict=True):
        kernels().settle(torch._int_mm(layer.weight, single).numpy(), layer.bias, layer.shift, into)
    return torch.from_numpy(out).unflatten(2, x.shape[2:])


def depthwise(x: Tensor, layer: ByteWeights) -> Tensor:
    """A depthwise 3x3 convolution with zero padding: activations (B, C, h, w) float32 → the same."""
    out = np.empty(x.shape, np.float32)
    for single, into in zip(np.ascontiguousarray(x.numpy(), np.float32), out, strict=True):
        kernels().depthwise(single, layer.weight.numpy(), layer.bias, layer.shift, into)
    return torch.from_numpy(out)


def branch(x: Tensor, onto: Tensor, spatial: ByteWeights, widen: ByteWeights, narrow: ByteWeights) -> Tensor:
    """onto + narrow(relu(widen(spatial(x)))), the first a depthwise 3x3 convolution: (B, C, h, w) → that of onto."""
    batch, channels, h, w = x.shape
    out = torch.empty(batch, len(narrow.bias), h * w, dtype=torch.float32)
    near, wide = (torch.empty(n, h * w, dtype=torch.int8) for n in (channels, len(widen.bias)))
    for single, under, into in zip(x.contiguous(), onto.contiguous().flatten(2), out, strict=True):
        given = single.numpy(), spatial.weight.numpy(), spatial.bias, spatial.shift
        kernels().depthwise(*given, near.unflatten(1, (h, w)).numpy())
        sums = torch._int_mm(widen.weight, near).numpy()
        kernels().settle_positive(sums, widen.bias, widen.shift, wide.numpy())
        sums = torch._int_mm(narrow.weight, wide).numpy()
        kernels().settle_onto(sums, narrow.bias, narrow.shift, under.numpy(), into.numpy())
    return out.unflatten(2, (h, w))


def wide_map(x: Tensor, layer: ByteWeights, limit: int) -> Tensor:
    """See `layers.ExactWideMap`: (B, I, h, w) float32 within ±limit → (B, O, h, w)."""
    batch, inputs, h, w = x.shape
    out = np.empty((batch, len(layer.bias), h * w), np.float32)
    parts = torch.empty(2, inputs, h * w, dtype=torch.int8)
    for single, into in zip(np.ascontiguousarray(x.numpy(), np.float32), out, strict=True):
        kernels().split_wide(single.reshape(-1), parts.flatten(1).numpy())
        high, low = (torch._int_mm(layer.weight, part).numpy() for part in parts)
        kernels().settle_wide(high, low, layer.shift, np.int32(limit), into)
    return torch.from_numpy(out).unflatten(2, (h, w))
