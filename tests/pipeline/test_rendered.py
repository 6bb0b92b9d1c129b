"""Rendered demo videos: the same ones each time, and with motion and noise in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.frames import frames_digest
from pipeline.decoders import open_video
from pipeline.rendered import render_demo_videos


def test_rendered_videos_are_the_same_each_time(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        paths = render_demo_videos(tmp_path / name, 2, 4, (96, 64))
        for path in paths:
            with open_video(path) as source:
                digests.append(frames_digest(source))
                assert (source.format.width, source.format.height, source.format.matrix) == (96, 64, "bt709")
    assert digests[:2] == digests[2:]
    assert digests[0] != digests[1]
    (other,) = render_demo_videos(tmp_path / "three", 1, 4, (96, 64), seed=1)
    with open_video(other) as source:
        assert frames_digest(source) not in digests


def test_rendered_files_are_the_same_each_time(tmp_path: Path) -> None:
    """Byte for byte, so that the split by checksum, and with it the demo's training, is the same too."""
    first, second = (render_demo_videos(tmp_path / name, 1, 2, (64, 48))[0].read_bytes() for name in "ab")
    assert first == second


def test_rendered_videos_move(tmp_path: Path) -> None:
    (path,) = render_demo_videos(tmp_path, 1, 10, (96, 64))
    with open_video(path) as source:
        frames = [frame.y.astype(int) for frame in source]
    assert len(frames) == 10
    assert np.abs(frames[1] - frames[0]).mean() > 1
    assert np.abs(frames[9] - frames[0]).mean() > 2 * np.abs(frames[1] - frames[0]).mean()


def test_senseless_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        render_demo_videos(tmp_path, 0, 4)
