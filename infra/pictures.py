"""A decoded frame as a picture for people: WebP files and data URLs for reports."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.atomic_files import write_atomically
from codec.frames import Frame, Plane, VideoFormat

# Luma weights of red and blue; green is the rest.
_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
_QUALITY = 92


def frame_to_rgb(frame: Frame, fmt: VideoFormat) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB for looking at; chroma repeated to luma's size. Not for measuring."""
    red, blue = _WEIGHTS[fmt.matrix]
    y = frame.y.astype(np.float32)
    up = [
        np.repeat(np.repeat(p, 2, 0), 2, 1)[: frame.height, : frame.width].astype(np.float32) for p in frame.planes[1:]
    ]
    u, v = up[0] - 128.0, up[1] - 128.0
    if not fmt.full_range:
        y, u, v = (y - 16.0) * (255.0 / 219.0), u * (255.0 / 224.0), v * (255.0 / 224.0)
    r = y + 2.0 * (1.0 - red) * v
    b = y + 2.0 * (1.0 - blue) * u
    g = (y - red * r - blue * b) / (1.0 - red - blue)
    return np.clip(np.rint(np.stack([r, g, b], -1)), 0, 255).astype(np.uint8)


def _to_luma_size(plane: Plane, height: int, width: int) -> Plane:
    return np.repeat(np.repeat(plane, 2, axis=0), 2, axis=1)[:height, :width]


def write_picture(path: Path, frame: Frame, fmt: VideoFormat) -> None:
    """Write `frame` as a WebP picture, by rename."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame_to_rgb(frame, fmt)).save(buffer, "WEBP", quality=_QUALITY)
    write_atomically(path, buffer.getvalue())


def data_url(path: Path) -> str:
    """A WebP file as a data: URL, for pages that need no other file."""
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()
