"""Averages for the curves: of figures over the steps since the last log, of weights over the whole training."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from codec.api import Codec
from trainers.objective import METRICS

# Figures that hang on the machine: a resumed run has all others bit for bit.
TIMES = ("seconds_per_step", "data_wait_share", "data_wait_seconds", "clips_per_second", "megapixels_per_second")


class Window:
    """Figures of the steps since the last log. The sums are the same on every rank, and part of a checkpoint."""

    def __init__(self, device: torch.device, sums: list[float]) -> None:
        self._empty = torch.zeros(len(METRICS) + 2, dtype=torch.float64, device=device)
        # Sums of METRICS, then the gradient norm, then the count of finite steps.
        self.sums = torch.tensor(sums, dtype=torch.float64, device=device) if sums else self._empty.clone()
        self._began()

    def _began(self) -> None:
        self.since, self.waited, self.clips, self.pixels, self.steps = time.perf_counter(), 0.0, 0, 0, 0

    def add(self, metrics: Tensor, norm: Tensor) -> None:
        """metrics: (8,) float32, averages over the whole batch; norm: scalar."""
        self.sums += torch.cat([metrics, norm.detach().view(1), torch.ones_like(metrics[:1])]).double()

    def spent(self, waited: float, clips: int, pixels: int) -> None:
        """A step over so many clips and luma pixels is over; `waited` seconds of it went by until they were there."""
        self.waited, self.steps = self.waited + waited, self.steps + 1
        self.clips, self.pixels = self.clips + clips, self.pixels + pixels

    def close(self) -> dict[str, float]:
        """Averages over the finite steps; figures that are not defined (NaN) are left out."""
        *sums, count = self.sums.tolist()
        elapsed = time.perf_counter() - self.since
        figures = {
            name: value / count
            for name, value in zip((*METRICS, "gradient_norm"), sums, strict=True)
            if count and np.isfinite(value)
        }
        if self.steps:
            figures["seconds_per_step"] = elapsed / self.steps
            figures["data_wait_share"] = self.waited / elapsed
            figures["data_wait_seconds"] = self.waited / self.steps
            figures["clips_per_second"] = self.clips / elapsed
            figures["megapixels_per_second"] = self.pixels / 1e6 / elapsed
        self.sums = self._empty.clone()
        self._began()
        return figures


class WeightAverage:
    """A moving average of a codec's parameters (EMA): young ones look back less far. Polyak averaging, as in
    https://doi.org/10.1137/0330046, with the warm-up that TensorFlow's ExponentialMovingAverage has."""

    def __init__(self, codec: Codec, decay: float, kept: dict[str, Tensor]) -> None:
        self.codec, self.decay = codec, decay
        self.weights = {
            name: kept[name].to(parameter.device) if name in kept else parameter.detach().clone()
            for name, parameter in codec.named_parameters()
        }

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take in the parameters after `step` finished steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now: list[Tensor] = [parameter for _, parameter in self.codec.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), now, 1 - decay)
