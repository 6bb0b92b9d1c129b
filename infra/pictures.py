"""A decoded frame as a picture for people: WebP files and data URLs for reports."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from codec.atomic_files import write_atomically
from codec.colour import frame_to_rgb
from codec.frames import Frame, VideoFormat

_LOSSLESS_PIXELS = 500_000  # pictures up to this size are kept exactly: reports make error maps of them
_QUALITY = 95


def write_picture(path: Path, frame: Frame, fmt: VideoFormat) -> None:
    """Write `frame` as a WebP picture, by rename."""
    from PIL import Image

    buffer = io.BytesIO()
    exact = frame.width * frame.height <= _LOSSLESS_PIXELS
    Image.fromarray(frame_to_rgb(frame, fmt)).save(buffer, "WEBP", quality=_QUALITY, lossless=exact)
    write_atomically(path, buffer.getvalue())


def data_url(path: Path) -> str:
    """A WebP file as a data: URL, for pages that need no other file."""
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()
