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


def compensate_all(references: Sequence[Planes], memory: Planes, blocks: Tensor) -> tuple[Planes, Planes, Planes]:
    """A frame's overlapped and plain prediction, and the plain one with `memory` in the first reference's place; see
    `compensate`."""
    if blocks.device.type == "cpu" and _kernels() is not None:
        return _compiled(references, memory, blocks)
    changed = (memory, *references[1:])
    return compensate(references, blocks, overlapped=True), compensate(references, blocks), compensate(changed, blocks)


def _hypotheses(
    references: Tensor, blocks: Tensor, block: int, taps: tuple[tuple[int, ...], ...], overlapped: bool
) -> Tensor:
    first = compensate_plane(references, blocks[:, :3], block, taps, overlapped)
    both = blocks[:, 5:] >= 0
    if not both.any():
        return first
    second = compensate_plane(references, torch.where(both, blocks[:, 3:], blocks[:, :3]), block, taps, overlapped)
    return torch.floor((first + second + 1) / 2)


def _compiled(references: Sequence[Planes], memory: Planes, blocks: Tensor) -> tuple[Planes, Planes, Planes]:
    """`compensate_all` by the compiled kernel."""
    n, _, height, width = memory[1].shape
    luma = np.empty((n, 3, 2 * height, 2 * width), np.float32)
    chroma = np.empty((n, 2, 3, height, width), np.float32)
    given = np.ascontiguousarray(blocks.numpy())
    for i in range(n):
        planes = [(pair[0][i], *pair[1][i]) for pair in (*references, memory)]
        for k, out in enumerate((luma[i], *chroma[i])):
            block, taps = (BLOCK // 2, CHROMA_TAPS) if k else (BLOCK, LUMA_TAPS)
            grown = _grown([each[k] for each in planes], 2 * block + len(taps[0]))
            _kernels().predict_frame(grown, given[i], block, np.array(taps, np.int32), _long_weights(block), out)
    ways = [(torch.from_numpy(luma[:, way]), torch.from_numpy(chroma[:, :, way])) for way in range(3)]
    return ways[0], ways[1], ways[2]


@lru_cache
def _long_weights(block: int) -> NDArray[np.int32]:
    """`overlap_weights` as the kernel wants them: (5, n), rows twice as long, n a multiple of 64."""
    flat = np.pad(overlap_weights(block), ((0, 0), (0, 0), (0, block))).reshape(5, -1)
    return np.ascontiguousarray(np.pad(flat, ((0, 0), (0, -flat.shape[1] % 64))), np.int32)


def _grown(planes: Sequence[Tensor], border: int) -> NDArray[np.uint8]:
    """Planes (H, W) of whole numbers 0..255, with border samples repeated around them: (P, H + 2 border, W + 2 border).

    A block pushed out further than that sees border samples only, so vectors are clamped there.
    """
    height, width = planes[0].shape
    grown = np.empty((len(planes), height + 2 * border, width + 2 * border), np.uint8)
    for into, plane in zip(grown, planes, strict=True):
        into[border:-border, border:-border] = plane.numpy()
        into[border:-border, :border] = into[border:-border, border : border + 1]
        into[border:-border, -border:] = into[border:-border, -border - 1 : -border]
        into[:border], into[-border:] = into[border], into[-border - 1]
    return grown


@lru_cache
def _kernels() -> Any:
    """The compiled kernels, or None where numba is not installed (training needs no more than PyTorch)."""
    try:
        from codec import motion_compensation_kernels
    except ImportError:
        return None
    return motion_compensation_kernels
