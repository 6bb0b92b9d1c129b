"""4:2:0 to RGB and back, checked against the standards' numbers and against FFmpeg."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from codec.colour import frame_to_rgb, rgb_format, rgb_to_frame
from codec.frames import Frame, VideoFormat

SWS = {"bt709": 1, "bt601": 5, "bt2020": 9}


@pytest.mark.parametrize("matrix", list(SWS))
@pytest.mark.parametrize("full_range", [False, True])
def test_flat_colours_survive_the_round_trip(matrix: str, full_range: bool) -> None:
    for colour in ((0, 0, 0), (255, 255, 255), (200, 30, 60), (10, 120, 250), (128, 128, 128)):
        rgb = np.full((6, 10, 3), colour, np.uint8)
        back = frame_to_rgb(rgb_to_frame(rgb, matrix, full_range), VideoFormat(10, 6, Fraction(25), matrix, full_range))
        assert np.abs(back.astype(int) - rgb).max() <= 3


def test_black_and_white_have_the_levels_of_the_range() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    assert rgb_to_frame(white).y[0, 0] == 235
    assert rgb_to_frame(white, full_range=True).y[0, 0] == 255
    assert rgb_to_frame(white * 0).y[0, 0] == 16
    assert (rgb_to_frame(white).u == 128).all()


@pytest.mark.parametrize("matrix", list(SWS))
@pytest.mark.parametrize("full_range", [False, True])
def test_same_colours_as_ffmpeg(matrix: str, full_range: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(8):
        y, u, v = (int(value) for value in rng.integers(90, 166, 3))
        frame = Frame(np.full((16, 16), y, np.uint8), *(np.full((8, 8), c, np.uint8) for c in (u, v)))
        picture = av.VideoFrame.from_ndarray(np.frombuffer(frame.to_bytes(), np.uint8).reshape(24, 16), "yuv420p")
        theirs = picture.reformat(
            format="rgb24", src_colorspace=SWS[matrix], src_color_range=2 if full_range else 1, dst_color_range=2
        ).to_ndarray()
        ours = frame_to_rgb(frame, VideoFormat(16, 16, Fraction(25), matrix, full_range))
        assert np.abs(theirs.astype(int) - ours).max() <= 3


def test_odd_sizes_and_unknown_matrices() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    frame = rgb_to_frame(rgb)
    assert frame.u.shape == (3, 4)
    assert frame_to_rgb(frame, rgb_format(rgb, Fraction(25))).shape == (5, 7, 3)
    with pytest.raises(ValueError, match="unknown matrix"):
        rgb_to_frame(rgb, "bt470")
