"""Rendered demo videos, for where no footage is at hand; not real footage, and to be named so.

A camera moves over photographs that come with scikit-image and scikit-learn; objects cut from other photographs move on
their own; sensor noise lies on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.colour import rgb_format, rgb_to_frame
from pipeline.video_files import open_writer

Picture = NDArray[np.float32]  # (H, W, 3), 0..255

_PHOTOGRAPHS = (
    ("skimage", "astronaut.png"),
    ("sklearn", "china.jpg"),
    ("skimage", "coffee.png"),
    ("skimage", "chelsea.png"),
    ("sklearn", "flower.jpg"),
    ("skimage", "motorcycle_left.png"),
    ("skimage", "rocket.jpg"),
    ("skimage", "hubble_deep_field.jpg"),
    ("skimage", "ihc.png"),
    ("skimage", "gravel.png"),
    ("skimage", "grass.png"),
    ("skimage", "retina.jpg"),
)
_FPS = Fraction(25)
_NOISE = 1.5  # standard deviation, 8-bit units


def render_demo_videos(
    folder: Path,
    count: int,
    frames: int,
    size: tuple[int, int] = (416, 240),
    seed: int = 0,
    on_video: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write `count` lossless 4:2:0 videos (FFV1 .mkv) of `frames` frames, size (width, height), into `folder`.

    The same arguments give the same pixels. on_video gets the number of videos done. Raises ValueError where a
    count or side is below 1.
    """
    if count < 1 or frames < 1 or min(size) < 1:
        raise ValueError("count, frames and both sides must be at least 1")
    paths = []
    for index in range(count):
        path = folder / f"rendered-{index:02d}.mkv"
        first = next(pictures := _render(index, frames, size, np.random.default_rng([seed, index])))
        with open_writer(path, rgb_format(first, _FPS)) as writer:
            writer.write(rgb_to_frame(first))
            for picture in pictures:
                writer.write(rgb_to_frame(picture))
        paths.append(path)
        if on_video is not None:
            on_video(index + 1)
    return paths


