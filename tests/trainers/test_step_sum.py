"""Sums over real processes (gloo): the mean of the whole batch, however it is dealt out; None stays None."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing as multiprocessing
from torch import nn

from trainers.step_requests import Request
from trainers.step_sum import StepSum


def one_rank(rank: int, world: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    used, of_one_rank, unused = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    used.grad = torch.tensor([1.0, 10.0, 100.0]) * (rank + 1)
    if rank == 1:
        of_one_rank.grad = torch.full((3,), 7.0)
    total = StepSum([used, of_one_rank, unused], 2, world)
    asked = Request.CHECKPOINT if rank == 2 else Request.NOTHING
    figures, request = total.add_up(torch.tensor([float(rank), float("nan")]), asked)
    again = total.add_up(torch.zeros(2), Request.STOP if rank == 1 else asked)[1]
    torch.save([used.grad, of_one_rank.grad, unused.grad, figures, request, again], Path(folder) / str(rank))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_ranks_get_the_same_sums_and_the_greatest_request(tmp_path: Path) -> None:
    world = 3
    multiprocessing.spawn(one_rank, (world, str(tmp_path)), nprocs=world)
    for rank in range(world):
        first, second, third, figures, request, again = torch.load(tmp_path / str(rank), weights_only=False)
        assert third is None
        # The second sum began from the first one's results: three times as much.
        assert torch.equal(first, 3 * torch.tensor([6.0, 60.0, 600.0]))
        assert torch.equal(second, torch.full((3,), 21.0))
        assert float(figures[0]) == 3 and figures[1].isnan()
        assert (request, again) == (Request.CHECKPOINT, Request.STOP)


def test_one_worker_needs_no_buffer() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    figures, request = StepSum([parameter], 1, 1).add_up(torch.ones(1), Request.STOP)
    assert torch.equal(parameter.grad, torch.ones(2)) and float(figures) == 1 and request == Request.STOP
