"""The motion search without compiled code: for GPUs, and where numba is not there. Whole batches at a time.

16x16 blocks that may split into four 8x8, quarter-pel, by sums of absolute differences plus vector bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.motion_compensation import BLOCK, LUMA_TAPS

_PAD = 3 * BLOCK
_NEIGHBOURS = 1  # rounds of trying the vectors next door


def search_batch(
    current: Tensor, reference: Tensor, weight: Tensor, reach: int, previous: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Vectors (N, 2, H/8, W/8) int64 and split (N, H/16, W/16) bool; see `motion_search.search_motion`.

    weight: (N,) SAD that one bit is worth.
    """
    n = len(current)
    matcher = _Matcher(current, reference)
    price = weight.view(n, 1, 1)
    large = _coarse(current, reference, reach)
    cost = matcher.cost16(large)
    best = _Best(large, cost + price * _vector_bits(large, _predict(large)))
    candidates = [torch.zeros_like(large)]
    if previous is not None:
        candidates.append(previous[:, :, ::2, ::2])
    for candidate in candidates:
        best.offer(candidate, matcher.cost16(candidate) + price * _vector_bits(candidate, _predict(best.vectors)))
    for _ in range(_NEIGHBOURS):
        _try_neighbours(best, matcher, price)
    for step in (8, 4, 2, 1):  # two samples, one, a half, a quarter
        _refine(best, matcher.cost16, price, step)
    _try_neighbours(best, matcher, price)

    parent = best.vectors.repeat_interleave(2, 2).repeat_interleave(2, 3)
    small = _Best(parent, matcher.cost8(parent) + price)
    for step in (4, 2, 1):
        _refine(small, matcher.cost8, price, step, parent)
    together = F.avg_pool2d(small.cost[:, None], 2)[:, 0] * 4 + price * 2
    split = together < best.cost
    wide = split.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return torch.where(wide[:, None], small.vectors, parent), split


class _Best:
    """The cheapest vectors so far, block by block."""

    def __init__(self, vectors: Tensor, cost: Tensor) -> None:
        self.vectors, self.cost = vectors, cost

    def offer(self, vectors: Tensor, cost: Tensor) -> None:
        better = cost < self.cost
        self.vectors = torch.where(better[:, None], vectors, self.vectors)
        self.cost = torch.where(better, cost, self.cost)


