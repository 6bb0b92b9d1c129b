"""Cutting a stream of frames into clips of N frames that never cross a shot cut.

A shot gives as many whole clips as fit, from its start; what is left at its end is dropped. A shot shorter than N gives
one clip of its whole length, so that nothing short is lost altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codec.errors import VideoError
from codec.frames import Frame
from pipeline.curation import Bars, find_bars, perceptual_hash, reason_to_drop
from pipeline.decoders import PlaneViews
from pipeline.ingest_calls import Curation
from pipeline.shots import LOOKAHEAD, ShotCutDetector

Picture = Frame | PlaneViews | NDArray[np.uint8]  # the last: RGB (H, W, 3)

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


class ClipMemory(Protocol):
    """Where clips are made."""

    def room(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for the next clip, uint8 of this shape. Asked for again, it may be the same."""

    def settle(self, frames: int) -> None:
        """The first frames of the room, so many, are made. They stay as they are until a room is asked for again."""


class FreshMemory:
    """A new array for every clip."""

    def room(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return np.empty(shape, np.uint8)

    def settle(self, frames: int) -> None:
        return


class ClipCutter:
    """Feed pictures, a few at a time; makes each clip in a room of `memory` and hands it to `on_clip`."""

    def __init__(
        self,
        geometry: Geometry,
        clip_frames: int,
        rgb: bool,
        on_clip: Callable[[Clip], None],
        curation: Curation = Curation(),
        memory: ClipMemory = FreshMemory(),
    ) -> None:
        self._geometry, self._clip_frames, self._rgb, self._on_clip = geometry, clip_frames, rgb, on_clip
        self._curation, self._memory = curation, memory
        g = geometry
        if rgb:
            self._shape: tuple[int, ...] = (clip_frames, g.height, g.width, 3)
        else:
            self._shape = (clip_frames, (g.height + g.height % 2) * 3 // 2, g.width + g.width % 2)
        self._padded = not rgb and bool(g.width % 2 or g.height % 2)
        self._luma, self._chroma = _window(g, 1), _window(g, 2)
        self._array: NDArray[np.uint8] | None = None  # the clip so far, `_filled` frames of it
        self._planes: Planes | None = None
        self._filled = 0
        self._steps: list[float] = []  # of the clip's frames
        # Pictures whose place in a shot is not known yet. The first `_placed` of them lie behind the clip's frames
        # already, copied while the processor's caches held them; after a cut they are copied once more.
        self._waiting: list[Picture] = []
        self._placed = 0
        self._shot_has_clip = False
        self._detector = ShotCutDetector()
        self._next = 0  # index of the first waiting frame
        self._cuts: set[int] = set()
        self.frames = 0

    def push(self, pictures: Sequence[Picture]) -> None:
        """Take the next pictures, which must not change any more; their place in a shot is known a few frames later."""
        for picture in pictures:
            self._waiting.append(picture)
            self._place_waiting()
            self._detector.look(picture[..., 1] if isinstance(picture, np.ndarray) else picture.y)
            if len(self._waiting) - (self._clip_frames - self._filled) >= LOOKAHEAD:
                self._take(self._detector.judge())  # the clip is whole: what follows has its place now
        self._take(self._detector.judge())
        self.frames += len(pictures)

    def finish(self) -> None:
        """The video is over: hand out what is left."""
        self._take(self._detector.finish())
        self._end_shot()

    def _take(self, cuts: list[int]) -> None:
        """Move on as far as cuts are known, these now as well, from one cut or end of a clip to the next."""
        self._cuts.update(cuts)
        judged = self._detector.judged
        while self._next < judged:
            if self._next in self._cuts:
                self._cuts.remove(self._next)
                self._end_shot()
            self._place_waiting()
            run = min(judged, self._next + self._clip_frames - self._filled, *self._cuts) - self._next
            self._steps += self._detector.steps(run)
            del self._waiting[:run]
            self._placed -= run
            self._filled += run
            self._next += run
            if self._filled == self._clip_frames:
                self._hand_out()

    def _place_waiting(self) -> None:
        """Copy waiting pictures behind the clip's frames, as many as the clip can take."""
        for picture in self._waiting[self._placed : self._clip_frames - self._filled]:
            self._place(picture, self._filled + self._placed)
            self._placed += 1
            self._memory.settle(self._filled + self._placed)

    def _place(self, picture: Picture, t: int) -> None:
        """Downscale, crop, pad by edge and store one picture as frame `t` of the clip."""
        if self._array is None:
            self._array = self._memory.room(self._shape)
            self._planes = None if self._rgb else Planes.of(self._array, self._geometry)
        scale, planes = self._geometry.downscale, self._planes
        if isinstance(picture, np.ndarray):
            self._array[t] = _reduced(picture[self._luma], scale)
            return
        assert planes is not None
        y, u, v = picture.y[self._luma], picture.u[self._chroma], picture.v[self._chroma]
        if scale > 1:
            y, u, v = (_reduced(part, scale) for part in (y, u, v))
        planes.picture[t], planes.u[t], planes.v[t] = y, u, v
        if self._padded:
            _pad(planes.y[t], self._geometry)

    def _end_shot(self) -> None:
        if self._filled and not self._shot_has_clip:
            self._hand_out()
        self._begin_clip()
        self._shot_has_clip = False

    def _hand_out(self) -> None:
        assert self._array is not None
        self._on_clip(self._clip(self._array[: self._filled], self._steps[1:]))
        self._shot_has_clip = True
        self._begin_clip()

    def _begin_clip(self) -> None:
        if self._filled:
            self._array, self._planes, self._filled, self._placed = None, None, 0, 0
            self._steps.clear()

    def _clip(self, array: NDArray[np.uint8], steps: list[float]) -> Clip:
        motion = float(np.add.reduce(steps)) / len(steps) if steps else 0.0
        luma = array[..., 1] if self._rgb else array[:, : self._geometry.height, : self._geometry.width]
        few = [luma[t] for t in (0, len(array) // 2, len(array) - 1)]
        bars = find_bars(np.stack(few)) if self._curation.trim_bars else (0, 0, 0, 0)
        if any(bars):
            array = trimmed(array, bars, self._rgb)
            few = [frame[bars[0] : len(frame) - bars[1], bars[2] : frame.shape[1] - bars[3]] for frame in few]
        sampled = np.stack([frame[::_SAMPLED_ROWS] for frame in few])
        right, left_of_it = sampled[1, :, 1:], sampled[1, :, :-1]
        sharpness = _mean(np.maximum(right, left_of_it) - np.minimum(right, left_of_it)) if right.size else 0.0
        dropped = reason_to_drop(self._curation, sampled, motion)
        phash = "" if dropped else perceptual_hash(few[1:])
        first, brightness = self._next - self._filled, _mean(sampled)
        return Clip(array, first, motion, sharpness, brightness, phash, bars, dropped)


def _mean(samples: NDArray[np.uint8]) -> float:
    """Exact, and quicker than by way of floats."""
    width = np.uint32 if samples.size < 1 << 24 else np.uint64
    return int(np.add.reduce(samples, axis=None, dtype=width)) / samples.size


@dataclass(frozen=True)
class Planes:
    """Views of the planes of an I420 clip: y (T, H, W), u and v (T, H/2, W/2); picture: y without what is padded."""

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    picture: NDArray[np.uint8]

    @staticmethod
    def of(array: NDArray[np.uint8], g: Geometry | None = None) -> Planes:
        """array: (T, H*3/2, W), its frames contiguous. g: where the picture may have an odd size."""
        frames, height, width = len(array), array.shape[1] * 2 // 3, array.shape[2]
        chroma = array[:, height:].reshape(frames, 2, height // 2, width // 2)
        luma = array[:, :height]
        return Planes(luma, chroma[:, 0], chroma[:, 1], luma[:, : g.height, : g.width] if g else luma)


def trimmed(array: NDArray[np.uint8], bars: Bars, rgb: bool) -> NDArray[np.uint8]:
    """A copy of a clip's array (see Clip) without its bars, which are even numbers of rows and columns."""
    top, bottom, left, right = bars
    if rgb:
        return array[:, top : array.shape[1] - bottom, left : array.shape[2] - right].copy()
    height, width = array.shape[1] * 2 // 3 - top - bottom, array.shape[2] - left - right
    smaller = np.empty((len(array), height * 3 // 2, width), np.uint8)
    old, new = Planes.of(array), Planes.of(smaller)
    new.y[...] = old.y[:, top : top + height, left : left + width]
    for before, after in ((old.u, new.u), (old.v, new.v)):
        after[...] = before[:, top // 2 :, left // 2 :][:, : height // 2, : width // 2]
    return smaller


def _pad(luma: NDArray[np.uint8], g: Geometry) -> None:
    """Fill the column and the row beyond an odd-sized picture with its edge."""
    if luma.shape[1] > g.width:
        luma[:, -1] = luma[:, -2]
    if luma.shape[0] > g.height:
        luma[-1] = luma[-2]


def _window(g: Geometry, ratio: int) -> tuple[slice, slice]:
    """The rows and columns of a source's plane that the clip shows. ratio: 1 for luma and RGB, 2 for 4:2:0 chroma."""
    height, width = -(-g.height // ratio), -(-g.width // ratio)
    x, y = g.x // ratio, g.y // ratio
    return slice(y * g.downscale, (y + height) * g.downscale), slice(x * g.downscale, (x + width) * g.downscale)


def _reduced(part: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """A picture downscaled by area: rounded means of scale x scale samples."""
    if scale == 1:
        return part
    columns = sum((part[:, i::scale] for i in range(1, scale)), part[:, ::scale].astype(np.uint32))
    total = sum((columns[i::scale] for i in range(1, scale)), columns[::scale])
    return ((total + scale * scale // 2) // (scale * scale)).astype(np.uint8)
