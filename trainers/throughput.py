"""What a rank went through since the last log: clips, pixels, QPs, and the time it waited for data."""

from __future__ import annotations

import time

import torch
import torch.distributed
from torch import Tensor

from codec.api import QP_COUNT

QP_CLASS = 8  # neighbouring QPs that the histogram counts as one
QP_CLASSES = tuple(f"{low:02d}-{low + QP_CLASS - 1:02d}" for low in range(0, QP_COUNT, QP_CLASS))
TIMINGS = ("data_wait_seconds", "clips_per_second", "megapixels_per_second")  # these differ from run to run


class Throughput:
    """Counts on the CPU, so that no step waits for a GPU. `device` is where ranks add up."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset()

    def _reset(self) -> None:
        # Seconds waited, batches, luma pixels, then samples of each class of QPs.
        self._sums = torch.zeros(3 + len(QP_CLASSES), dtype=torch.float64)
        self._since = time.perf_counter()

    def add(self, luma: Tensor, qp: Tensor, waited: float) -> None:
        """One batch (B, T, 1, H, W), with QPs (B,) on the CPU, that came after `waited` seconds."""
        self._sums[:3] += torch.tensor([waited, 1.0, luma.numel()], dtype=torch.float64)
        self._sums[3:] += torch.bincount(qp // QP_CLASS, minlength=len(QP_CLASSES))

    def close(self, world: int) -> dict[str, float]:
        """Figures over all ranks, and start anew: seconds waited a batch (mean of ranks), clips and megapixels a second
        (of all ranks together), and which share of the samples had QPs of each class."""
        elapsed = time.perf_counter() - self._since
        sums = self._sums
        if world > 1:
            sums = sums.to(self._device)
            torch.distributed.all_reduce(sums)
        waited, batches, pixels, *samples = sums.tolist()
        self._reset()
        if not batches:
            return {}
        figures = {
            "data_wait_seconds": waited / batches,
            "clips_per_second": sum(samples) / elapsed,
            "megapixels_per_second": pixels / 1e6 / elapsed,
        }
        return figures | {f"qp_share/{k}": v / sum(samples) for k, v in zip(QP_CLASSES, samples, strict=True)}
