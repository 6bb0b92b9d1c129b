"""Shot cuts, and clips that never cross them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.errors import VideoError
from codec.frames import Frame
from pipeline.clips import Clip, ClipCutter, Geometry
from pipeline.decoders import open_video
from pipeline.shots import ShotCutDetector


def picture(shade: int, width: int = 64, height: int = 48) -> Frame:
    """A ramp that starts at `shade`, told apart by its first sample."""
    y = ((np.add.outer(np.arange(height), np.arange(width)) % 64) + shade).astype(np.uint8)
    half = (height + 1) // 2, (width + 1) // 2
    return Frame(y, np.full(half, shade, np.uint8), np.full(half, 255 - shade, np.uint8))


def cut(frames: list[Frame], clip_frames: int, geometry: Geometry, at_once: int = 1) -> list[Clip]:
    found: list[Clip] = []

    def keep(clip: Clip) -> None:
        found.append(Clip(clip.array.copy(), clip.first_frame, clip.motion, clip.sharpness))

    cutter = ClipCutter(geometry, clip_frames, False, keep)
    for first in range(0, len(frames), at_once):
        cutter.push(frames[first : first + at_once])
    cutter.finish()
    assert cutter.frames == len(frames)
    return found


def cuts_of(path: Path) -> list[int]:
    detector = ShotCutDetector()
    found: list[int] = []
    with open_video(path) as source:
        for frames in source.views():
            for frame in frames:
                detector.look(frame.y)
            found += detector.judge()
    return found + detector.finish()


def test_clips_do_not_cross_a_cut() -> None:
    frames = [picture(10)] * 7 + [picture(120)] * 9 + [picture(60)] * 2
    clips = cut(frames, 4, Geometry.of(64, 48, None, 1))
    # 7 frames give one clip of 4, 9 give two, and the shot of 2, shorter than a clip, is kept whole.
    assert [(clip.first_frame, len(clip.array)) for clip in clips] == [(0, 4), (7, 4), (11, 4), (16, 2)]
    assert [int(clip.array[0, 0, 0]) for clip in clips] == [10, 120, 120, 60]
    assert all((clip.array == clip.array[:1]).all() for clip in clips)
    assert all(clip.motion == 0 for clip in clips)


@pytest.mark.parametrize("clip_frames", [1, 3, 16, 40])
def test_clips_are_the_same_however_many_frames_come_at_once(clip_frames: int) -> None:
    rng = np.random.default_rng(1)
    frames = [picture(10 + 20 * (shot % 5) + int(rng.integers(4))) for shot in range(9) for _ in range(3 + 7 * shot)]
    one_by_one, *others = (cut(frames, clip_frames, Geometry.of(64, 48, None, 1), count) for count in (1, 7, 16, 50))
    assert len({clip.first_frame for clip in one_by_one}) > 8
    for clips in others:
        for clip, same in zip(clips, one_by_one, strict=True):
            assert np.array_equal(clip.array, same.array)
            assert (clip.first_frame, clip.motion) == (same.first_frame, same.motion)


def test_a_flash_is_no_cut() -> None:
    detector = ShotCutDetector()
    shades = [10] * 8 + [180] + [10] * 8
    for shade in shades:
        detector.look(picture(shade).y)
    assert detector.judge() + detector.finish() == []


def test_one_frame_gives_one_clip() -> None:
    clips = cut([picture(33, 35, 21)], 16, Geometry.of(35, 21, None, 1))
    assert len(clips) == 1
    assert clips[0].array.shape == (1, 33, 36)  # 36x22, padded by edge
    luma = clips[0].array[0, :22]
    assert np.array_equal(luma[:21, :35], picture(33, 35, 21).y)
    assert np.array_equal(luma[:, 35], luma[:, 34])
    assert np.array_equal(luma[21], luma[20])
    assert (clips[0].array[0, 22:].reshape(2, 11, 18) == np.array([33, 222])[:, None, None]).all()


def test_downscale_is_the_mean_of_the_area_and_crop_is_its_centre() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 256, (50, 70), dtype=np.uint8)
    u, v = (rng.integers(0, 256, (25, 35), dtype=np.uint8) for _ in range(2))
    geometry = Geometry.of(70, 50, (12, 8), 3)
    assert (geometry.width, geometry.height, geometry.x, geometry.y) == (12, 8, 4, 4)  # of 22x16
    array = cut([Frame(y, u, v)], 1, geometry)[0].array[0]
    for plane, stored, x, top in ((y, array[:8], 4, 4), (u, array[8:10].reshape(4, 6), 2, 2)):
        height, width = stored.shape
        part = plane[top * 3 : (top + height) * 3, x * 3 : (x + width) * 3].astype(float)
        mean = part.reshape(height, 3, width, 3).mean((1, 3))
        assert np.abs(stored - mean).max() <= 0.5 + 1e-6


def test_a_crop_larger_than_the_picture_keeps_the_side_whole() -> None:
    assert Geometry.of(64, 48, (256, 32), 1) == Geometry(64, 32, 0, 8, 1)
    with pytest.raises(VideoError, match="too small"):
        Geometry.of(6, 6, None, 4)


def test_known_cut_in_real_footage(real_clips: Path) -> None:
    assert cuts_of(real_clips / "nasa_13013.mp4") == [202]


@pytest.mark.parametrize("name", ["rollercoaster.mp4", "dogs_jump.mp4", "man_surfing.mp4", "car_turn.mp4"])
def test_fast_motion_is_no_cut(real_clips: Path, name: str) -> None:
    assert cuts_of(real_clips / name) == []
