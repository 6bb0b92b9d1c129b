"""An invertible block transform in integers: the orthonormal DCT as lifting steps on packed 4:2:0.

Luma in 8x8 blocks and chroma in 4x4 blocks meet at 1/8 resolution as 64 + 16 + 16 = 96 channels, an exact packing.
Each one-dimensional DCT is a chain of plane rotations, and each rotation three shears with rounding (lifting), so the
inverse undoes every step exactly: inverse(forward(x)) == x for integers, on every device. With `fraction_bits` the
input is scaled up first, which makes the rounding of the shears negligible beside the quantization. On CPUs compiled
kernels do the same where numba is installed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LUMA_BLOCK = 8
CHROMA_BLOCK = 4
_SIZES = LUMA_BLOCK, CHROMA_BLOCK, CHROMA_BLOCK
_SHIFT = 14  # precision of the shears' factors


@lru_cache
def dct_matrix(size: int) -> np.ndarray:
    """Orthonormal DCT-II, (size, size) float64; row k is the k-th basis function."""
    k, n = np.mgrid[0:size, 0:size]
    matrix = np.cos(math.pi * (2 * n + 1) * k / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


@lru_cache
def block_rotations(size: int) -> tuple[tuple[tuple[int, int, int, int], ...], tuple[int, ...], tuple[int, ...]]:
    """The DCT as rotations ((i, j, shear, sine), ...) in fixed point, then outputs (source index, sign)."""
    rest = dct_matrix(size).copy()
    steps: list[tuple[int, int, float]] = []

    def rotate(i: int, j: int, angle: float) -> None:
        """Take the rotation of inputs i, j off the front: rest = rest · R(angle)ᵀ."""
        c, s = math.cos(angle), math.sin(angle)
        a, b = rest[:, i].copy(), rest[:, j].copy()
        rest[:, i], rest[:, j] = c * a - s * b, s * a + c * b
        steps.append((i, j, angle))

    for width in (size, size // 2):  # the usual butterflies first: they leave many zeros behind
        for i in range(width // 2):
            rotate(i, width - 1 - i, math.pi / 4)
    for row in range(size):
        live = [c for c in range(size) if abs(rest[row, c]) > 1e-9]
        head = max(live, key=lambda c: round(abs(rest[row, c]), 9))  # ties must not hang on a last bit
        for other in live:
            if other != head:
                # Bring rest[row, other] to zero. The angle stays within ±90°, so its shears stay within ±1.
                rotate(head, other, math.atan(-rest[row, other] / rest[row, head]))
    fixed = tuple(
        (i, j, round(-math.tan(angle / 2) * (1 << _SHIFT)), round(math.sin(angle) * (1 << _SHIFT)))
        for i, j, angle in steps
    )
    sources = tuple(int(np.argmax(np.abs(row))) for row in rest)
    signs = tuple(1 if rest[k, sources[k]] > 0 else -1 for k in range(size))
    return fixed, sources, signs


def _part(source: Tensor, factor: int) -> Tensor:
    return (source * factor + (1 << (_SHIFT - 1))) >> _SHIFT


def _lift(lines: list[Tensor], inverse: bool) -> list[Tensor]:
    """One-dimensional lifting DCT over a list of int32 tensors, one a sample."""
    rotations, sources, signs = block_rotations(len(lines))
    if not inverse:
        x = list(lines)
        for i, j, shear, sine in rotations:
            x[i] = x[i] + _part(x[j], shear)
            x[j] = x[j] + _part(x[i], sine)
            x[i] = x[i] + _part(x[j], shear)
        return [x[s] * sign for s, sign in zip(sources, signs, strict=True)]
    x = [lines[0]] * len(lines)
    for k, (s, sign) in enumerate(zip(sources, signs, strict=True)):
        x[s] = lines[k] * sign
    for i, j, shear, sine in reversed(rotations):
        # A shear is undone by the very same rounded amount, taken away.
        x[i] = x[i] - _part(x[j], shear)
        x[j] = x[j] - _part(x[i], sine)
        x[i] = x[i] - _part(x[j], shear)
    return x


def _lift_blocks(blocks: Tensor, inverse: bool) -> Tensor:
    """Two-dimensional lifting DCT: (n, n, h, w) int32, rows and columns of the block first."""
    n = blocks.shape[0]
    if not inverse:
        blocks = torch.stack(_lift([blocks[i] for i in range(n)], False))
        return torch.stack(_lift([blocks[:, i] for i in range(n)], False), dim=1)
    blocks = torch.stack(_lift([blocks[:, i] for i in range(n)], True), dim=1)
    return torch.stack(_lift([blocks[i] for i in range(n)], True))


def split_blocks(plane: Tensor, size: int) -> Tensor:
    """(..., H, W) → (..., size, size, H/size, W/size)."""
    *lead, height, width = plane.shape
    blocks = plane.reshape(*lead, height // size, size, width // size, size)
    return blocks.movedim(-3, -4).movedim(-1, -3).contiguous()


def join_blocks(blocks: Tensor) -> Tensor:
    """The inverse of `split_blocks`."""
    *lead, size, _, h, w = blocks.shape
    return blocks.movedim(-3, -1).movedim(-4, -3).reshape(*lead, h * size, w * size)


def forward_transform(luma: Tensor, chroma: Tensor, fraction_bits: int) -> Tensor:
    """Integer planes → coefficients.

    luma: (H, W) int32, chroma: (2, H/2, W/2) int32, H and W multiples of 8; values within ±255.
    Returns (96, H/8, W/8) int32 in units of 2^-fraction_bits: 64 luma, 16 U, 16 V, row by row of frequencies.
    """
    if luma.device.type == "cpu" and _kernels() is not None:
        return _compiled_forward(luma, chroma, fraction_bits)
    return tensor_forward(luma, chroma, fraction_bits)


def inverse_transform(coefficients: Tensor, fraction_bits: int) -> tuple[Tensor, Tensor]:
    """The exact inverse of `forward_transform`, rounded to whole sample values where there are fraction bits."""
    if coefficients.device.type == "cpu" and _kernels() is not None:
        return _compiled_inverse(coefficients, fraction_bits)
    return tensor_inverse(coefficients, fraction_bits)


def tensor_forward(luma: Tensor, chroma: Tensor, fraction_bits: int) -> Tensor:
    """`forward_transform` on any device."""
    h, w = luma.shape[0] // LUMA_BLOCK, luma.shape[1] // LUMA_BLOCK
    y = _lift_blocks(split_blocks(luma << fraction_bits, LUMA_BLOCK), False).reshape(64, h, w)
    c = split_blocks(chroma << fraction_bits, CHROMA_BLOCK).permute(1, 2, 0, 3, 4)  # both planes in one go
    c = _lift_blocks(c.reshape(4, 4, 2 * h, w), False).reshape(16, 2, h, w).transpose(0, 1).reshape(32, h, w)
    return torch.cat([y, c])


def tensor_inverse(coefficients: Tensor, fraction_bits: int) -> tuple[Tensor, Tensor]:
    """`inverse_transform` on any device."""
    h, w = coefficients.shape[1:]
    y = join_blocks(_lift_blocks(coefficients[:64].reshape(8, 8, h, w), True))
    c = coefficients[64:].reshape(2, 16, h, w).transpose(0, 1).reshape(4, 4, 2 * h, w)
    c = join_blocks(_lift_blocks(c, True).reshape(4, 4, 2, h, w).permute(2, 0, 1, 3, 4))
    if fraction_bits:
        half = 1 << (fraction_bits - 1)
        return (y + half) >> fraction_bits, (c + half) >> fraction_bits
    return y, c


def _compiled_forward(luma: Tensor, chroma: Tensor, fraction_bits: int) -> Tensor:
    height, width = luma.shape
    found = np.empty((96, height // LUMA_BLOCK, width // LUMA_BLOCK), np.int32)
    planes = luma, *chroma
    for plane, part, size in zip(planes, _parts(found), _SIZES, strict=True):
        source = np.ascontiguousarray(plane.numpy())
        _kernels().forward_plane(source, fraction_bits, *_rotation_table(size), part)
    return torch.from_numpy(found)


def _compiled_inverse(coefficients: Tensor, fraction_bits: int) -> tuple[Tensor, Tensor]:
    h, w = coefficients.shape[1:]
    luma = np.empty((h * LUMA_BLOCK, w * LUMA_BLOCK), np.int32)
    chroma = np.empty((2, h * CHROMA_BLOCK, w * CHROMA_BLOCK), np.int32)
    given = _parts(np.ascontiguousarray(coefficients.numpy()))
    for plane, part, size in zip((luma, *chroma), given, _SIZES, strict=True):
        _kernels().inverse_plane(part, fraction_bits, *_rotation_table(size), plane)
    return torch.from_numpy(luma), torch.from_numpy(chroma)


def _parts(coefficients: NDArray[np.int32]) -> tuple[NDArray[np.int32], ...]:
    """Y's, U's and V's of 96."""
    return coefficients[:64], coefficients[64:80], coefficients[80:]


