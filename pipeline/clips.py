"""Cutting a stream of frames into clips of N frames that never cross a shot cut.

A shot gives as many whole clips as fit, from its start; what is left at its end is dropped. A shot shorter than N gives
one clip of its whole length, so that nothing short is lost altogether.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.errors import VideoError
from codec.frames import Frame
from pipeline.curation import Bars, find_bars, perceptual_hash, reason_to_drop
from pipeline.ingest_calls import Curation
from pipeline.shots import LOOKAHEAD, ShotCutDetector

_SAMPLED_ROWS = 8  # every eighth row is looked at


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
    only valid until the next frame comes. motion, sharpness, brightness, phash: as in the manifest; bars: what was
    trimmed off; dropped: the rule that leaves it out, or ""."""

    array: NDArray[np.uint8]
    first_frame: int
    motion: float
    sharpness: float
    brightness: float = 0.0
    phash: str = ""
    bars: Bars = (0, 0, 0, 0)
    dropped: str = ""


class ClipCutter:
    """Feed pictures (Frames, or RGB arrays); hands each finished clip to `on_clip`."""

    def __init__(
        self,
        geometry: Geometry,
        clip_frames: int,
        rgb: bool,
        on_clip: Callable[[Clip], None],
        curation: Curation = Curation(),
    ) -> None:
        self._geometry, self._clip_frames, self._rgb, self._on_clip = geometry, clip_frames, rgb, on_clip
        self._curation = curation
        g, slots = geometry, clip_frames + LOOKAHEAD
        if rgb:
            shape: tuple[int, ...] = (slots, g.height, g.width, 3)
        else:
            shape = (slots, (g.height + g.height % 2) * 3 // 2, g.width + g.width % 2)
        # The clip so far, then the frames whose place in a shot is not known yet. Pictures are put here as they come,
        # while the processor's caches hold them.
        self._buffer = np.empty(shape, np.uint8)
        self._slots = [frame if rgb else Slot.of(frame) for frame in self._buffer]
        self._filled = self._waiting = 0
        self._steps: list[float] = []  # of the clip's and the waiting frames
        self._shot_has_clip = False
        self._detector = ShotCutDetector()
        self._next = 0  # index of the first waiting frame
        self._cuts: set[int] = set()
        self.frames = 0

    def push(self, picture: Frame | NDArray[np.uint8]) -> None:
        """Take the next picture, which is copied; its place in a shot is known a few frames later."""
        luma = picture.y if isinstance(picture, Frame) else picture[..., 1]
        self._cuts.update(self._detector.push(luma))
        _place(picture, self._geometry, self._slots[self._filled + self._waiting])
        self._steps.append(self._detector.last_step)
        self._waiting += 1
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
        if self._next in self._cuts:
            self._cuts.remove(self._next)
            self._end_shot()
        self._waiting -= 1
        self._filled += 1
        self._next += 1
        if self._filled == self._clip_frames:
            self._hand_out()

    def _end_shot(self) -> None:
        if self._filled and not self._shot_has_clip:
            self._hand_out()
        self._forget()
        self._shot_has_clip = False

    def _forget(self) -> None:
        """Drop the clip's frames; those that wait are the first of the next."""
        if self._filled:
            for place in range(self._waiting):
                self._buffer[place] = self._buffer[self._filled + place]
            del self._steps[: self._filled]
            self._filled = 0

    def _hand_out(self) -> None:
        self._on_clip(self._clip(self._buffer[: self._filled], self._steps[1 : self._filled]))
        self._shot_has_clip = True
        self._forget()

    def _clip(self, array: NDArray[np.uint8], steps: list[float]) -> Clip:
        motion = float(np.mean(steps)) if steps else 0.0
        luma = array[..., 1] if self._rgb else array[:, : self._geometry.height, : self._geometry.width]
        few = [luma[t] for t in (0, len(array) // 2, len(array) - 1)]
        bars = find_bars(np.stack(few)) if self._curation.trim_bars else (0, 0, 0, 0)
        if any(bars):
            array = trimmed(array, bars, self._rgb)
            few = [frame[bars[0] : len(frame) - bars[1], bars[2] : frame.shape[1] - bars[3]] for frame in few]
        sampled = np.stack([frame[::_SAMPLED_ROWS] for frame in few])
        middle = sampled[1].astype(np.int16)
        sharpness = float(np.abs(np.diff(middle, axis=1)).mean()) if middle.shape[1] > 1 else 0.0
        dropped = reason_to_drop(self._curation, sampled, motion)
        phash = "" if dropped else perceptual_hash(few[1:])
        first, brightness = self._next - self._filled, float(sampled.mean())
        return Clip(array, first, motion, sharpness, brightness, phash, bars, dropped)


@dataclass(frozen=True)
class Slot:
    """Views of the planes of one frame of a clip's I420 buffer: y (H, W), chroma U and V (H/2, W/2)."""

    y: NDArray[np.uint8]
    chroma: tuple[NDArray[np.uint8], NDArray[np.uint8]]

    @staticmethod
    def of(frame: NDArray[np.uint8]) -> Slot:
        """frame: (H*3/2, W)."""
        width, height = frame.shape[1], frame.shape[0] * 2 // 3
        u, v = frame[height:].reshape(2, height // 2, width // 2)
        return Slot(frame[:height], (u, v))


def trimmed(array: NDArray[np.uint8], bars: Bars, rgb: bool) -> NDArray[np.uint8]:
    """A copy of a clip's array (see Clip) without its bars, which are even numbers of rows and columns."""
    top, bottom, left, right = bars
    if rgb:
        return array[:, top : array.shape[1] - bottom, left : array.shape[2] - right].copy()
    height, width = array.shape[1] * 2 // 3 - top - bottom, array.shape[2] - left - right
    smaller = np.empty((len(array), height * 3 // 2, width), np.uint8)
    for old, new in zip(map(Slot.of, array), map(Slot.of, smaller), strict=True):
        new.y[...] = old.y[top : top + height, left : left + width]
        for before, after in zip(old.chroma, new.chroma, strict=True):
            after[...] = before[top // 2 :, left // 2 :][: height // 2, : width // 2]
    return smaller


def _place(picture: Frame | NDArray[np.uint8], g: Geometry, out: Slot | NDArray[np.uint8]) -> None:
    """Downscale, crop, pad by edge and store one picture."""
    if not isinstance(picture, Frame) or not isinstance(out, Slot):
        assert isinstance(picture, np.ndarray) and isinstance(out, np.ndarray)
        out[...] = _window(picture, g.x, g.y, g.width, g.height, g.downscale)
        return
    height, width = out.y.shape
    out.y[: g.height, : g.width] = _window(picture.y, g.x, g.y, g.width, g.height, g.downscale)
    if width > g.width:
        out.y[:, -1] = out.y[:, -2] if width > 1 else 0
    if height > g.height:
        out.y[-1] = out.y[-2]
    x, y, height, width = g.x // 2, g.y // 2, height // 2, width // 2
    out.chroma[0][...] = _window(picture.u, x, y, width, height, g.downscale)
    out.chroma[1][...] = _window(picture.v, x, y, width, height, g.downscale)


def _window(plane: NDArray[np.uint8], x: int, y: int, width: int, height: int, scale: int) -> NDArray[np.uint8]:
    """The window (height, width) at (x, y) of a plane downscaled by area (rounded means of scale x scale samples)."""
    part = plane[y * scale : (y + height) * scale, x * scale : (x + width) * scale]
    if scale == 1:
        return part
    columns = sum((part[:, i::scale] for i in range(1, scale)), part[:, ::scale].astype(np.uint32))
    total = sum((columns[i::scale] for i in range(1, scale)), columns[::scale])
    return ((total + scale * scale // 2) // (scale * scale)).astype(np.uint8)
