"""Threads for compiled kernels."""

from __future__ import annotations

from threading import Barrier

import pytest
import torch

from codec.motion_search import search_motion
from codec.threads import SMALL, alone_if_small, side_by_side


class Picture:
    def __init__(self, h: int, w: int) -> None:
        self.h, self.w = h, w


@pytest.fixture
def threads(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_results_come_in_order_and_errors_come_out(threads: int) -> None:
    with side_by_side() as found:
        assert found.count == threads
        assert found.map(lambda x: 2 * x, range(7)) == list(range(0, 14, 2))
        with pytest.raises(ZeroDivisionError):
            found.map(lambda x: 1 // x, [3, 2, 0, 1])


@pytest.mark.parametrize("threads", [3], indirect=True)
def test_as_many_calls_as_threads_may_wait_for_each_other(threads: int) -> None:
    met = Barrier(3, timeout=30)
    with side_by_side() as found:
        found.map(lambda _: met.wait(), range(3))


@pytest.mark.parametrize("threads", [3], indirect=True)
def test_operators_take_one_thread_for_a_small_picture_only(threads: int) -> None:
    @alone_if_small
    def inside(state: Picture) -> tuple[int, int]:
        with side_by_side() as found:
            return torch.get_num_threads(), found.count

    assert inside(Picture(30, 52)) == (1, 3)
    assert inside(Picture(SMALL, 2)) == (3, 3)
    assert torch.get_num_threads() == 3


def test_motion_is_the_same_with_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(1)
    scene = torch.nn.functional.interpolate(torch.rand(1, 1, 12, 18, generator=generator) * 255, (96, 144))[0]
    frames = [(scene.roll((t, 2 * t), (1, 2)) + torch.rand(scene.shape, generator=generator)).round() for t in range(3)]
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(search_motion(frames[2], frames[1::-1], (1, 2), torch.tensor([3.0]), 16))
    torch.set_num_threads(before)
    assert all(torch.equal(each.blocks, found[0].blocks) for each in found[1:])
    assert len(found[0].blocks[0, 0].unique()) > 1
