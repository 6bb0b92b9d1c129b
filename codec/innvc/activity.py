"""Steps that follow the picture: busy places are quantized more coarsely, flat ones more finely, as structural
similarity weighs errors.

SSIM's contrast term divides an error by about the local variance (Wang et al. 2004, eq. 13), so at equal slope a
block's step grows with a power of its variance. The variance is that of the prediction, which the decoder has: no side
information. Intra frames do the same by the blocks next to each one (`codec.intra.frame_kernels`). All of it is whole
numbers.
"""

from __future__ import annotations

from bisect import bisect_left

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.exact.kept import kept
from codec.inter.quantization import LOSSLESS_QP

STRENGTH_UNIT = 16  # a strength of 16 lets the step grow with the standard deviation
_BLOCK = 8
_AROUND = 3  # blocks a side of the window that the variance is taken over
_QUARTERS = 64  # of octaves of variance that are told apart
_USUAL = 4 * 7  # quarter octaves: the variance, 2^7, at which the step stays as it is
_FLOOR = 4  # added to variances: noise that nothing shows of
_MOST = 12  # QPs either way


def block_qps(luma: Tensor, qp: Tensor, strength: int) -> Tensor:
    """QP of each 8x8 block: luma (B, H, W) whole samples of the prediction, qp (B,) of the frame → (B, h, w) int64."""
    size = _BLOCK
    batch, height, width = luma.shape
    whole = luma.long().view(batch, height // size, size, width // size, size)
    sums, squares = (_window(part.sum((2, 4))) for part in (whole, whole * whole))
    count = (size * _AROUND) ** 2
    variance = torch.div(count * squares - sums * sums, count * count, rounding_mode="floor") + _FLOOR
    quarters = torch.bucketize(variance, _octaves(luma.device), right=True)
    # Four and a half QPs are an octave of variance, for nine are one of the step.
    offset = torch.div((quarters - _USUAL) * 9 * strength, 8 * STRENGTH_UNIT, rounding_mode="floor")
    return (qp.view(-1, 1, 1) - offset.clamp(-_MOST, _MOST)).clamp(0, LOSSLESS_QP - 1)


def _window(blocks: Tensor) -> Tensor:
    """Sums over 3x3 blocks, borders repeated: (B, h, w) int64 → the same."""
    grown = F.pad(blocks.double()[:, None], (1, 1, 1, 1), mode="replicate")[:, 0].long()
    rows = grown[:, :-2] + grown[:, 1:-1] + grown[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]


@kept(4)
def _octaves(device: torch.device) -> Tensor:
    """The least variance of each quarter octave, int64: n with n^4 >= 2^k, found in whole numbers."""
    fourth = [n**4 for n in range(1 << (_QUARTERS // 4))]
    return torch.tensor([bisect_left(fourth, 1 << k) for k in range(1, _QUARTERS)], device=device)
