"""A frame's motion: for each block which earlier frame it comes from, by which vector, and perhaps a second such pair.

A block with two *hypotheses* is predicted from their mean. Vectors count over their own distance in time; vectors of
different distances are compared after scaling (`scaled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_REFERENCES = 5
LARGEST_VECTOR = 1 << 14  # quarter samples; beyond it a stream is not sound
NO_SECOND = -1


@dataclass(frozen=True)
class Motion:
    """blocks: (N, 6, H/8, W/8) int64, of each 8x8 luma block dy, dx in quarter samples and the reference, 0 the last
    frame; then the same of the second hypothesis, zeros and reference −1 where there is none. split: (N, H/16, W/16)
    bool, where the four 8x8 blocks of a 16x16 block differ in their own right."""

    blocks: Tensor
    split: Tensor

    @staticmethod
    def of_last(vectors: Tensor, split: Tensor) -> Motion:
        """All from the last frame: vectors (N, 2, H/8, W/8) int64."""
        none = torch.zeros_like(vectors[:, :1])
        return Motion(torch.cat([vectors, none, none, none, none + NO_SECOND], dim=1), split)

    @staticmethod
    def still(batch: int, height: int, width: int) -> Motion:
        """Nothing moves, in pictures of height x width luma samples."""
        vectors = torch.zeros(batch, 2, height // 8, width // 8, dtype=torch.int64)
        return Motion.of_last(vectors, torch.zeros(batch, height // 16, width // 16, dtype=torch.bool))

    def to(self, device: torch.device) -> Motion:
        return Motion(self.blocks.to(device), self.split.to(device))

    def vectors(self, distances: Sequence[int]) -> Tensor:
        """First hypotheses over the distance of one frame, (N, 2, H/8, W/8) int64. distances: frames, by reference."""
        if len(distances) == 1:
            return self.blocks[:, :2]
        of = torch.tensor(distances, device=self.blocks.device)[self.blocks[:, 2:3]]
        over = torch.div(2 * self.blocks[:, :2] + of, 2 * of, rounding_mode="floor")
        return torch.where(of == 1, self.blocks[:, :2], over)
