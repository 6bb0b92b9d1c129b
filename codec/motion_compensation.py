"""Block motion compensation in exact arithmetic: quarter-pel luma, eighth-pel chroma, one vector an 8x8 luma block.

The interpolation filters are those of H.265 (8 taps luma, 4 taps chroma; ITU-T H.265, 8.5.3.3.3). Overlapped
compensation (Orchard and Sullivan 1994; H.263, annex F) mixes each sample's prediction by the own vector with those by
the vectors of the blocks nearest to it, in eighths. All sums are whole numbers below 2^24, so float32 carries them
exactly and every device predicts the same samples. On CPUs compiled kernels do the same where numba is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Planes = tuple[Tensor, Tensor]  # luma (N, H, W), chroma (N, 2, H/2, W/2)
BLOCK = 8  # luma samples a side of the block that one vector moves
LUMA_TAPS = (
    (0, 0, 0, 64, 0, 0, 0, 0),
    (-1, 4, -10, 58, 17, -5, 1, 0),
    (-1, 4, -11, 40, 40, -11, 4, -1),
    (0, 1, -5, 17, 58, -10, 4, -1),
)
CHROMA_TAPS = (
    (0, 64, 0, 0),
    (-2, 58, 10, -2),
    (-4, 54, 16, -2),
    (-6, 46, 28, -4),
    (-4, 36, 36, -4),
    (-4, 28, 46, -6),
    (-2, 16, 54, -4),
    (-2, 10, 58, -2),
)


def gather_blocks(padded: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Square patches of a plane: padded (N, Hp, Wp), top/left (N, h, w) int64 → (N, h, w, size, size)."""
    n, height, width = padded.shape
    start = torch.arange(n, device=padded.device).view(n, 1, 1) * (height * width) + top * width + left
    inside = torch.arange(size, device=padded.device)
    return torch.take(padded, start[..., None, None] + (inside[:, None] * width + inside))


