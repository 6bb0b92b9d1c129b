"""A frame as the codecs see it: three 8-bit planes, 4:2:0, exactly as they are stored in the video."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoFormat:
    """What holds for every frame of a video.

    `matrix` is "bt601", "bt709" or "bt2020"; `full_range` is False for the usual 16..235 luma.
    """

    width: int
    height: int
    fps: Fraction = field(default=Fraction(25))
    matrix: str = "bt709"
    full_range: bool = False

    @property
    def chroma_size(self) -> tuple[int, int]:
        """(width, height) of the chroma planes; odd luma sizes round up, as FFmpeg does."""
        return (self.width + 1) // 2, (self.height + 1) // 2


@dataclass(frozen=True)
class Frame:
    """One 4:2:0 picture: y (H, W), u and v (ceil(H/2), ceil(W/2)), all uint8.

    Raises ValueError where the planes' sizes or types do not belong together.
    """

    y: Plane
    u: Plane
    v: Plane

    def __post_init__(self) -> None:
        height, width = self.y.shape
        chroma = ((height + 1) // 2, (width + 1) // 2)
        if self.u.shape != chroma or self.v.shape != chroma:
            raise ValueError(f"chroma planes {self.u.shape}, {self.v.shape} do not belong to luma {self.y.shape}")
        if not (self.y.dtype == self.u.dtype == self.v.dtype == np.uint8):
            raise ValueError("planes must be uint8")

    @property
    def width(self) -> int:
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        return int(self.y.shape[0])

    @property
    def planes(self) -> tuple[Plane, Plane, Plane]:
        return self.y, self.u, self.v

    def to_bytes(self) -> bytes:
        """The planes one after another (I420), as a raw .yuv file holds them."""
        return b"".join(np.ascontiguousarray(p).tobytes() for p in self.planes)

    @staticmethod
    def from_bytes(data: bytes | memoryview, width: int, height: int) -> Frame:
        """The inverse of `to_bytes`; raises ValueError where the length does not fit the size."""
        cw, ch = (width + 1) // 2, (height + 1) // 2
        flat = np.frombuffer(data, np.uint8)
        if flat.size != width * height + 2 * cw * ch:
            raise ValueError(f"{flat.size} bytes are not one {width}x{height} 4:2:0 frame")
        luma, chroma = width * height, cw * ch
        return Frame(
            flat[:luma].reshape(height, width),
            flat[luma : luma + chroma].reshape(ch, cw),
            flat[luma + chroma :].reshape(ch, cw),
        )


def frames_digest(frames: Iterable[Frame]) -> str:
    """SHA-256 over the planes of all frames in order: two videos with equal digests hold the very same pixels."""
    digest = hashlib.sha256()
    for frame in frames:
        add_planes(digest, frame)
    return digest.hexdigest()


def add_planes(digest: hashlib._Hash, frame: Frame) -> None:
    """What `frames_digest` takes in of one frame."""
    for plane in frame.planes:
        digest.update(np.ascontiguousarray(plane).data)
