"""Cutting a stream of frames into clips of N frames that never cross a shot cut.

A shot gives as many whole clips as fit, from its start; what is left at its end is dropped. A shot shorter than N gives
one clip of its whole length, so that nothing short is lost altogether.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.errors import VideoError
from codec.frames import Frame
from pipeline.shots import ShotCutDetector

_SHARPNESS_ROWS = 8  # every eighth row is looked at


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes the clip's picture: area downscale by an integer, then a centre crop.

    width, height: of the clip's picture; x, y: its place in the downscaled picture; even, so that chroma fits.
    """

    width: int
    height: int
    x: int
    y: int
    downscale: int

    @staticmethod
    def of(width: int, height: int, crop: tuple[int, int] | None, downscale: int) -> Geometry:
        """For a source of width x height. Where it is smaller than `crop` (width, height), that side is kept whole.

        Raises VideoError where nothing would be left after downscaling.
        """
        if min(width, height) < 2 * downscale and downscale > 1:
            raise VideoError(f"{width}x{height} is too small to be downscaled by {downscale}")
        if downscale > 1:
            width, height = (max(2, side // downscale // 2 * 2) for side in (width, height))
        crop_width, crop_height = (min(a, b) for a, b in zip(crop or (width, height), (width, height), strict=True))
        x, y = (width - crop_width) // 4 * 2, (height - crop_height) // 4 * 2
        return Geometry(crop_width, crop_height, x, y, downscale)


@dataclass(frozen=True)
class Clip:
    """A finished clip. array: uint8, I420 planes stacked (T, H*3/2, W) with H and W even, or RGB (T, H, W, 3); it is
    only valid until the next frame comes. motion, sharpness: as in the manifest."""

    array: NDArray[np.uint8]
    first_frame: int
    motion: float
    sharpness: float


class ClipCutter:
    """Feed pictures (Frames, or RGB arrays); hands each finished clip to `on_clip`."""

    def __init__(self, geometry: Geometry, clip_frames: int, rgb: bool, on_clip: Callable[[Clip], None]) -> None:
        self._geometry, self._clip_frames, self._rgb, self._on_clip = geometry, clip_frames, rgb, on_clip
        g = geometry
        if rgb:
            shape: tuple[int, ...] = (clip_frames, g.height, g.width, 3)
        else:
            shape = (clip_frames, (g.height + g.height % 2) * 3 // 2, g.width + g.width % 2)
        self._buffer = np.empty(shape, np.uint8)
        self._filled = 0
        self._steps: list[float] = []
        self._shot_has_clip = False
        self._detector = ShotCutDetector()
        self._waiting: deque[tuple[Frame | NDArray[np.uint8], float]] = deque()
        self._next = 0  # index of the first waiting frame
        self._cuts: set[int] = set()
        self.frames = 0

    def push(self, picture: Frame | NDArray[np.uint8]) -> None:
        """Take the next picture; it is held for a few frames until its place in a shot is known."""
        luma = picture.y if isinstance(picture, Frame) else picture[..., 1]
        self._cuts.update(self._detector.push(luma))
        self._waiting.append((picture, self._detector.last_step))
        self.frames += 1
        while self._next < self._detector.judged:
            self._take()

    def finish(self) -> None:
        """The video is over: hand out what is left."""
        self._cuts.update(self._detector.finish())
        while self._waiting:
            self._take()
        self._end_shot()

    def _take(self) -> None:
        picture, step = self._waiting.popleft()
        if self._next in self._cuts:
            self._cuts.remove(self._next)
            self._end_shot()
        _place(picture, self._geometry, self._buffer[self._filled])
        self._steps.append(step)
        self._filled += 1
        self._next += 1
        if self._filled == self._clip_frames:
            self._hand_out()

    def _end_shot(self) -> None:
        if self._filled and not self._shot_has_clip:
            self._hand_out()
        self._filled, self._shot_has_clip = 0, False
        self._steps.clear()

    def _hand_out(self) -> None:
        array = self._buffer[: self._filled]
        picture = array[self._filled // 2]
        rows = picture[::_SHARPNESS_ROWS, :, 1] if self._rgb else picture[: self._geometry.height : _SHARPNESS_ROWS]
        sharpness = float(np.abs(np.diff(rows.astype(np.int16), axis=1)).mean()) if rows.shape[1] > 1 else 0.0
        motion = float(np.mean(self._steps[1:])) if len(self._steps) > 1 else 0.0
        self._on_clip(Clip(array, self._next - self._filled, motion, sharpness))
        self._filled, self._shot_has_clip = 0, True
        self._steps.clear()


def _place(picture: Frame | NDArray[np.uint8], g: Geometry, out: NDArray[np.uint8]) -> None:
    """Downscale, crop, pad by edge and store one picture; `out` is one frame of the clip's array."""
    if not isinstance(picture, Frame):
        out[...] = _window(picture, g.x, g.y, g.width, g.height, g.downscale)
        return
    width, height = out.shape[1], out.shape[0] * 2 // 3
    luma, chroma = width * height, width * height // 4
    flat = out.reshape(-1)
    y = flat[:luma].reshape(height, width)
    y[: g.height, : g.width] = _window(picture.y, g.x, g.y, g.width, g.height, g.downscale)
    if width > g.width:
        y[:, -1] = y[:, -2] if width > 1 else 0
    if height > g.height:
        y[-1] = y[-2]
    for i, plane in enumerate((picture.u, picture.v)):
        target = flat[luma + i * chroma : luma + (i + 1) * chroma].reshape(height // 2, width // 2)
        target[...] = _window(plane, g.x // 2, g.y // 2, width // 2, height // 2, g.downscale)


def _window(plane: NDArray[np.uint8], x: int, y: int, width: int, height: int, scale: int) -> NDArray[np.uint8]:
    """The window (height, width) at (x, y) of a plane downscaled by area (rounded means of scale x scale samples)."""
    part = plane[y * scale : (y + height) * scale, x * scale : (x + width) * scale]
    if scale == 1:
        return part
    columns = sum((part[:, i::scale] for i in range(1, scale)), part[:, ::scale].astype(np.uint32))
    total = sum((columns[i::scale] for i in range(1, scale)), columns[::scale])
    return ((total + scale * scale // 2) // (scale * scale)).astype(np.uint8)