@lru_cache
def overlap_weights(block: int) -> NDArray[np.int64]:
    """Eighths of a sample's prediction, (5, block, block): by the vector of its own block, of the upper, the lower, the
    left and the right one. A neighbour counts in the half next to it, a quarter at the very edge."""
    edge = np.zeros((block, block), np.int64)
    edge[: block // 2] = 1
    edge[: block // 8 or 1] = 2
    if block > 4:
        edge[1, 2:-2] = 2
    sides = [edge, edge[::-1], edge.T, edge.T[:, ::-1]]
    return np.ascontiguousarray(np.stack([8 - sum(sides), *sides]))


def compensate_plane(
    references: Tensor, moves: Tensor, block: int, taps: tuple[tuple[int, ...], ...], overlapped: bool = False
) -> Tensor:
    """Predict one plane.

    references: (R, N, H, W) float32 holding whole numbers 0..255, sides multiples of `block`.
    moves: (N, 3, H/block, W/block) int64 (dy, dx) in 1/len(taps) of a sample, and the reference's number.
    overlapped: mix each block with what its four neighbours' vectors would predict, see `overlap_weights`.
    Returns (N, H, W) float32, whole numbers 0..255. Beyond its edges a reference repeats its border samples.
    """
    own = _moved_blocks(references, moves, block, taps)
    if overlapped:
        weights = torch.from_numpy(overlap_weights(block)).to(own)
        around = F.pad(moves.float(), (1, 1, 1, 1), mode="replicate").long()
        near = (around[:, :, :-2, 1:-1], around[:, :, 2:, 1:-1], around[:, :, 1:-1, :-2], around[:, :, 1:-1, 2:])
        total = own * weights[0]
        for weight, side in zip(weights[1:], near, strict=True):
            total = total + _moved_blocks(references, side, block, taps) * weight
        own = torch.floor((total + 4) / 8)
    return own.permute(0, 1, 3, 2, 4).reshape(references.shape[1:])


def _moved_blocks(references: Tensor, moves: Tensor, block: int, taps: tuple[tuple[int, ...], ...]) -> Tensor:
    """(N, h, w, block, block), each block moved by its own vector."""
    out = _blocks_of(references[0], moves[:, :2], block, taps)
    for number in range(1, len(references)):
        other = _blocks_of(references[number], moves[:, :2], block, taps)
        out = torch.where((moves[:, 2] == number)[..., None, None], other, out)
    return out


def _blocks_of(reference: Tensor, vectors: Tensor, block: int, taps: tuple[tuple[int, ...], ...]) -> Tensor:
    """(N, h, w, block, block), each block moved by its own vector."""
    _, height, width = reference.shape
    phases, count = len(taps), len(taps[0])
    before = count // 2 - 1
    pad = 2 * block + count  # a block pushed out this far sees border samples only, so vectors may be clamped there
    padded = F.pad(reference[:, None], (pad, pad, pad, pad), mode="replicate")[:, 0]
    whole = torch.div(vectors, phases, rounding_mode="floor")
    phase = vectors - whole * phases
    rows = torch.arange(0, height, block, device=reference.device).view(1, -1, 1)
    columns = torch.arange(0, width, block, device=reference.device).view(1, 1, -1)
    top = (rows + whole[:, 0]).clamp(-2 * block, height + block) + pad - before
    left = (columns + whole[:, 1]).clamp(-2 * block, width + block) + pad - before
    patch = gather_blocks(padded, top, left, block + count - 1)
    table = torch.tensor(taps, dtype=reference.dtype, device=reference.device)
    down, across = table[phase[:, 0]], table[phase[:, 1]]  # (N, h, w, taps)
    lines = sum(across[..., k, None, None] * patch[..., k : k + block] for k in range(count))
    assert isinstance(lines, Tensor)
    out = sum(down[..., k, None, None] * lines[..., k : k + block, :] for k in range(count))
    assert isinstance(out, Tensor)
    return torch.floor((out + 2048) / 4096).clamp(0, 255)


def compensate(references: Sequence[Planes], blocks: Tensor, overlapped: bool = False) -> Planes:
    """Predict a frame: references' luma (N, H, W) and chroma (N, 2, H/2, W/2) float32 whole numbers; blocks
    (N, 6, H/8, W/8), see `codec.motion.Motion`. Two hypotheses are averaged, halves rounded up.
    """
    n, _, height, width = references[0][1].shape
    luma = torch.stack([planes[0] for planes in references])
    chroma = torch.stack([planes[1].reshape(n * 2, height, width) for planes in references])
    twice = blocks.repeat_interleave(2, dim=0)
    predicted = _hypotheses(luma, blocks, BLOCK, LUMA_TAPS, overlapped)
    return predicted, _hypotheses(chroma, twice, BLOCK // 2, CHROMA_TAPS, overlapped).reshape(references[0][1].shape)


def _hypotheses(
    references: Tensor, blocks: Tensor, block: int, taps: tuple[tuple[int, ...], ...], overlapped: bool
) -> Tensor:
    move = _compiled_plane if references.device.type == "cpu" and _kernels() is not None else compensate_plane
    first = move(references, blocks[:, :3], block, taps, overlapped)
    both = blocks[:, 5:] >= 0
    if not both.any():
        return first
    second = move(references, torch.where(both, blocks[:, 3:], blocks[:, :3]), block, taps, overlapped)
    return torch.floor((first + second + 1) / 2)


def _compiled_plane(
    references: Tensor, moves: Tensor, block: int, taps: tuple[tuple[int, ...], ...], overlapped: bool
) -> Tensor:
    """`compensate_plane` by the compiled kernel."""
    planes = np.ascontiguousarray(references.byte().transpose(0, 1).numpy())
    out = np.empty_like(planes[:, 0])
    table, weights = np.array(taps, np.int64), overlap_weights(block)
    for plane, move, result in zip(planes, np.ascontiguousarray(moves.numpy()), out, strict=True):
        _kernels().compensate_frame(plane, move, block, table, weights, overlapped, result)
    return torch.from_numpy(out).float()


@lru_cache
def _kernels() -> Any:
    """The compiled kernels, or None where numba is not installed (training needs no more than PyTorch)."""
    try:
        from codec import motion_compensation_kernels
    except ImportError:
        return None
    return motion_compensation_kernels
