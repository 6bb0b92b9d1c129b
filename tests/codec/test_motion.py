"""Motion: known shifts are found, prediction is whole numbers."""

from __future__ import annotations

import pytest
import torch

from codec.motion import LARGEST_VECTOR, NO_SECOND, Motion
from codec.motion_coding import estimate_motion_bits
from codec.motion_compensation import (
    LUMA_TAPS,
    compensate,
    compensate_all,
    compensate_plane,
    overlap_weights,
)
from codec.motion_search import QuarterPlanes, search_motion
from codec.motion_search_batched import search_batch


def _texture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(1, 1, height // 4, width // 4, generator=generator) * 255
    return torch.round(torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic").clamp(0, 255))[0]


@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-12, 9)])
def test_search_finds_a_whole_shift(shift: tuple[int, int]) -> None:
    scene = _texture(160, 192)
    dy, dx = shift
    reference = scene[:, 32:128, 32:160]
    current = scene[:, 32 + dy : 128 + dy, 32 + dx : 160 + dx]
    motion = search_motion(current, [reference], (1,), torch.tensor([1.0]), reach=16)
    inner = motion.blocks[0, :2, 2:-2, 2:-2]
    assert (inner[0] == 4 * dy).float().mean() > 0.95
    assert (inner[1] == 4 * dx).float().mean() > 0.95
    predicted, _ = compensate([(reference, torch.zeros(1, 2, 48, 64))], motion.blocks)
    assert torch.equal(predicted[0, 16:-16, 16:-16], current[0, 16:-16, 16:-16])


def test_prediction_is_whole_numbers_and_repeats_the_border() -> None:
    luma = _texture(32, 32)
    chroma = torch.stack([_texture(16, 16)[0], _texture(16, 16)[0]])[None]
    still = Motion.still(1, 32, 32)
    far = Motion.of_last(torch.full((1, 2, 4, 4), -4 * 1000 + 1, dtype=torch.int64), still.split)
    y, uv = compensate([(luma, chroma)], far.blocks)
    assert torch.equal(y, torch.full_like(y, float(luma[0, 0, 0])))
    assert torch.equal(uv, chroma[:, :, :1, :1].expand_as(uv))
    odd = Motion.of_last(torch.randint(-40, 40, (1, 2, 4, 4), generator=torch.Generator().manual_seed(1)), still.split)
    y, uv = compensate([(luma, chroma)], odd.blocks)
    assert torch.equal(y, torch.round(y))
    assert torch.equal(uv, torch.round(uv))


@pytest.mark.parametrize(
    ("height", "width", "references", "reach"), [(64, 96, 3, 900), (16, 16, 1, LARGEST_VECTOR), (32, 16, 5, 9)]
)
def test_compiled_compensation_is_the_tensors_own(height: int, width: int, references: int, reach: int) -> None:
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(3)

    def samples(*shape: int) -> torch.Tensor:
        """Black and white as often as all else."""
        return torch.randint(-255, 511, shape, generator=generator).clamp(0, 255).float()

    planes = [(samples(2, height, width), samples(2, 2, height // 2, width // 2)) for _ in range(references + 1)]
    frames, memory = planes[1:], planes[0]
    blocks = torch.randint(-reach, reach, (2, 6, height // 8, width // 8), generator=generator)
    blocks[0, :, :, : width // 16] = 5  # neighbours alike
    blocks[:, 2] %= references
    blocks[:, 5] = torch.randint(-1, references, blocks[:, 5].shape, generator=generator)
    blocks[1, 5, : height // 16] = NO_SECOND
    blocks[:, 3:5][(blocks[:, 5:] < 0).expand(-1, 2, -1, -1)] = 0
    changed = (memory, *frames[1:])
    expected = compensate(frames, blocks, overlapped=True), compensate(frames, blocks), compensate(changed, blocks)
    for given, wanted in zip(compensate_all(frames, memory, blocks), expected, strict=True):
        for plane, right in zip(given, wanted, strict=True):
            assert torch.equal(plane, right)
            assert torch.equal(right, torch.round(right))


def test_overlap_of_equal_vectors_changes_nothing() -> None:
    plane = _texture(48, 64)[None]
    moves = torch.full((1, 3, 6, 8), 6)
    moves[:, 2] = 0
    plain, mixed = (compensate_plane(plane, moves, 8, LUMA_TAPS, each) for each in (False, True))
    assert torch.equal(plain, mixed)
    assert (overlap_weights(8).sum(0) == 8).all()
    assert overlap_weights(8).min() >= 0


def test_search_without_compiled_code_finds_the_same_shift() -> None:
    scene = _texture(160, 192)
    reference, current = scene[:, 32:128, 32:160], scene[:, 35:131, 27:155]
    vectors, _ = search_batch(current, reference, torch.tensor([1.0]), 16, None)
    inner = vectors[0, :, 2:-2, 2:-2]
    assert (inner[0] == 12).float().mean() > 0.95
    assert (inner[1] == -20).float().mean() > 0.95


def test_coarser_steps_spend_less_on_vectors() -> None:
    generator = torch.Generator().manual_seed(9)
    reference = _texture(96, 128)
    current = (reference.roll((1, 2), (1, 2)) + torch.randn(1, 96, 128, generator=generator) * 6).clamp(0, 255).round()
    bits = [
        float(estimate_motion_bits(search_motion(current, [reference], (1,), torch.tensor([step]), 16), (1,))[0])
        for step in (2.0, 16.0, 90.0)
    ]
    assert bits[0] > bits[1] > bits[2]


def test_what_was_hidden_is_found_in_an_older_frame() -> None:
    """And noise in both references is averaged away by a second hypothesis."""
    scene = _texture(96, 128)
    hidden = scene.clone()
    hidden[:, 32:64, 32:80] = 0
    motion = search_motion(scene, [hidden, scene], (1, 2), torch.tensor([4.0]), reach=16)
    assert (motion.blocks[0, 2, 4:8, 4:10] == 1).all()
    assert (motion.blocks[0, 2, :, 12:] == 0).all()
    generator = torch.Generator().manual_seed(2)
    noisy = [(scene + 8 * torch.randn(scene.shape, generator=generator)).round().clamp(0, 255) for _ in range(2)]
    motion = search_motion(scene, noisy, (1, 2), torch.tensor([4.0]), reach=16)
    assert (motion.blocks[0, 5] >= 0).float().mean() > 0.5


def test_vectors_of_other_distances_are_scaled() -> None:
    motion = Motion.still(1, 32, 32)
    motion.blocks[0, :, 0, 0] = torch.tensor([10, -7, 1, 0, 0, NO_SECOND])
    assert motion.vectors((1, 4))[0, :, 0, 0].tolist() == [3, -2]
    assert motion.vectors((1, 1))[0, :, 0, 0].tolist() == [10, -7]


def test_planes_kept_from_call_to_call_are_the_same() -> None:
    frames = [_texture(48, 64).roll(shift, 2) for shift in (0, 1, 2, 3)]
    kept = QuarterPlanes()
    for t in range(1, 4):
        references, distances = frames[:t][::-1], tuple(range(1, t + 1))
        found = [
            search_motion(frames[t], references, distances, torch.tensor([2.0]), 16, kept=planes)
            for planes in (kept, None)
        ]
        assert torch.equal(found[0].blocks, found[1].blocks)
    assert len(kept.planes) == 3
