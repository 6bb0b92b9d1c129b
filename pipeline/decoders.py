"""Reading videos: native 4:2:0 planes through PyAV, whatever the file holds.

8-bit 4:2:0 comes out exactly as stored. Everything else (10 bit, 4:2:2, 4:4:4, grey, RGB) is converted, rotation tags
are applied, and each such step is noted. Frames come in presentation order and are addressed by index.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from codec.colour import rgb_to_frame
from codec.errors import UsageError, VideoError
from codec.frames import Frame, VideoFormat
from pipeline.containers import check_container
from pipeline.raw_names import RawForm, raw_form
from pipeline.y4m import assumed_matrix

_FULL = 2  # AVCOL_RANGE_JPEG
_LIMITED = 1  # AVCOL_RANGE_MPEG
_MATRICES = {1: "bt709", 7: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}  # AVCOL_SPC_*
_SWS_MATRICES = {"bt709": 1, "bt601": 5, "bt2020": 9}
# Stored RGB becomes full-range BT.601: at equal bits RGB comes back better than by the limited range or by BT.709
# (benchmarks/rgb_input.py).
_RGB_MATRIX = "bt601"
_NATIVE = {"yuv420p", "yuvj420p"}
_TEXT_ART = {"tty", "bin", "xbin", "adf", "idf"}  # FFmpeg "plays" text files; nobody means that
# Where a container only promises a count or length, edit lists and rounding may honestly take this share away.
_TOLERATED_SHARE, _TOLERATED_FRAMES = 0.1, 3
_MOST_AHEAD, _BYTES_AHEAD = 32, 4 << 20


def open_video(
    path: str | Path,
    size: tuple[int, int] | None = None,
    pix_fmt: str | None = None,
    threads: int = 1,
    fps: Fraction | None = None,
) -> VideoSource:
    """Open a video file for reading as 4:2:0 frames.

    path: anything FFmpeg opens, .y4m, or raw .yuv; the latter needs `size` (width, height) where its name does not say
    it (pipeline/raw_names.py), and `pix_fmt` where it is not yuv420p. fps: of a raw file, where its name does not say
    it or says it wrongly; 25 where nothing does. threads: decoding threads.

    Raises VideoError where the file is missing, empty, truncated, garbage, without frames or without a video stream;
    UsageError where a raw file comes without its size. The first frame is decoded before this returns.
    """
    return VideoSource(Path(path), size, pix_fmt, threads, fps)


class PlaneViews(NamedTuple):
    """A frame's planes, uint8, as in `Frame`, where a decoder has them."""

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]


