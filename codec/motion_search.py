"""Motion search: 16x16 blocks that may split into four 8x8, quarter-pel, each chosen by what it will cost in bits.

Blocks are decided in the order that they are coded in, so a vector's price is what the vector coder would take given
the neighbours that are already decided. A residual's price is an estimate from its Hadamard transform: the squared
error of what will quantize to zero, and about the bits of what will not. The encoder's choice only: a decoder never
runs it, and nothing depends on two machines choosing alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.motion_search_batched import search_batch

_ENTRIES = 4096
_PER_STEP = 32  # price entries a quantization step
# A coefficient of u steps costs 7.5 u² where it becomes zero, and from there on so many bits more an octave.
_ZERO_PRICE = 7.5
_ZERO_ENDS = 0.7
_OCTAVE_PRICE = 1.3


@dataclass(frozen=True)
class Motion:
    """vectors: (N, 2, H/8, W/8) int64, (dy, dx) in quarter samples; split: (N, H/16, W/16) bool, where the four
    8x8 vectors of a 16x16 block differ in their own right."""

    vectors: Tensor
    split: Tensor


def search_motion(
    current: Tensor, reference: Tensor, step: Tensor, reach: int = 32, previous: Tensor | None = None
) -> Motion:
    """Vectors that predict `current` from `reference`.

    current, reference: (N, H, W) whole numbers 0..255 of any type, sides multiples of 16; step: (N,) quantization
    steps that the residual will be coded with, in sample units; reach: luma samples of the first, coarse search each
    way; previous: (N, 2, H/8, W/8) vectors of the frame before, tried as candidates.
    """
    kernels = _kernels() if current.device.type == "cpu" else None
    if kernels is None:
        vectors, split = search_batch(current.float(), reference.float(), vector_weight(step), reach, previous)
        return Motion(vectors, split)
    n, height, width = current.shape
    found = np.zeros((n, 2, height // 8, width // 8), np.int64)
    divided = np.zeros((n, height // 16, width // 16), np.uint8)
    before = np.zeros_like(found) if previous is None else np.ascontiguousarray(previous.numpy())
    frames, references = (np.ascontiguousarray(x.byte().numpy()) for x in (current, reference))
    prices = _prices()
    for i, size in enumerate(step.tolist()):
        weight = np.float32(vector_weight(torch.tensor(size)))
        kernels.search_frame(
            frames[i], references[i], before[i], weight, np.float32(_PER_STEP / (8 * size)), reach, _vector_prices(),
            prices, found[i], divided[i],
        )  # fmt: skip
    return Motion(torch.from_numpy(found), torch.from_numpy(divided.astype(bool)))


def vector_weight(step: Tensor) -> Tensor:
    """SAD that a vector bit is worth at a quantization step; steeper where most residuals are not coded at all."""
    return 0.4 * step * (1 + step / 40)


@lru_cache
def _prices() -> NDArray[np.float32]:
    u = (np.arange(_ENTRIES) + 0.5) / _PER_STEP
    coded = _ZERO_PRICE * _ZERO_ENDS**2 + _OCTAVE_PRICE * np.log2(np.maximum(u, _ZERO_ENDS) / _ZERO_ENDS)
    prices = np.where(u < _ZERO_ENDS, _ZERO_PRICE * u * u, coded).astype(np.float32)
    prices[0] = 0
    return prices


@lru_cache
def _vector_prices() -> NDArray[np.float32]:
    """Bits of a zero and of a one in each context of the vector coder, (2, contexts), by its chances at the start."""
    from codec.motion_coding import start_chances

    one = start_chances() / 65536
    return np.stack([-np.log2(1 - one), -np.log2(one)]).astype(np.float32)


@lru_cache
def _kernels():  # type: ignore[no-untyped-def]
    """The compiled search, or None where numba is not installed (training needs no more than PyTorch)."""
    try:
        from codec import motion_search_kernels
    except ImportError:
        return None
    return motion_search_kernels
