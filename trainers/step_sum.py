"""Gradients and figures of a step, summed over all workers in one fixed order.

One flat buffer and one all-reduce a step: PyTorch's DistributedDataParallel packs gradients into buckets that it packs
anew after the first step of each process, so its sums, and a loss curve, change with where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor, nn

from trainers.step_requests import Request


class StepSum:
    """Sums what each rank has of a step. The buffer: gradients, which of them are there, figures, requests."""

    def __init__(self, parameters: Sequence[nn.Parameter], figures: int, world: int) -> None:
        self.parameters, self.figures, self.world = parameters, figures, world
        if world == 1:
            return
        sizes = [parameter.numel() for parameter in parameters]
        length = sum(sizes) + len(parameters) + figures + 1 + len(Request)
        self._flat = torch.zeros(length, device=parameters[0].device)
        *gradients, self._there, self._figures, self._requests = self._flat.split(
            [*sizes, len(parameters), figures, 1 + len(Request)]
        )
        self._gradients = [g.view_as(p) for g, p in zip(gradients, parameters, strict=True)]

    def add_up(self, figures: Tensor, request: Request) -> tuple[Tensor, Request]:
        """Replace each `.grad` by its sum over the ranks, and give the sum of the figures and the greatest request.

        figures: (figures,) float32. A parameter without a gradient on every rank keeps none, so an optimizer leaves it
        alone. Every rank gets the same bits.
        """
        if self.world == 1:
            return figures, request
        given = [parameter.grad is not None for parameter in self.parameters]
        for view, parameter in zip(self._gradients, self.parameters, strict=True):
            view.zero_() if parameter.grad is None else view.copy_(parameter.grad)
        self._requests.zero_()
        self._there.copy_(torch.tensor(given, dtype=torch.float32))
        self._figures.copy_(figures)
        self._requests[int(request)] = 1.0
        torch.distributed.all_reduce(self._flat)
        there, requests = torch.cat([self._there, self._requests]).split([len(given), len(self._requests)])
        for parameter, view, count in zip(self.parameters, self._gradients, there.tolist(), strict=True):
            parameter.grad = view if count else None
        wanted = max((r for r, count in zip(Request, requests.tolist(), strict=False) if count), default=request)
        return self._figures.clone(), wanted


def same_everywhere(codec: nn.Module, world: int) -> None:
    """Give every rank the weights of rank 0: processors of several kinds need not agree on the bits of fresh ones."""
    if world > 1:
        for tensor in codec.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