class VideoSource:
    """An open video: iterate over it for `codec.frames.Frame`s. A context manager; each iteration starts anew.

    format: size, frame rate, matrix and range of the frames it gives.
    decoder: which decoder and version, as the manifest records it.
    pixel_format: FFmpeg's name of what is stored in the file.
    notes: what was converted or assumed; complete after the last frame.

    While iterating, raises VideoError where the stream is damaged or ends well before what the container promises.
    """

    def __init__(
        self, path: Path, size: tuple[int, int] | None, pix_fmt: str | None, threads: int, fps: Fraction | None
    ) -> None:
        self.path = path
        self.notes: list[str] = []
        self._threads = threads
        self._raw_options = _raw_options(path, size, pix_fmt, fps)
        _check_file(path)
        self._open()
        try:
            self._rest = self._decode()
            self._first: list[VideoFrame] | None = next(self._rest, None)
            if self._first is None:
                raise VideoError(f"{path}: holds no frames")
            self._describe(self._first[0])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """Frames whose planes are contiguous and their own."""
        for view in chain.from_iterable(self.views()):
            y, u, v = (np.array(plane, order="C") for plane in view)
            yield Frame(y, u, v)

    def views(self) -> Iterator[list[PlaneViews]]:
        """As iteration, but a few frames at a time, and planes may be strided views of the decoder's own buffers: read
        them, never write. A list is emptied when the next one is asked for."""
        view = self._view if self._as_stored else lambda picture: PlaneViews(*self._to_frame(picture).planes)
        for pictures in self._batches():
            batch = [view(picture) for picture in pictures]
            yield batch
            batch.clear()

    def _view(self, picture: VideoFrame) -> PlaneViews:
        y, u, v = picture.planes
        view: Any = np.ndarray  # its type stub does not know that a plane is a buffer
        return PlaneViews(
            view(self._luma_shape, np.uint8, y, 0, (y.line_size, 1)),
            view(self._chroma_shape, np.uint8, u, 0, (u.line_size, 1)),
            view(self._chroma_shape, np.uint8, v, 0, (v.line_size, 1)),
        )

    def rgb(self) -> Iterator[NDArray[np.uint8]]:
        """The frames as RGB, each (H, W, 3) uint8 full range, rotation applied."""
        matrix = _SWS_MATRICES[self.format.matrix]
        source_range = _FULL if self.format.full_range else _LIMITED
        for picture in chain.from_iterable(self._batches()):
            colours = {} if self._stored_rgb else {"src_colorspace": matrix, "src_color_range": source_range}
            array = _reformat(picture, "rgb24", dst_color_range=_FULL, **colours).to_ndarray()
            yield np.ascontiguousarray(np.rot90(array, self._turns))

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            if self._raw_options:
                self._container = av.open(str(self.path), format="rawvideo", options=self._raw_options)
            else:
                self._container = av.open(str(self.path))
        except (av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, EOFError):
                raise VideoError(f"{self.path}: holds no frames") from error
            if isinstance(error, PermissionError):
                raise VideoError(f"{self.path}: no permission to read it") from error
            raise VideoError(f"{self.path}: not a video that FFmpeg can read ({_reason(error)})") from error
        streams = [s for s in self._container.streams.video if not _is_cover_art(s)]
        if not streams or self._container.format.name in _TEXT_ART:
            kinds = sorted({s.type for s in self._container.streams})
            self._container.close()
            held = f"; it holds only {', '.join(kinds)}" if kinds and "video" not in kinds else ""
            raise VideoError(f"{self.path}: has no video stream{held}")
        self._stream = streams[0]
        self._stream.codec_context.thread_count = self._threads
        self._stream.thread_type = "AUTO" if self._threads > 1 else "NONE"

    def _describe(self, picture: VideoFrame) -> None:
        stored = picture.format.name
        self.pixel_format = stored
        self._stored_rgb = picture.format.is_rgb
        self._width, self._height = picture.width, picture.height
        angle = round(picture.rotation) % 360
        self._turns = angle // 90 if angle % 90 == 0 else 0
        if angle:
            done = "applied" if angle % 90 == 0 else "ignored: only quarter turns are possible"
            self.notes.append(f"rotation tag of {angle} degrees {done}")
        width, height = (self._height, self._width) if self._turns % 2 else (self._width, self._height)
        full = self._stored_rgb or stored.startswith(("yuvj", "gray")) or int(picture.color_range) == _FULL
        matrix = _RGB_MATRIX if self._stored_rgb else _MATRICES.get(int(picture.colorspace))
        if matrix is None:
            matrix = assumed_matrix(width, height)
            self.notes.append(f"matrix not stated, taken as {matrix}")
        if stored not in _NATIVE:
            self.notes.append(f"converted from {stored} to yuv420p")
        if picture.interlaced_frame:
            self.notes.append("interlaced: fields left as they are")
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate or rate <= 0 or rate > 1000:
            rate = Fraction(25)
            self.notes.append("frame rate not stated, taken as 25")
        self.format = VideoFormat(width, height, Fraction(rate), matrix, full)
        self.decoder = f"pyav {av.__version__} ({self._stream.codec_context.name})"
        self._range = _FULL if full else _LIMITED
        self._as_stored = stored in _NATIVE and not self._turns
        chroma_width, chroma_height = self.format.chroma_size
        self._luma_shape, self._chroma_shape = (self._height, self._width), (chroma_height, chroma_width)

    # -- decoding ----------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[list[VideoFrame]]:
        """Decoded pictures, a few at a time, checked for size changes, damage and a premature end."""
        if self._first is None:  # not the first time: start anew
            self.close()
            self._open()
            self._rest = self._decode()
            self._first = next(self._rest, None)
        first, self._first = self._first, None
        width, height, name = self._width, self._height, self.pixel_format
        count, last, shortest, longest = 0, None, 1 << 62, 0
        for batch in chain([first] if first else [], self._rest):
            for index, picture in enumerate(batch):
                same = picture.width == width and picture.height == height and picture.format.name == name
                if not same or picture.is_corrupt:
                    if index:
                        yield batch[:index]
                    raise VideoError(f"{self.path}: {self._fault(picture, count + index)}")
                time = picture.pts
                if time is not None and last is not None and time > last:
                    step = time - last
                    shortest, longest = min(step, shortest), max(step, longest)
                last = time
            got = len(batch)
            yield batch
            count += got
        promised = self.promised_frames
        if promised - count > max(_TOLERATED_FRAMES, _TOLERATED_SHARE * promised):
            raise VideoError(f"{self.path}: truncated: {count} frames of about {promised}")
        varies = longest - shortest > max(2, shortest // 50)  # one tick of rounding is allowed for
        if varies and not any("variable" in note for note in self.notes):
            self.notes.append("variable frame rate: frames kept by index, mean rate stated")

    def _fault(self, picture: VideoFrame, index: int) -> str:
        """Why this picture can't be part of the video."""
        if picture.width != self._width or picture.height != self._height:
            return f"frame size changes at frame {index}; split the file there"
        if picture.format.name != self.pixel_format:
            return f"pixel format changes at frame {index}; split the file there"
        return f"damaged at frame {index}"

    def _decode(self) -> Iterator[list[VideoFrame]]:
        """One picture, then a few at a time where they are small: who works on each finds its code in the caches."""
        pictures, many = self._container.decode(self._stream), 1
        while True:
            batch: list[VideoFrame] = []
            failure = None
            try:
                batch.extend(islice(pictures, many))  # what came before a failure is kept
            except (av.FFmpegError, ValueError) as error:
                failure = error
            if got := len(batch):
                size = batch[0].width * batch[0].height
                yield batch
                batch.clear()  # whoever else has the list: the decoder gets its buffers back, warm, before it goes on
            if failure is not None:
                raise VideoError(f"{self.path}: damaged or truncated ({_reason(failure)})") from failure
            if got < many:
                return
            many = min(_MOST_AHEAD, 1 + _BYTES_AHEAD * 2 // (3 * size))

    @property
    def promised_frames(self) -> int:
        """Frames that the container's head speaks of; 0 where it says nothing."""
        stream = self._stream
        if stream.frames:
            return int(stream.frames)
        if stream.duration and stream.time_base:
            return int(stream.duration * stream.time_base * self.format.fps)
        return 0

    def _to_frame(self, picture: VideoFrame) -> Frame:
        if self._stored_rgb:
            rgb = _reformat(picture, "rgb24", dst_color_range=_FULL).to_ndarray()
            return rgb_to_frame(np.rot90(rgb, self._turns), self.format.matrix, self.format.full_range)
        if self.pixel_format not in _NATIVE:
            # swscale squeezes "J" formats unless told that both sides have full range.
            picture = _reformat(picture, "yuv420p", src_color_range=self._range, dst_color_range=self._range)
        y, u, v = (_plane(p) for p in picture.planes)
        if self._turns:
            y, u, v = (np.rot90(p, self._turns) for p in (y, u, v))
        return Frame(y, u, v)


def _plane(plane: Any) -> NDArray[np.uint8]:
    """A view (height, width) of one decoded plane."""
    return np.ndarray((plane.height, plane.width), np.uint8, plane, strides=(plane.line_size, 1))


def _reformat(picture: VideoFrame, name: str, **colours: int) -> VideoFrame:
    return picture.reformat(format=name, interpolation="BILINEAR", threads=1, **colours)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, not a video")
    try:
        if path.is_file():
            if path.stat().st_size == 0:
                raise VideoError(f"{path}: empty file")
            check_container(path)
    except PermissionError as error:
        raise VideoError(f"{path}: no permission to read it") from error


def _raw_options(path: Path, size: tuple[int, int] | None, pix_fmt: str | None, fps: Fraction | None) -> dict[str, str]:
    """Options for FFmpeg's raw reader; empty for every other file."""
    if path.suffix.lower() != ".yuv":
        return {}
    named = raw_form(path) if pix_fmt is None else None
    form = RawForm(size, named.fps if named else None) if size else named
    if form is None:
        raise UsageError(f"{path}: a raw .yuv file does not say its size; give --size WxH (and --pix-fmt)")
    if pix_fmt is None and path.is_file() and path.stat().st_size % form.frame_bytes:
        raise VideoError(
            f"{path}: truncated, or another size: not a whole number of 8-bit 4:2:0 frames of "
            f"{form.size[0]}x{form.size[1]}"
        )
    return {
        "video_size": f"{form.size[0]}x{form.size[1]}",
        "pixel_format": pix_fmt or "yuv420p",
        "framerate": str(fps or form.fps or 25),
    }


def _is_cover_art(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _reason(error: Exception) -> str:
    """FFmpeg's own words, without error number and file name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
