"""RGB frames: decord where it can be trusted (RGB stores, previews, random access), PyAV where it can't."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from numpy.typing import NDArray

from codec.errors import VideoError
from pipeline.decoders import VideoSource, open_video

# HEVC NAL unit types that only open GOPs have: RASL pictures, broken-link and clean random access points.
_OPEN_GOP_NALS = {8, 9, 16, 17, 18, 21}


class DecordSource:
    """A video read by decord: `rgb()` in order, `frame(index)` at random; each (H, W, 3) uint8, full range.

    format, decoder, pixel_format and notes are as in `VideoSource`. Raises VideoError where decord can't open or
    decode the file, and where `refusal` finds a reason not to trust it.
    """

    def __init__(self, path: str | Path) -> None:
        import decord

        self.path = Path(path)
        with open_video(self.path) as probe:  # also refuses what is no video at all, in clear words
            self.format, self.pixel_format, self.notes = probe.format, probe.pixel_format, list(probe.notes)
            reason = refusal(probe)
        if reason:
            raise VideoError(f"{path}: not for decord: {reason}")
        try:
            self._reader = decord.VideoReader(str(path), num_threads=1)
            height, width = self._reader[0].shape[:2]
            self._reader.seek(0)
        except (decord.DECORDError, UnicodeEncodeError) as error:  # it takes names in UTF-8 alone
            raise VideoError(f"{path}: decord can't read it ({_reason(error)})") from error
        if (width, height) != (self.format.width, self.format.height):
            raise VideoError(f"{path}: not for decord: it sees {width}x{height}")
        if len(self._reader) != _packets(self.path):
            raise VideoError(f"{path}: not for decord: it miscounts the frames")
        self.decoder = f"decord {decord.__version__}"
        self._failure = decord.DECORDError

    def __enter__(self) -> DecordSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._reader

    def __len__(self) -> int:
        """Frames in the video."""
        return len(self._reader)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """The frame at `index` (0-based, presentation order)."""
        try:
            return np.asarray(self._reader[index].asnumpy())
        except self._failure as error:
            raise VideoError(f"{self.path}: decord fails at frame {index} ({_reason(error)})") from error

    def rgb(self) -> Iterator[NDArray[np.uint8]]:
        """All frames in order."""
        self._reader.seek(0)
        for index in range(len(self._reader)):
            try:
                yield np.asarray(self._reader.next().asnumpy())
            except (self._failure, StopIteration) as error:
                raise VideoError(f"{self.path}: decord fails at frame {index} ({_reason(error)})") from error


def open_rgb(path: str | Path, decoder: str | None = None) -> DecordSource | VideoSource:
    """Open a video for its `rgb()` frames. decoder: "decord" (the default) or "pyav".

    Where decord is known to be wrong or fails, the file goes to PyAV and the notes say why.
    """
    reason = ""
    if decoder != "pyav":
        try:
            return DecordSource(path)
        except VideoError as error:
            reason = str(error)
    source = open_video(path)  # raises for what is no video at all
    if reason:
        source.notes.append(f"read by pyav: {reason.removeprefix(f'{path}: ')}")
    return source


def refusal(probe: VideoSource) -> str | None:
    """Why decord would give other pixels than are meant, or None. It ignores depth and guesses untagged colours."""
    if any(mark in probe.pixel_format for mark in ("10", "12", "14", "16")):
        return f"{probe.pixel_format} has more than 8 bits"
    if probe.format.matrix != "bt601" and any("matrix not stated" in note for note in probe.notes):
        return f"the matrix is not stated and {probe.format.matrix} is meant"
    if "(hevc)" in probe.decoder and has_open_gop(probe.path):
        return "open-GOP HEVC"
    return None


def has_open_gop(path: Path) -> bool:
    """Whether an HEVC video has NAL units that only open GOPs have."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata or b""
        # hvcC configuration (mp4, mkv): units have a length in front; else start codes (raw streams, MPEG-TS).
        length_size = (extradata[21] & 3) + 1 if len(extradata) > 21 and extradata[0] == 1 else 0
        return any(_OPEN_GOP_NALS & _nal_types(bytes(packet), length_size) for packet in container.demux(stream))


def _nal_types(data: bytes, length_size: int) -> set[int]:
    types, position = set(), 0
    if length_size:
        while position + length_size < len(data):
            types.add(data[position + length_size] >> 1 & 0x3F)
            position += length_size + int.from_bytes(data[position : position + length_size], "big")
    else:
        while (position := data.find(b"\0\0\1", position)) >= 0 and position + 3 < len(data):
            types.add(data[position + 3] >> 1 & 0x3F)
            position += 3
    return types


def _packets(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rsplit("] ", 1)[-1][:120] if lines else type(error).__name__