class _Matcher:
    """Sums of absolute differences for any vectors, from the reference interpolated at all 16 quarter positions."""

    def __init__(self, current: Tensor, reference: Tensor) -> None:
        n, self.height, self.width = current.shape
        h, w = self.height // BLOCK, self.width // BLOCK
        self.blocks = current.view(n, h, BLOCK, w, BLOCK).permute(0, 1, 3, 2, 4)
        taps = torch.tensor(LUMA_TAPS, dtype=reference.dtype, device=reference.device) / 64
        padded = F.pad(reference[:, None], (_PAD + 3, _PAD + 4, _PAD + 3, _PAD + 4), mode="replicate")
        across = F.conv2d(padded, taps.view(4, 1, 1, 8))
        planes = F.conv2d(across.reshape(n * 4, 1, *across.shape[2:]), taps.view(4, 1, 8, 1))
        self.planes = planes.reshape(n * 16, *planes.shape[2:])  # plane (n, x phase, y phase)
        self.first = torch.arange(n, device=current.device).view(n, 1, 1) * 16 * planes.shape[2] * planes.shape[3]
        self.rows = torch.arange(h, device=current.device).view(1, -1, 1) * BLOCK
        self.columns = torch.arange(w, device=current.device).view(1, 1, -1) * BLOCK

    def cost8(self, vectors: Tensor) -> Tensor:
        """(N, 2, H/8, W/8) vectors → (N, H/8, W/8) SAD."""
        whole = vectors >> 2
        phase = (vectors[:, 1] & 3) * 4 + (vectors[:, 0] & 3)
        top = (self.rows + whole[:, 0]).clamp(-2 * BLOCK, self.height + BLOCK) + _PAD
        left = (self.columns + whole[:, 1]).clamp(-2 * BLOCK, self.width + BLOCK) + _PAD
        _, height, width = self.planes.shape
        start = self.first + (phase * height + top) * width + left
        inside = torch.arange(BLOCK, device=vectors.device)
        predicted = torch.take(self.planes, start[..., None, None] + (inside[:, None] * width + inside))
        return (predicted - self.blocks).abs().sum((-1, -2))

    def cost16(self, vectors: Tensor) -> Tensor:
        """(N, 2, H/16, W/16) vectors → (N, H/16, W/16) SAD."""
        cost = self.cost8(vectors.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return F.avg_pool2d(cost[:, None], 2)[:, 0] * 4


def _coarse(current: Tensor, reference: Tensor, reach: int) -> Tensor:
    """Whole search over ±reach at a quarter of the size; (N, 2, H/16, W/16) in quarter samples."""
    small = F.avg_pool2d(current[:, None], 4)
    r = reach // 4
    wide = F.pad(F.avg_pool2d(reference[:, None], 4), (r, r, r, r), mode="replicate")
    h, w = small.shape[2:]
    best: Tensor | None = None
    vectors = torch.zeros(current.shape[0], 2, h // 4, w // 4, dtype=torch.int64, device=current.device)
    for dy in range(-r, r + 1):
        across = torch.cat([wide[:, :, r + dy : r + dy + h, r + dx : r + dx + w] for dx in range(-r, r + 1)], dim=1)
        # A window wider than the block itself steadies the choice; the tie goes to the shorter vector.
        cost = F.avg_pool2d((across - small).abs(), 6, stride=4, padding=1)
        shift = torch.arange(-r, r + 1, device=current.device)
        cost = cost + 0.02 * (shift.abs() + abs(dy)).view(1, -1, 1, 1)
        value, index = cost.min(dim=1)
        better = torch.ones_like(value, dtype=torch.bool) if best is None else value < best
        best = value if best is None else torch.where(better, value, best)
        vectors[:, 0] = torch.where(better, dy * 16, vectors[:, 0])
        vectors[:, 1] = torch.where(better, (index - r) * 16, vectors[:, 1])
    return vectors


def _predict(vectors: Tensor) -> Tensor:
    """Median of left, upper and upper right neighbour, all at once: what coding will roughly predict from."""
    wide = F.pad(vectors, (1, 1, 1, 0))
    left, up, corner = wide[:, :, 1:, :-2], wide[:, :, :-1, 1:-1], wide[:, :, :-1, 2:]
    return torch.stack([left, up, corner]).median(dim=0).values


def _vector_bits(vectors: Tensor, predicted: Tensor) -> Tensor:
    difference = (vectors - predicted).abs().float()
    # A vector as predicted is one cheap flag; any other takes a dear flag and two numbers.
    return torch.where(difference.sum(1) > 0, 3 + (1 + 2 * torch.log2(1 + difference)).sum(1), 0.5)


def _refine(best: _Best, matching: object, price: Tensor, step: int, predicted: Tensor | None = None) -> None:
    centre = best.vectors
    towards = _predict(centre) if predicted is None else predicted
    for dy in (-step, 0, step):
        for dx in (-step, 0, step):
            if dy or dx:
                shift = torch.tensor([dy, dx], device=centre.device).view(1, 2, 1, 1)
                moved = centre + shift
                best.offer(moved, matching(moved) + price * _vector_bits(moved, towards))  # type: ignore[operator]


def _try_neighbours(best: _Best, matcher: _Matcher, price: Tensor) -> None:
    around = F.pad(best.vectors.float(), (1, 1, 1, 1), mode="replicate").long()
    towards = _predict(best.vectors)
    best.cost = matcher.cost16(best.vectors) + price * _vector_bits(best.vectors, towards)
    for candidate in (
        towards,
        around[:, :, 1:-1, :-2],
        around[:, :, 1:-1, 2:],
        around[:, :, :-2, 1:-1],
        around[:, :, 2:, 1:-1],
    ):
        best.offer(candidate, matcher.cost16(candidate) + price * _vector_bits(candidate, towards))
