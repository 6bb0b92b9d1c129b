"""Writing videos without loss: .y4m, raw .yuv, .mkv (FFV1) and .mp4 (H.264, QP 0)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from codec.atomic_files import blaming, commit, unfinished_path
from codec.errors import UsageError
from codec.frames import Frame, VideoFormat
from pipeline.y4m import FRAME_HEAD, y4m_head

SUFFIXES = (".y4m", ".yuv", ".mp4", ".mkv")
_COLORSPACES = {"bt709": 1, "bt601": 5, "bt2020": 9}  # AVCOL_SPC_*


class VideoWriter:
    """An open video file. A context manager: the file appears under its name only when all went well."""

    def __init__(self, path: Path, fmt: VideoFormat) -> None:
        self.path = path
        self.format = fmt
        self._temporary = unfinished_path(path)
        self._closed = False
        suffix = path.suffix.lower()
        sink = _Raw if suffix in (".y4m", ".yuv") else _Coded
        with blaming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink: _Sink = sink(self._temporary, fmt, suffix)

    def write(self, frame: Frame) -> None:
        """Append one frame; raises ValueError where its size is not the format's."""
        if (frame.width, frame.height) != (self.format.width, self.format.height):
            raise ValueError(
                f"frame of {frame.width}x{frame.height} in a {self.format.width}x{self.format.height} video"
            )
        with blaming(self.path):
            self._sink.write(frame)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._closed:
            return
        self._closed = True
        try:
            with blaming(self.path):
                self._sink.close()
                commit(self._temporary, self.path)
        except BaseException:
            self._temporary.unlink(missing_ok=True)
            raise

    def abort(self) -> None:
        """Drop what was written; no file appears."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(OSError):  # the reason for giving up may be that nothing can be written
                self._sink.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def open_writer(path: str | Path, fmt: VideoFormat) -> VideoWriter:
    """A writer for `path`; its ending decides: .y4m, .yuv (planes alone), .mkv (FFV1) or .mp4 (H.264, lossless).

    Raises UsageError for another ending, and for odd sizes in .mp4, which H.264 4:2:0 encoders do not take.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"can't write '{path}': the name must end in {', '.join(SUFFIXES)}")
    if suffix == ".mp4" and (fmt.width % 2 or fmt.height % 2):
        raise UsageError(f"can't write '{path}': .mp4 takes even sizes only, not {fmt.width}x{fmt.height}; use .mkv")
    return VideoWriter(path, fmt)


class _Sink(Protocol):
    def write(self, frame: Frame) -> None: ...

    def close(self) -> None: ...


class _Raw:
    """Planes one after another, with Y4M headers or without."""

    def __init__(self, path: Path, fmt: VideoFormat, suffix: str) -> None:
        self._handle = path.open("wb")
        self._frame_head = FRAME_HEAD if suffix == ".y4m" else b""
        if suffix == ".y4m":
            self._handle.write(y4m_head(fmt))

    def write(self, frame: Frame) -> None:
        self._handle.write(self._frame_head)
        for plane in frame.planes:
            self._handle.write(np.ascontiguousarray(plane).data)

    def close(self) -> None:
        self._handle.close()


class _Coded:
    """Lossless video in a container, through PyAV."""

    def __init__(self, path: Path, fmt: VideoFormat, suffix: str) -> None:
        import av

        mp4 = suffix == ".mp4"
        self._av: Any = av
        self._fmt = fmt
        # Without random identifiers and dates: the same frames give the same file.
        options = {"fflags": "+bitexact"}
        self._container = av.open(str(path), "w", format="mp4" if mp4 else "matroska", options=options)
        options = {"qp": "0", "preset": "veryfast"} if mp4 else {"level": "3", "slicecrc": "1"}
        self._stream: Any = self._container.add_stream("libx264" if mp4 else "ffv1", rate=fmt.fps, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = fmt.width, fmt.height, "yuv420p"
        self._stream.codec_context.color_range = 2 if fmt.full_range else 1
        self._stream.codec_context.colorspace = _COLORSPACES[fmt.matrix]
        self._count = 0

    def write(self, frame: Frame) -> None:
        picture = self._av.VideoFrame(self._fmt.width, self._fmt.height, "yuv420p")
        for target, plane in zip(picture.planes, frame.planes, strict=True):
            rows = np.frombuffer(target, np.uint8).reshape(-1, target.line_size)
            rows[: plane.shape[0], : plane.shape[1]] = plane
        picture.pts, self._count = self._count, self._count + 1
        picture.time_base = 1 / self._fmt.fps
        picture.color_range = 2 if self._fmt.full_range else 1
        picture.colorspace = _COLORSPACES[self._fmt.matrix]
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def close(self) -> None:
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
