"""What frames are predicted from: whole samples, an average that follows the motion, nothing for intra frames."""

from __future__ import annotations

import torch

from codec.inter.frame_motion import goes
from codec.inter.prediction import GUESSES, Planes, Prediction, Reference, predict, renew
from codec.motion import MOST_REFERENCES, Motion


def _planes(seed: int, height: int = 48, width: int = 64) -> Planes:
    generator = torch.Generator().manual_seed(seed)
    luma = torch.randint(0, 256, (1, height, width), generator=generator).float()
    return luma, torch.randint(0, 256, (1, 2, height // 2, width // 2), generator=generator).float()


def test_all_guesses_are_whole_samples() -> None:
    vectors = torch.randint(-40, 40, (1, 2, 6, 8), generator=torch.Generator().manual_seed(1))
    motion = Motion.of_last(vectors, torch.ones(1, 3, 4, dtype=torch.bool))
    prediction = predict(Reference((_planes(1),), (1,), _planes(2)), motion)
    assert len(prediction.guesses) == GUESSES
    for planes in (prediction.base, *prediction.guesses):
        for plane, like in zip(planes, _planes(1), strict=True):
            assert plane.shape == like.shape
            assert torch.equal(plane, torch.round(plane))
            assert plane.min() >= 0
            assert plane.max() <= 255


def test_without_motion_the_last_frame_and_the_memory_stay_where_they_are() -> None:
    last, memory = _planes(1), _planes(2)
    prediction = predict(Reference((last,), (1,), memory), Motion.still(1, 48, 64))
    assert torch.equal(prediction.base[0], last[0])
    assert torch.equal(prediction.guesses[0][1], last[1])
    assert torch.equal(prediction.guesses[1][0], memory[0])
    assert prediction.guesses[2][0].std() < 0.6 * last[0].std()


def test_memory_averages_noise_and_forgets_changes() -> None:
    generator = torch.Generator().manual_seed(4)
    scene = torch.full((1, 48, 64), 100.0), torch.full((1, 2, 24, 32), 120.0)
    still = Motion.still(1, 48, 64)
    step = torch.tensor([16])

    def noisy() -> Planes:
        luma, chroma = (torch.round(p + 3 * torch.randn(p.shape, generator=generator)) for p in scene)
        return luma, chroma

    reference = renew(None, Prediction.flat(scene), noisy(), step, 0)
    assert reference.memory is reference.last
    for _ in range(12):
        reference = renew(reference, predict(reference, still), noisy(), step, 0)
    noise_of = [float((planes[0] - 100).std()) for planes in (reference.last, reference.memory)]
    assert noise_of[1] < 0.75 * noise_of[0]
    changed = torch.full((1, 48, 64), 180.0), scene[1]
    reference = renew(reference, predict(reference, still), changed, step, 0)
    assert torch.equal(reference.memory[0], changed[0])


def test_frames_stay_until_they_make_room() -> None:
    frames = [_planes(seed) for seed in range(8)]
    step, still = torch.tensor([16]), Motion.still(1, 48, 64)
    reference = Reference.after_intra(frames[0])
    for frame, gone in zip(frames[1:6], (1, 0, 2, 3, 2), strict=True):
        reference = renew(reference, predict(reference, still), frame, step, gone)
    assert [next(i for i, f in enumerate(frames) if f is kept) for kept in reference.frames] == [5, 4, 3, 0]
    assert reference.distances == (1, 2, 3, 6)


def test_the_intra_frame_the_last_ones_and_every_fourth_stay() -> None:
    distances: tuple[int, ...] = (1,)
    for _ in range(30):
        stay = [distance + 1 for number, distance in enumerate(distances) if number != goes(distances)]
        distances = (1, *stay)
        assert len(distances) <= MOST_REFERENCES
    assert [31 - distance for distance in distances] == [30, 29, 28, 24, 0]


def test_two_hypotheses_are_averaged() -> None:
    reference = Reference((_planes(1), _planes(2)), (1, 2), _planes(3))
    motion = Motion.still(1, 48, 64)
    motion.blocks[:, 5] = 1
    base = predict(reference, motion).base
    for plane, one, two in zip(base, _planes(1), _planes(2), strict=True):
        assert torch.equal(plane, torch.floor((one + two + 1) / 2))
