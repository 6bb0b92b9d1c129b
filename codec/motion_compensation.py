"""Block motion compensation in exact arithmetic: quarter-pel luma, eighth-pel chroma, one vector an 8x8 luma block.

The interpolation filters are those of H.265 (8 taps luma, 4 taps chroma; ITU-T H.265, 8.5.3.3.3). All sums are whole
numbers below 2^24, so float32 carries them exactly and every device predicts the same samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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


def compensate_plane(reference: Tensor, vectors: Tensor, block: int, taps: tuple[tuple[int, ...], ...]) -> Tensor:
    """Predict one plane.

    reference: (N, H, W) float32 holding whole numbers 0..255, sides multiples of `block`.
    vectors: (N, 2, H/block, W/block) int64 (dy, dx) in 1/len(taps) of a sample.
    Returns (N, H, W) float32, whole numbers 0..255. Beyond its edges the reference repeats its border samples.
    """
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
    out = torch.floor((out + 2048) / 4096).clamp(0, 255)
    return out.permute(0, 1, 3, 2, 4).reshape(reference.shape)


def compensate(luma: Tensor, chroma: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Predict a frame: luma (N, H, W), chroma (N, 2, H/2, W/2) float32 whole numbers; vectors (N, 2, H/8, W/8)."""
    n, _, height, width = chroma.shape
    predicted = compensate_plane(luma, vectors, BLOCK, LUMA_TAPS)
    twice = vectors.repeat_interleave(2, dim=0)
    colour = compensate_plane(chroma.reshape(n * 2, height, width), twice, BLOCK // 2, CHROMA_TAPS)
    return predicted, colour.reshape(chroma.shape)
