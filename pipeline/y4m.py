"""Y4M (YUV4MPEG2) through pipes: 8-bit 4:2:0 frames from a binary stream and to one."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from codec.errors import VideoError
from codec.frames import Frame, VideoFormat

FRAME_HEAD = b"FRAME\n"
_MAGIC = b"YUV4MPEG2"
_LONGEST_LINE = 1024
_LAYOUTS = ("420", "420jpeg", "420paldv", "420mpeg2")  # they differ in where chroma samples lie, not in their number
_MAX_SIDE = 1 << 14


class Y4MSource:
    """Frames of a Y4M stream as they arrive; iterate once. One frame is held.

    format: size, frame rate and range as stated; the matrix, which Y4M does not carry, by size as for other videos.
    notes: what was assumed.

    promised_frames: 0: a stream does not say how many come.

    Raises VideoError where this is no Y4M stream of 8-bit 4:2:0 or has no frames; while iterating, where it is damaged
    or ends within a frame. The first frame is read before this returns.
    """

    promised_frames = 0

    def __init__(self, stream: BinaryIO, name: str = "standard input") -> None:
        self._stream, self._name = stream, name
        line = stream.readline(_LONGEST_LINE)
        if not line:
            raise VideoError(f"{name}: empty")
        if not line.startswith(_MAGIC) or not line.endswith(b"\n"):
            raise VideoError(f"{name}: not a Y4M stream; make one with ffmpeg -i … -pix_fmt yuv420p -f yuv4mpegpipe -")
        self.notes: list[str] = []
        self.format = self._format(line)
        self._count = 0
        self._first = self._read()
        if self._first is None:
            raise VideoError(f"{name}: holds no frames")

    def __iter__(self) -> Iterator[Frame]:
        """Frames whose planes are contiguous and their own."""
        frame, self._first = self._first, None
        while frame is not None:
            self._count += 1
            yield frame
            frame = self._read()

    def _format(self, line: bytes) -> VideoFormat:
        tokens = line.decode("ascii", "replace").split()[1:]
        tags = {token[0]: token[1:] for token in reversed(tokens) if token[0] != "X"}
        layout = tags.get("C", "420jpeg")
        if layout not in _LAYOUTS:
            raise VideoError(f"{self._name}: sample layout '{layout}'; only 8-bit 4:2:0 here (ffmpeg -pix_fmt yuv420p)")
        try:
            width, height = int(tags["W"]), int(tags["H"])
            top, _, bottom = tags.get("F", "0:0").partition(":")
            rate = Fraction(int(top), int(bottom)) if int(top) > 0 < int(bottom or 0) else None
        except (KeyError, ValueError) as error:
            raise VideoError(f"{self._name}: damaged Y4M header") from error
        if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
            raise VideoError(f"{self._name}: impossible size {width}x{height}")
        if rate is None or rate > 1000:
            rate = Fraction(25)
            self.notes.append("frame rate not stated, taken as 25")
        if tags.get("I", "?") not in ("p", "?"):
            self.notes.append("interlaced: fields left as they are")
        matrix = assumed_matrix(width, height)
        self.notes.append(f"matrix not stated, taken as {matrix}")
        return VideoFormat(width, height, rate, matrix, "XCOLORRANGE=FULL" in tokens)

    def _read(self) -> Frame | None:
        fmt = self.format
        head = self._stream.readline(_LONGEST_LINE)
        if not head:
            return None
        if not head.startswith(b"FRAME") or not head.endswith(b"\n"):
            raise VideoError(f"{self._name}: damaged at frame {self._count}")
        across, down = fmt.chroma_size
        size = fmt.width * fmt.height + 2 * across * down
        data = np.empty(size, np.uint8)
        view, at = data.data, 0
        while at < size:
            got = self._stream.readinto(view[at:])  # type: ignore[attr-defined]
            if not got:
                raise VideoError(f"{self._name}: truncated: it ends within frame {self._count}")
            at += got
        return Frame.from_bytes(view, fmt.width, fmt.height)


class Y4MSink:
    """Frames as Y4M to a binary stream, each flushed as it is written."""

    def __init__(self, stream: BinaryIO, fmt: VideoFormat) -> None:
        self._stream = stream
        stream.write(y4m_head(fmt))

    def write(self, frame: Frame) -> None:
        """Append one frame of the format's size."""
        self._stream.write(FRAME_HEAD)
        for plane in frame.planes:
            self._stream.write(np.ascontiguousarray(plane).data)
        self._stream.flush()


def assumed_matrix(width: int, height: int) -> str:
    """The matrix that a video of this size most likely means where it does not say."""
    return "bt601" if min(width, height) < 720 else "bt709"


def y4m_head(fmt: VideoFormat) -> bytes:
    """The line before the first frame; before each frame goes FRAME_HEAD."""
    colour_range = "FULL" if fmt.full_range else "LIMITED"
    return (
        f"YUV4MPEG2 W{fmt.width} H{fmt.height} F{fmt.fps.numerator}:{fmt.fps.denominator} Ip A1:1 "
        f"C420jpeg XYSCSS=420JPEG XCOLORRANGE={colour_range}\n"
    ).encode()