def _render(index: int, frames: int, size: tuple[int, int], rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Pictures (H, W, 3) uint8 of one video."""
    scene = _photograph(index)
    objects = [_Object(_photograph(index + 1 + i), size, frames, rng) for i in range(2)]
    camera = _Camera(scene.shape[1], scene.shape[0], size, frames, rng)
    for t in range(frames):
        picture = _sample(scene, *camera.rays(t))
        for thing in objects:
            thing.draw(picture, t)
        picture += rng.normal(0, _NOISE, picture.shape).astype(np.float32)
        yield np.clip(np.rint(picture), 0, 255).astype(np.uint8)


class _Path:
    """A smooth walk of one quantity over the video: a slow drift and two sines."""

    def __init__(self, rng: np.random.Generator, low: float, high: float, frames: int, turns: float = 1.0) -> None:
        self._start, self._end = rng.uniform(low, high, 2)
        self._sway = (high - low) * rng.uniform(0.03, 0.1, 2)
        self._phase = rng.uniform(0, 2 * np.pi, 2)
        self._speed = 2 * np.pi * turns * np.array([1.0, 2.3]) * rng.uniform(0.5, 1.2, 2)
        # Speeds are per second of video, not per video, so that a longer one is not a calmer one.
        self._period = max(frames / 50, 1.0)

    def at(self, t: int) -> float:
        seconds = t / float(_FPS)
        ease = 0.5 - 0.5 * np.cos(np.pi * seconds / (2 * self._period))
        sway = np.sum(self._sway * np.sin(self._phase + self._speed * seconds))
        return float(self._start + (self._end - self._start) * ease + sway)


class _Camera:
    """Pan, zoom, rotation and a little perspective, all smooth and with sub-pixel steps."""

    def __init__(self, width: int, height: int, size: tuple[int, int], frames: int, rng: np.random.Generator) -> None:
        self._size = size
        self._fit = min(width / size[0], height / size[1])  # scene pixels a picture pixel when just filling it
        self._x = _Path(rng, 0.38 * width, 0.62 * width, frames)
        self._y = _Path(rng, 0.4 * height, 0.6 * height, frames)
        self._zoom = _Path(rng, 0.55, 0.8, frames)
        self._angle = _Path(rng, -0.06, 0.06, frames)
        self._tilt = _Path(rng, -0.12, 0.12, frames)

    def rays(self, t: int) -> tuple[Picture, Picture]:
        """Where in the scene each picture pixel looks: x and y, each (H, W)."""
        width, height = self._size
        ys, xs = np.mgrid[:height, :width].astype(np.float32)
        xs, ys = xs - (width - 1) / 2, ys - (height - 1) / 2
        depth = 1 + self._tilt.at(t) * xs / width
        scale = self._fit * self._zoom.at(t) / depth
        cos, sin = np.cos(self._angle.at(t)), np.sin(self._angle.at(t))
        return self._x.at(t) + scale * (cos * xs - sin * ys), self._y.at(t) + scale * (sin * xs + cos * ys)


class _Object:
    """A soft-edged disc cut from a photograph that wanders and turns on its own."""

    def __init__(self, texture: Picture, size: tuple[int, int], frames: int, rng: np.random.Generator) -> None:
        width, height = size
        self._texture = texture
        self._radius = float(rng.uniform(0.1, 0.18) * min(size))
        self._x = _Path(rng, 0.1 * width, 0.9 * width, frames)
        self._y = _Path(rng, 0.15 * height, 0.85 * height, frames)
        self._angle = _Path(rng, -0.8, 0.8, frames)

    def draw(self, picture: Picture, t: int) -> None:
        """Blend the object into picture (H, W, 3) in place."""
        cx, cy, radius = self._x.at(t), self._y.at(t), self._radius
        top, bottom = max(0, int(cy - radius - 2)), min(picture.shape[0], int(cy + radius + 3))
        left, right = max(0, int(cx - radius - 2)), min(picture.shape[1], int(cx + radius + 3))
        if top >= bottom or left >= right:
            return
        ys, xs = np.mgrid[top:bottom, left:right].astype(np.float32)
        xs, ys = xs - cx, ys - cy
        cover = np.clip(radius - np.hypot(xs, ys), 0, 1)[..., None].astype(np.float32)
        cos, sin = np.cos(self._angle.at(t)), np.sin(self._angle.at(t))
        height, width = self._texture.shape[:2]
        looks = _sample(self._texture, width / 2 + cos * xs - sin * ys, height / 2 + sin * xs + cos * ys)
        area = picture[top:bottom, left:right]
        area += cover * (looks - area)


def _sample(scene: Picture, xs: NDArray[np.float32], ys: NDArray[np.float32]) -> Picture:
    """Bilinear samples of the scene at positions (H, W); outside, the scene is mirrored."""
    height, width = scene.shape[:2]
    xs, ys = _mirrored(xs, width - 1), _mirrored(ys, height - 1)
    left, top = np.minimum(xs.astype(np.int32), width - 2), np.minimum(ys.astype(np.int32), height - 2)
    fx, fy = (xs - left)[..., None].astype(np.float32), (ys - top)[..., None].astype(np.float32)
    upper = scene[top, left] * (1 - fx) + scene[top, left + 1] * fx
    lower = scene[top + 1, left] * (1 - fx) + scene[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def _mirrored(values: NDArray[np.float32], last: int) -> NDArray[np.float32]:
    folded = np.mod(values, 2 * last)
    return np.where(folded > last, 2 * last - folded, folded)


def _photograph(index: int) -> Picture:
    """One of the photographs as (H, W, 3) float32, 0..255."""
    from PIL import Image

    package, name = _PHOTOGRAPHS[index % len(_PHOTOGRAPHS)]
    if package == "skimage":
        import skimage

        path = Path(skimage.__file__).parent / "data" / name
    else:
        import sklearn

        path = Path(sklearn.__file__).parent / "datasets" / "images" / name
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32)
