"""Y4M through pipes: frames come back as they are, and what is cut or of another layout is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from codec.errors import VideoError
from codec.frames import Frame, VideoFormat, frames_digest
from pipeline.decoders import open_video
from pipeline.y4m import FRAME_HEAD, Y4MSink, Y4MSource

MakeFrames = Callable[..., list[Frame]]


def written(fmt: VideoFormat, frames: list[Frame]) -> bytes:
    stream = io.BytesIO()
    sink = Y4MSink(stream, fmt)
    for frame in frames:
        sink.write(frame)
    return stream.getvalue()


@pytest.mark.parametrize("fmt", [VideoFormat(17, 9, Fraction(30000, 1001)), VideoFormat(64, 48, full_range=True)])
def test_frames_come_back(fmt: VideoFormat, random_frames: MakeFrames, tmp_path: Path) -> None:
    """Read by us and by FFmpeg alike."""
    frames = random_frames(fmt, 4)
    data = written(fmt, frames)
    source = Y4MSource(io.BytesIO(data))
    path = tmp_path / "clip.y4m"
    path.write_bytes(data)
    with open_video(path) as other:
        assert source.format == other.format and source.notes == other.notes
        assert frames_digest(source) == frames_digest(frames) == frames_digest(other)


def test_frames_arrive_one_by_one(random_frames: MakeFrames) -> None:
    fmt = VideoFormat(16, 16)
    data = written(fmt, random_frames(fmt, 3))
    stream = io.BytesIO(data)
    size = 384 + len(FRAME_HEAD)
    for count, _ in enumerate(Y4MSource(stream), start=1):
        assert stream.tell() == len(data) - (3 - count) * size


def test_parameters_of_frames_are_passed_over(random_frames: MakeFrames) -> None:
    fmt = VideoFormat(16, 16)
    frames = random_frames(fmt, 2)
    data = written(fmt, frames).replace(FRAME_HEAD, b"FRAME Ip XSOMETHING\n")
    assert frames_digest(Y4MSource(io.BytesIO(data))) == frames_digest(frames)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"RIFF....", "not a Y4M stream"),
        (b"YUV4MPEG2 W16 H16" + b"x" * 2000, "not a Y4M stream"),
        (b"YUV4MPEG2 W16 H16 C444\n", "layout '444'"),
        (b"YUV4MPEG2 W16 H16 C420p10\n", "layout '420p10'"),
        (b"YUV4MPEG2 W16 C420\n", "damaged Y4M header"),
        (b"YUV4MPEG2 W16 Hten\n", "damaged Y4M header"),
        (b"YUV4MPEG2 W16 H99999999\n", "impossible size"),
        (b"YUV4MPEG2 W16 H16\n", "no frames"),
        (b"YUV4MPEG2 W16 H16\nFRAME\n" + bytes(383), "ends within frame 0"),
        (b"YUV4MPEG2 W16 H16\nFRAME\n" + bytes(384) + b"FRAME\n", "ends within frame 1"),
        (b"YUV4MPEG2 W16 H16\nFRAME\n" + bytes(384) + b"frame\n", "damaged at frame 1"),
    ],
)
def test_bad_streams_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(VideoError, match=said):
        list(Y4MSource(io.BytesIO(data)))
