"""Soft motion compensation follows the exact one, and carries gradients to the samples that were moved."""

from __future__ import annotations

import torch

from codec.inter.soft_motion import soft_compensation, with_gradient
from codec.motion import NO_SECOND
from codec.motion_compensation import Planes, compensate


def _smooth_frames() -> list[Planes]:
    rows, columns = torch.arange(64.0).view(-1, 1), torch.arange(80.0)
    luma = [(60 + rows + 0.5 * columns)[None] * scale for scale in (1.0, 0.8)]
    return [(torch.round(y), torch.round(torch.stack([y[:, ::2, ::2], y[:, 1::2, ::2]], dim=1))) for y in luma]


def _blocks() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(-30, 31, (1, 6, 8, 10), generator=generator)
    blocks[:, 2] = torch.randint(0, 2, (1, 8, 10), generator=generator)
    blocks[:, 5] = torch.randint(NO_SECOND, 2, (1, 8, 10), generator=generator)
    return blocks


def test_moves_as_the_exact_filters_do() -> None:
    frames, blocks = _smooth_frames(), _blocks()
    exact, soft = compensate(frames, blocks), soft_compensation(frames, blocks)
    for a, b in zip(exact, soft, strict=True):
        assert a.shape == b.shape
        inside = (a - b).abs()[..., 8:-8, 8:-8]  # the true filters ring where a border is repeated
        assert inside.max() <= 3 and inside.mean() < 0.5


def test_gradient_goes_to_the_samples_that_were_moved() -> None:
    frames = [(y.requires_grad_(), uv.requires_grad_()) for y, uv in _smooth_frames()]
    blocks = torch.zeros(1, 6, 8, 10, dtype=torch.int64)
    blocks[:, 5] = NO_SECOND
    blocks[0, :3, 4, 4] = torch.tensor([8, -12, 1])  # two down, three to the left, in the second frame
    luma, chroma = soft_compensation(frames, blocks)
    (luma[0, 32:40, 32:40].sum() + chroma[0, 1, 16:20, 16:20].sum()).backward()
    wanted = torch.zeros(64, 80)
    wanted[34:42, 29:37] = 1
    assert torch.equal(frames[1][0].grad[0], wanted)
    assert frames[1][1].grad[0, 1].sum() == 16 and not frames[1][1].grad[0, 0].any()
    assert not frames[0][0].grad.any()


def test_straight_through_has_the_exact_values() -> None:
    soft = torch.tensor([1.4, 2.6], requires_grad=True)
    out = with_gradient(torch.tensor([1.0, 3.0]), soft)
    assert torch.equal(out.detach(), torch.tensor([1.0, 3.0]))
    out.sum().backward()
    assert torch.equal(soft.grad, torch.ones(2))
