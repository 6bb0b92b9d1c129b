"""What a clip is worth: static, black, black bars around it, and a hash by which near-duplicates are found.

All of it is read off a finished clip in memory, from a few of its frames. Levels are 8-bit luma of either range.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest_calls import Curation

STATIC, BLACK, NEAR_DUPLICATE = "static", "black", "near-duplicate"
# Mean luma step between frames. Talking heads before a still camera have 0.8 and more, a still picture that a codec
# refreshes now and then has up to 0.1.
_STATIC_MOTION = 0.25
_BLACK_LEVEL, _BLACK_MEAN, _BRIGHT_SHARE = 48, 28.0, 0.001
_BAR_LEVEL, _BAR_SPREAD, _EDGE_LEVEL = 36, 12, 56
_LEAST_BAR = 4  # rows or columns; thinner ones are a codec's edge
_STRETCHES, _LOW, _SAMPLES = 32, 8, 192
_NO_BARS = (0, 0, 0, 0)

Bars = tuple[int, int, int, int]  # top, bottom, left, right


def reason_to_drop(rules: Curation, luma: NDArray[np.uint8], motion: float) -> str:
    """The rule by which a clip is left out, or "". luma: a few frames (N, H, W); motion: as in the manifest."""
    if rules.drop_black and is_black(luma):
        return BLACK
    return STATIC if rules.drop_static and len(luma) > 1 and motion < _STATIC_MOTION else ""


def is_black(luma: NDArray[np.uint8]) -> bool:
    """Whether hardly anything is seen in frames (N, H, W)."""
    return bool(luma.mean() < _BLACK_MEAN and (luma > _BLACK_LEVEL).mean() < _BRIGHT_SHARE)


def find_bars(luma: NDArray[np.uint8]) -> Bars:
    """Black rows and columns around the picture in all of the frames (N, H, W), as even numbers; (0, 0, 0, 0) where
    there are none, or where so little would be left that the scene is dark rather than barred."""
    top, bottom = _margins(luma.max(axis=(0, 2)), luma.min(axis=(0, 2)))
    inside = luma[:, top : luma.shape[1] - bottom]
    if inside.shape[1] == 0:
        return _NO_BARS
    left, right = _margins(inside.max(axis=(0, 1)), inside.min(axis=(0, 1)))
    height, width = luma.shape[1] - top - bottom, luma.shape[2] - left - right
    return (top, bottom, left, right) if 2 * height >= luma.shape[1] and 2 * width >= luma.shape[2] else _NO_BARS


def _margins(brightest: NDArray[np.uint8], darkest: NDArray[np.uint8]) -> tuple[int, int]:
    """Lines that are bars at the start and the end, given each line's extremes."""
    bar = (brightest <= _BAR_LEVEL) & (brightest - darkest <= _BAR_SPREAD)
    if bar.all():
        return len(bar), 0
    return _margin(bar, brightest), _margin(bar[::-1], brightest[::-1])


def _margin(bar: NDArray[np.bool_], brightest: NDArray[np.uint8]) -> int:
    count = int(np.argmin(bar))
    # A bar ends in a picture within a few lines; a dark scene fades out of the black.
    if count < _LEAST_BAR or brightest[count : count + 4].max() < _EDGE_LEVEL:
        return 0
    return count + count % 2


def perceptual_hash(luma: Sequence[NDArray[np.uint8]]) -> str:
    """128 bits in hex of two frames (H, W): of each, the signs of its 8x8 lowest frequencies about their median.

    Coding, scaling and small shifts of level change a few bits of it.
    """
    down, across = (max(1, side // _SAMPLES) for side in luma[0].shape)
    low = np.stack([_lowest(frame[::down, ::across]) for frame in luma])
    low[:, 0] = -np.inf  # the mean says nothing but how bright it is
    median = np.sort(low)[:, _LOW * _LOW // 2, None]
    return np.packbits(low > median).tobytes().hex()


def _lowest(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(64,): the lowest frequencies of a picture (H, W)."""
    height, width = luma.shape
    return (_transform(height) @ (luma.astype(np.float32) @ _transform(width).T)).reshape(-1)


@lru_cache(8)
def _transform(length: int) -> NDArray[np.float32]:
    """(8, length): the lowest cosines of the means of 32 equal stretches."""
    stretch = np.arange(length) * _STRETCHES // length
    counts = np.maximum(np.bincount(stretch, minlength=_STRETCHES), 1)
    cosines = np.cos(np.pi / _STRETCHES * np.outer(np.arange(_LOW), np.arange(_STRETCHES) + 0.5))
    return (cosines / counts)[:, stretch].astype(np.float32)
