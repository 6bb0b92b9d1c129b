"""4:2:0 to RGB and back: the standards' numbers, FFmpeg's zscale and swscale, and what a round trip loses.

Measured on photographs and on real clips, three matrices, both ranges, in grey levels. 4:2:0 to RGB: at most 1 off
zscale, 0.0001 on average (zscale and swscale differ from each other by at most 1, 0.006 on average). RGB to 4:2:0: at
most 1 off zscale where chroma needs no resampling, and at most 1 off swscale's area filter, 0.01 on average, where it
does (in full range swscale's chroma is half a level off the others').
"""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from codec.colour import frame_to_rgb, rgb_format, rgb_to_frame
from codec.frames import Frame, VideoFormat
from codec.metrics import psnr, psnr_rgb
from pipeline.decoders import open_video

Picture = NDArray[np.uint8]

# Our name of a matrix -> zscale's.
MATRICES = {"bt601": "170m", "bt709": "709", "bt2020": "2020_ncl"}
every_kind = pytest.mark.parametrize(
    ("matrix", "full_range"), [(matrix, full_range) for matrix in MATRICES for full_range in (False, True)]
)


@every_kind
def test_flat_colours_survive_the_round_trip(matrix: str, full_range: bool) -> None:
    for colour in ((0, 0, 0), (255, 255, 255), (200, 30, 60), (10, 120, 250), (128, 128, 128)):
        rgb = np.full((6, 10, 3), colour, np.uint8)
        back = frame_to_rgb(rgb_to_frame(rgb, matrix, full_range), VideoFormat(10, 6, Fraction(25), matrix, full_range))
        assert np.abs(back.astype(int) - rgb).max() <= 2


def test_levels_are_the_standards() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    assert rgb_to_frame(white).y[0, 0] == 235
    assert rgb_to_frame(white, full_range=True).y[0, 0] == 255
    assert rgb_to_frame(white * 0).y[0, 0] == 16
    assert (rgb_to_frame(white).u == 128).all()
    # Pure red, 8-bit limited range, as test signals list it.
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    for matrix, levels in (("bt601", (81, 90, 240)), ("bt709", (63, 102, 240)), ("bt2020", (74, 97, 240))):
        assert tuple(int(plane[0, 0]) for plane in rgb_to_frame(red, matrix).planes) == levels


@every_kind
def test_to_rgb_as_zscale(tmp_path: Path, matrix: str, full_range: bool) -> None:
    check_to_rgb(tmp_path, rgb_to_frame(photograph(), matrix, full_range), matrix, full_range)


@every_kind
def test_real_footage_to_rgb_as_zscale(real_clips: Path, tmp_path: Path, matrix: str, full_range: bool) -> None:
    for name in ("foreman.mkv", "blocks.mp4"):
        with open_video(real_clips / name) as video:
            check_to_rgb(tmp_path, next(iter(video)), matrix, full_range)


def check_to_rgb(folder: Path, frame: Frame, matrix: str, full_range: bool) -> None:
    height, width = frame.y.shape
    ours = frame_to_rgb(frame, VideoFormat(width, height, Fraction(25), matrix, full_range))
    zscale = (
        f"zscale=matrixin={MATRICES[matrix]}:rangein={range_name(full_range)}:chromalin=center"
        ":matrix=gbr:range=full:filter=bilinear:dither=none,format=gbrp"
    )
    data = through_ffmpeg(folder, frame.to_bytes(), "yuv420p", (width, height), zscale, "gbrp")
    green_blue_red = np.frombuffer(data, np.uint8).reshape(3, height, width)
    assert_near(ours, green_blue_red[[2, 0, 1]].transpose(1, 2, 0), mean=0.0005)


@every_kind
def test_from_rgb_as_zscale(tmp_path: Path, matrix: str, full_range: bool) -> None:
    # Squares of 2x2 equal pixels: chroma is the same by any filter, so that only the matrix and the range count.
    rgb = photograph()[::2, ::2].repeat(2, 0).repeat(2, 1)
    zscale = (
        f"format=gbrp,zscale=matrixin=gbr:rangein=full:chromal=center"
        f":matrix={MATRICES[matrix]}:range={range_name(full_range)}:filter=point:dither=none,format=yuv420p"
    )
    check_from_rgb(tmp_path, rgb, matrix, full_range, zscale)


@pytest.mark.parametrize("matrix", list(MATRICES))
def test_chroma_is_averaged_as_swscale_does_by_area(tmp_path: Path, matrix: str) -> None:
    swscale = (
        f"scale=in_range=pc:out_range=tv:out_color_matrix={matrix}:out_chroma_loc=center"
        ":flags=area+accurate_rnd+full_chroma_int+full_chroma_inp"
    )
    check_from_rgb(tmp_path, photograph(), matrix, False, swscale)


def check_from_rgb(folder: Path, rgb: Picture, matrix: str, full_range: bool, filters: str) -> None:
    height, width = rgb.shape[:2]
    data = through_ffmpeg(folder, rgb.tobytes(), "rgb24", (width, height), filters, "yuv420p")
    for ours, theirs in zip(
        rgb_to_frame(rgb, matrix, full_range).planes, Frame.from_bytes(data, width, height).planes, strict=True
    ):
        assert_near(ours, theirs, mean=0.012)


@every_kind
def test_round_trips_lose_little(matrix: str, full_range: bool) -> None:
    """Why coding and measuring never go through RGB: 4:2:0 to RGB and back costs chroma, RGB to 4:2:0 costs colour."""
    rgb = photograph()
    fmt = rgb_format(rgb, Fraction(25), matrix, full_range)
    frame = rgb_to_frame(rgb, matrix, full_range)
    again = rgb_to_frame(frame_to_rgb(frame, fmt), matrix, full_range)
    # Measured: luma 72 to 76 dB, chroma 51.5 to 54, RGB 42.8 to 43.3.
    assert psnr(frame.y, again.y) > 71
    assert min(psnr(frame.u, again.u), psnr(frame.v, again.v)) > 51
    assert psnr_rgb(rgb, frame_to_rgb(frame, fmt)) > 42.5


def test_odd_sizes_and_unknown_matrices() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    frame = rgb_to_frame(rgb)
    assert frame.u.shape == (3, 4)
    whole = rgb_to_frame(np.pad(rgb, ((0, 1), (0, 1), (0, 0)), mode="edge"))  # edges are repeated
    assert (frame.u == whole.u).all() and (frame.v == whole.v).all() and (frame.y == whole.y[:5, :7]).all()
    assert frame_to_rgb(frame, rgb_format(rgb, Fraction(25))).shape == (5, 7, 3)
    with pytest.raises(ValueError, match="unknown matrix"):
        rgb_to_frame(rgb, "bt470")


def photograph() -> Picture:
    return np.ascontiguousarray(skimage.data.astronaut()[:256, :384])


def range_name(full_range: bool) -> str:
    return "full" if full_range else "limited"


def assert_near(ours: Picture, theirs: Picture, mean: float) -> None:
    """At most one grey level apart anywhere, and `mean` on average."""
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 1
    assert difference.mean() <= mean


def through_ffmpeg(
    folder: Path, data: bytes, pixel_format: str, size: tuple[int, int], filters: str, result_format: str
) -> bytes:
    """One raw picture through FFmpeg's filters."""
    (folder / "before").write_bytes(data)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", pixel_format,
        "-s", f"{size[0]}x{size[1]}", "-i", "before", "-vf", filters,
        "-f", "rawvideo", "-pix_fmt", result_format, "after",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=folder)
    return (folder / "after").read_bytes()
