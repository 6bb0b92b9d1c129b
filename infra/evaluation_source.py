"""The frames that one evaluation measures on: read once, perhaps shrunk, and kept as a raw .yuv file.

Encoder, decoder and anchors all read the same file, so they are compared on the very same pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from codec.atomic_files import unfinished_path, write_json_atomically
from codec.errors import VideoError
from codec.frames import Frame, Plane, VideoFormat, add_planes, frames_digest
from pipeline.raw_names import RawForm
from pipeline.raw_names import raw_form as named_form


@dataclass(frozen=True)
class EvaluationSource:
    """Frames on disk (I420, 8 bit): size, count, digest, and how they came from `video`.

    downscale: 1, or the factor by which planes were area-averaged; original_width and original_height are the video's.
    notes: what reading it changed or took for granted, such as a conversion from 10 bit.
    """

    name: str
    video: str
    path: str
    width: int
    height: int
    fps: str
    matrix: str
    full_range: bool
    frame_count: int
    digest: str
    downscale: int
    original_width: int
    original_height: int
    notes: list[str] = field(default_factory=list)

    @property
    def format(self) -> VideoFormat:
        return VideoFormat(self.width, self.height, Fraction(self.fps), self.matrix, self.full_range)

    @property
    def pixels(self) -> int:
        """Luma pixels of all frames together."""
        return self.width * self.height * self.frame_count

    @property
    def frame_bytes(self) -> int:
        return self.width * self.height + 2 * ((self.width + 1) // 2) * ((self.height + 1) // 2)

    def frames(self) -> Iterator[Frame]:
        """The frames in order. Raises VideoError where the cached file is gone, was cut short or, at its end, is not
        what was written: no figure is to be measured on other pixels than those it is kept for."""
        read = hashlib.sha256()
        try:
            with Path(self.path).open("rb") as handle:
                for _ in range(self.frame_count):
                    data = handle.read(self.frame_bytes)
                    if len(data) != self.frame_bytes:
                        raise VideoError(f"'{self.path}' was cut short; delete it and run again")
                    # Taken in before it is given away: planes may be written to.
                    frame = Frame.from_bytes(memoryview(bytearray(data)), self.width, self.height)
                    add_planes(read, frame)
                    yield frame
            if read.hexdigest() != self.digest:
                raise VideoError(f"'{self.path}' is damaged; delete it and run again")
        except FileNotFoundError as error:
            raise VideoError(f"'{self.path}' is gone; run the evaluation again") from error


def prepare_source(
    video: Path, cache: Path, frames: int, max_pixels: int | None = None, raw_form: RawForm | None = None
) -> EvaluationSource:
    """Read the first `frames` frames of `video` into `cache`, or find them there from an earlier run.

    With `max_pixels`, planes are area-averaged by the smallest whole factor that brings luma to that many pixels or
    fewer. Raises VideoError where the video can't be read or gives no frame.
    """
    if not video.is_file():
        raise VideoError(f"no video at '{video}'")
    key = _cache_key(video, frames, max_pixels, raw_form)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", video.stem)
    raw, sidecar = cache / f"{stem}-{key}.yuv", cache / f"{stem}-{key}.json"
    found = _kept(raw, sidecar)
    if found is not None:
        return dataclasses.replace(found, name=stem, video=str(video))
    cache.mkdir(parents=True, exist_ok=True)
    temporary = unfinished_path(raw)  # nodes that share the cache may read the same video at once
    try:
        source = _write_raw(video, temporary, frames, max_pixels, stem, raw_form)
        temporary.replace(raw)
    finally:
        temporary.unlink(missing_ok=True)
    source = dataclasses.replace(source, path=str(raw.absolute()))
    write_json_atomically(sidecar, dataclasses.asdict(source))
    return source


def _kept(raw: Path, sidecar: Path) -> EvaluationSource | None:
    """The frames that an earlier run left in the cache; None where there are none, or they are damaged."""
    try:
        found = EvaluationSource(**{**json.loads(sidecar.read_text()), "path": str(raw.absolute())})
        whole = raw.stat().st_size == found.frame_bytes * found.frame_count
        whole = whole and frames_digest(found.frames()) == found.digest
    except (OSError, ValueError, TypeError, KeyError, VideoError):
        return None
    return found if whole else None


def downscale_factor(width: int, height: int, max_pixels: int | None) -> int:
    """The smallest whole factor by which a frame must shrink to have at most `max_pixels` luma pixels."""
    factor = 1
    while max_pixels is not None and (width // factor) * (height // factor) > max_pixels:
        factor += 1
    return factor


def shrink(frame: Frame, factor: int) -> Frame:
    """Each plane area-averaged by `factor` (whole); rows and columns beyond the last whole 2·factor luma block go."""
    if factor == 1:
        return frame
    height, width = (frame.height // (2 * factor)) * 2, (frame.width // (2 * factor)) * 2
    return Frame(
        _average(frame.y, factor, height, width),
        _average(frame.u, factor, height // 2, width // 2),
        _average(frame.v, factor, height // 2, width // 2),
    )


def _average(plane: Plane, factor: int, height: int, width: int) -> Plane:
    blocks = plane[: height * factor, : width * factor].reshape(height, factor, width, factor)
    total = blocks.sum(axis=(1, 3), dtype=np.uint32)
    area = factor * factor
    return ((total + area // 2) // area).astype(np.uint8)


def _write_raw(
    video: Path, target: Path, frames: int, max_pixels: int | None, name: str, raw_form: RawForm | None
) -> EvaluationSource:
    from pipeline.decoders import open_video

    count, width, height = 0, 0, 0
    size, fps = (raw_form.size, raw_form.fps) if raw_form else (None, None)
    with open_video(video, size, fps=fps) as opened, target.open("wb") as handle:
        fmt = opened.format
        factor = downscale_factor(fmt.width, fmt.height, max_pixels)

        def kept() -> Iterator[Frame]:
            nonlocal count, width, height
            for frame in opened:
                small = shrink(frame, factor)
                handle.write(small.to_bytes())
                count, width, height = count + 1, small.width, small.height
                yield small
                if count == frames:
                    return

        digest = frames_digest(kept())
        handle.flush()
        os.fsync(handle.fileno())
        notes = [note for note in opened.notes if not note.startswith("matrix")]  # which changes no figure
    return EvaluationSource(
        name=name, video=str(video), path=str(target), width=width, height=height, fps=str(fmt.fps),
        matrix=fmt.matrix, full_range=fmt.full_range, frame_count=count, digest=digest, downscale=factor,
        original_width=fmt.width, original_height=fmt.height, notes=notes,
    )  # fmt: skip


def _cache_key(video: Path, frames: int, max_pixels: int | None, raw_form: RawForm | None) -> str:
    # Of a raw file the name or the caller says what it is; a frame rate said otherwise is another source.
    told = raw_form or (named_form(video) if video.suffix.lower() == ".yuv" else None)
    digest = hashlib.sha256(f"{frames} {max_pixels} {told} ".encode())
    with video.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
