"""The optimizer beside PyTorch's."""

from __future__ import annotations

import torch
from torch import nn

from trainers.adamw import AdamW


def test_it_moves_as_pytorchs_does_also_where_gradients_come_late_or_not_at_all() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    here, there = AdamW(ours, 0.1), torch.optim.AdamW(theirs, lr=1.0, weight_decay=0.1)
    for step in range(6):
        here.zero_grad()
        there.zero_grad()
        for index in range(2 if step >= 2 else 1):  # the second joins late, the third never does
            gradient = torch.randn_like(ours[index])
            ours[index].grad, theirs[index].grad = gradient, gradient.clone()
        rate = 0.01 * (step + 1)
        there.param_groups[0]["lr"] = rate
        here.step(rate)
        there.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    assert ours[2] not in here.state and float(here.state[ours[1]]["step"]) == 4
