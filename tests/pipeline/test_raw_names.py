"""What names of raw files say, and that reading goes by it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codec.errors import UsageError, VideoError
from pipeline.decoders import open_video
from pipeline.raw_names import RawForm, raw_form


@pytest.mark.parametrize(
    ("name", "size", "fps"),
    [
        ("Jockey_1920x1080_120fps_420_8bit_YUV.yuv", (1920, 1080), 120),
        ("BQSquare_416x240_60.yuv", (416, 240), 60),
        ("videoSRC05_1920x1080_25.yuv", (1920, 1080), 25),
        ("Kimono1_1920x1080_24.yuv", (1920, 1080), 24),
        ("clip-64x48-29.97hz.yuv", (64, 48), Fraction(30000, 1001)),
        ("clip_64x48_420_8bit.yuv", (64, 48), None),
        ("clip_64x48p_yuv420p_30p.yuv", (64, 48), 30),
        ("a_352x288.yuv", (352, 288), None),
    ],
)
def test_size_and_rate(name: str, size: tuple[int, int], fps: Fraction | int | None) -> None:
    assert raw_form(Path("/videos") / name) == RawForm(size, None if fps is None else Fraction(fps))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Beauty_1920x1080_120fps_420_10bit_YUV.yuv", "10 bit"),
        ("x_1920x1080_50_yuv420p10le.yuv", "10 bit"),
        ("x_1920x1080_50_420p10.yuv", "10 bit"),
        ("x_1920x1080_50_12b.yuv", "12 bit"),
        ("x_1920x1080_24_444.yuv", "4:4:4"),
        ("x_1920x1080_yuv422p.yuv", "4:2:2"),
    ],
)
def test_other_samples_are_refused(name: str, what: str) -> None:
    with pytest.raises(UsageError, match=f"says {what}.*ffmpeg -f rawvideo"):
        raw_form(Path(name))


def test_a_name_without_a_size_says_nothing() -> None:
    assert raw_form(Path("planes.yuv")) is None
    assert raw_form(Path("a_10bit.yuv")) is None


def test_a_raw_file_is_read_by_its_name(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * 64 * 48 * 3 // 2, np.uint8).tobytes()
    path = tmp_path / "noise_64x48_50_420_8bit.yuv"
    path.write_bytes(data)
    with open_video(path) as source:
        assert (source.format.width, source.format.height, source.format.fps) == (64, 48, 50)
        assert b"".join(frame.to_bytes() for frame in source) == data
    with open_video(path, size=(48, 64), fps=Fraction(24)) as source:  # what one is told goes before the name
        assert (source.format.width, source.format.height, source.format.fps) == (48, 64, 24)
        assert b"".join(frame.to_bytes() for frame in source) == data
    path.write_bytes(data[:-1])
    with pytest.raises(VideoError, match="not a whole number of 8-bit 4:2:0 frames of 64x48"):
        open_video(path)


def test_ten_bits_by_name_are_read_only_where_told(tmp_path: Path) -> None:
    path = tmp_path / "x_16x16_10bit.yuv"
    path.write_bytes(np.full(16 * 16 * 3 // 2, 512, "<u2").tobytes())
    with pytest.raises(UsageError, match="10 bit"):
        open_video(path, size=(16, 16))
    with open_video(path, size=(16, 16), pix_fmt="yuv420p10le") as source:
        assert {int(v) for frame in source for v in np.unique(frame.y)} == {128}
