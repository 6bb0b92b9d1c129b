"""DCVC-FM base's motion estimation on frames moved by a flow that is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.api import TrainingConditions
from codec.dcvc_fm_base.model import DCVCFMBase
from codec.dcvc_fm_base.motion_pass import end_point_error
from codec.dcvc_fm_base.moved_frames import DRAWS, MovedFrames, moved_frames
from codec.dcvc_fm_base.pictures import network_frame
from codec.dcvc_fm_base.warping import resized_flow, warp
from codec.draws import ClipDraws, draws_from
from tests.codec.test_dcvc_fm_base import make_codec, make_frames
from tests.codec.test_dcvc_fm_base_training import clip_of

MOTION = TrainingConditions(motion_only=True)


def textures(count: int, side: int = 64) -> tuple[Tensor, Tensor]:
    """One-frame clips with detail of every size, from 4 pixels up."""
    generator, planes = torch.Generator().manual_seed(2), torch.zeros(count, 3, side, side)
    for cells in (4, 8, 16):
        noise = torch.rand((count, 3, cells, cells), generator=generator)
        planes += 85 * F.interpolate(noise, (side, side), mode="bilinear")
    whole = planes.to(torch.uint8)
    return whole[:, None, :1], whole[:, None, 1:, ::2, ::2].contiguous()


def pairs_of(count: int) -> MovedFrames:
    luma, chroma = textures(count)
    return moved_frames(network_frame(luma[:, 0], chroma[:, 0]), ClipDraws(range(count)).draw(DRAWS), 3)


def test_the_flow_says_where_each_pixel_was() -> None:
    """Along it the earlier frame becomes the later one, but for brightness and noise; without it, it does not."""
    pairs = pairs_of(12)
    along = ((warp(pairs.before, pairs.flow) - pairs.now).abs() * pairs.known).flatten(1).mean(1)
    unmoved = ((pairs.before - pairs.now).abs() * pairs.known).flatten(1).mean(1)
    assert float(along.max()) < 0.03 < float(unmoved.median())
    assert float(pairs.known.mean()) > 0.7
    lengths = pairs.flow.square().sum(1).sqrt().flatten(1).mean(1)
    assert float(lengths.min()) < 1.5 and 3 < float(lengths.max()) < 20  # small motion and large


def test_some_things_go_their_own_way() -> None:
    """Neighbours whose motion differs by more than a pixel are somebody's outline; most neighbours go together."""
    flow = pairs_of(12).flow
    steps = torch.cat([flow.diff(dim=2).abs().flatten(2), flow.diff(dim=3).abs().flatten(2)], dim=2).amax(dim=1)
    edges = (steps > 1).float().mean(dim=1)
    assert int((edges > 0).sum()) >= 3 and float(edges.max()) < 0.2


def test_the_true_flow_has_no_error_at_any_scale() -> None:
    pairs = pairs_of(3)
    for scale in (1, 2, 4):
        smaller = resized_flow(pairs.flow, (64 // scale, 64 // scale))
        assert float(end_point_error(smaller, pairs).max()) < (1e-3 if scale == 1 else 1.0)
        assert torch.allclose(end_point_error(smaller + 3 / scale, pairs), torch.tensor(4.24), atol=0.7)


def test_places_that_came_from_outside_do_not_count() -> None:
    pairs = pairs_of(4)
    wrong = pairs.flow + 50 * (1 - pairs.known)
    assert torch.equal(end_point_error(wrong, pairs), end_point_error(pairs.flow, pairs))


def motion_errors(codec: DCVCFMBase, seeds: list[int]) -> Tensor:
    with torch.no_grad(), draws_from(seeds, 9):
        luma, chroma = clip_of(make_frames(2, 64, 48), len(seeds))
        found = codec(luma, chroma, torch.zeros(len(seeds), dtype=torch.int64), MOTION)
    assert (
        found.bits.shape == found.sse.shape == (len(seeds), 2) and not found.bits.any() and not found.field_bits.any()
    )
    assert found.luma.shape == luma.shape and found.chroma.shape == chroma.shape
    assert found.motion_error is not None
    return found.motion_error


def test_motion_belongs_to_clips_however_they_are_dealt_out() -> None:
    codec = make_codec().train()
    assert isinstance(codec, DCVCFMBase)
    whole = motion_errors(codec, [5, 6, 7])
    assert len(set(whole.tolist())) == 3
    assert motion_errors(codec, [7]).tolist() == pytest.approx(whole[2:].tolist(), rel=1e-5)


def test_the_network_learns_the_motion_and_nothing_else_does() -> None:
    torch.manual_seed(3)
    codec = make_codec(flow_width=32, flow_scales=3).train()
    luma, chroma = textures(2)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-3, weight_decay=0.0)
    found = []
    for _ in range(45):
        with draws_from([0, 1], 9):  # the same pairs over and over
            error = codec(luma, chroma, torch.zeros(2, dtype=torch.int64), MOTION).motion_error.mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        found.append(error.item())
    print("\npixels", " ".join(f"{value:.2f}" for value in found))
    assert max(found[-8:]) < 0.7 * min(found[:4])
    others = [name for name, p in codec.named_parameters() if p.grad is not None and "estimation" not in name]
    assert not others
