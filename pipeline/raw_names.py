"""What the name of a raw .yuv file says of it: `Jockey_1920x1080_120fps_420_8bit_YUV.yuv`, `BQSquare_416x240_60.yuv`.

A raw file is nothing but samples, so its size has to be told. Here raw files are planar 4:2:0 of 8 bit; what a name
calls otherwise is refused, since reading it would give noise without a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from codec.errors import UsageError

_SIZE = re.compile(r"(?<![0-9])([1-9][0-9]{1,4})x([1-9][0-9]{1,4})(?![0-9])")
_FPS = re.compile(r"(?:^|[_-])([0-9]{1,3}(?:\.[0-9]{1,3})?)(?:fps|hz|p)?(?=[_-]|$)", re.I)
_DEPTH = re.compile(
    r"(?:^|[_-])(?:(?:yuv)?4[024][024]p(?=1)|(?=[0-9]+b))(9|1[0246])(?:b(?:its?|pc|e)?|le)?(?=[_-]|$)", re.I
)
_LAYOUT = re.compile(r"(?:^|[_-])(?:yuv)?(422|444)p?(?=[_-]|$)", re.I)
_USUAL_NTSC = {"23.98": Fraction(24000, 1001), "29.97": Fraction(30000, 1001), "59.94": Fraction(60000, 1001)}


@dataclass(frozen=True)
class RawForm:
    """size: (width, height) in luma samples. fps: None where it was not said."""

    size: tuple[int, int]
    fps: Fraction | None = None

    @property
    def frame_bytes(self) -> int:
        width, height = self.size
        return width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)


def raw_form(path: Path) -> RawForm | None:
    """Size and frame rate as the name says them, None where it names no size.

    Raises UsageError where the name says that the samples are not 8-bit 4:2:0.
    """
    stem = path.stem
    size = _SIZE.search(stem)
    if size is None:
        return None
    rest = stem[size.end() :]
    depth, layout = _DEPTH.search(rest), _LAYOUT.search(rest)
    if depth or layout:
        what = f"{depth[1]} bit" if depth else f"4:{layout[1][1]}:{layout[1][2]}" if layout else ""
        raise UsageError(
            f"{path}: its name says {what}, and raw files here are 8-bit 4:2:0; convert it first: "
            f"ffmpeg -f rawvideo -pix_fmt … -s {size[1]}x{size[2]} -i IN.yuv -pix_fmt yuv420p OUT.y4m"
        )
    rate = _FPS.search(rest)
    return RawForm((int(size[1]), int(size[2])), _fps(rate[1]) if rate else None)


def _fps(text: str) -> Fraction | None:
    value = _USUAL_NTSC.get(text) or Fraction(text)
    return value if 0 < value <= 300 else None  # a larger number means something else, such as 420