@lru_cache
def _rotation_table(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`block_rotations` as (rotations, 4) and (size, 2) sources and signs."""
    rotations, sources, signs = block_rotations(size)
    return np.array(rotations, np.int64), np.ascontiguousarray(np.stack([sources, signs], axis=1), np.int64)


@lru_cache
def _kernels() -> Any:
    """The compiled kernels, or None where numba is not installed (training needs no more than PyTorch)."""
    try:
        from codec import lifting_kernels
    except ImportError:
        return None
    return lifting_kernels


def float_transform(luma: Tensor, chroma: Tensor) -> Tensor:
    """The same transform as matrix products, for training: (B, H, W) and (B, 2, H/2, W/2) → (B, 96, H/8, W/8)."""
    batch, height, width = luma.shape
    d8 = torch.as_tensor(dct_matrix(8), dtype=luma.dtype, device=luma.device)
    d4 = torch.as_tensor(dct_matrix(4), dtype=luma.dtype, device=luma.device)
    y = torch.einsum("ui,vj,bijhw->buvhw", d8, d8, split_blocks(luma, 8))
    c = torch.einsum("ui,vj,bpijhw->bpuvhw", d4, d4, split_blocks(chroma, 4))
    h, w = height // 8, width // 8
    return torch.cat([y.reshape(batch, 64, h, w), c.reshape(batch, 32, h, w)], dim=1)


def float_inverse(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `float_transform`."""
    batch, _, h, w = coefficients.shape
    d8 = torch.as_tensor(dct_matrix(8), dtype=coefficients.dtype, device=coefficients.device)
    d4 = torch.as_tensor(dct_matrix(4), dtype=coefficients.dtype, device=coefficients.device)
    y = torch.einsum("ui,vj,buvhw->bijhw", d8, d8, coefficients[:, :64].reshape(batch, 8, 8, h, w))
    c = torch.einsum("ui,vj,bpuvhw->bpijhw", d4, d4, coefficients[:, 64:].reshape(batch, 2, 4, 4, h, w))
    return join_blocks(y), join_blocks(c)
