"""Published results of a codec as an anchor: a JSON table by path, matched by sequence name and size.

    {"UVG": {"Beauty_1920x1080_120fps_420_8bit_YUV.yuv": {"022": {"qp": 22, "frame_pixel_num": 2073600,
        "i_frame_num": 1, "p_frame_num": 599, "ave_all_frame_bpp": 0.057, "ave_all_frame_psnr_y": 39.9,
        "ave_all_frame_psnr_u": …, "ave_all_frame_psnr_v": …, "ave_all_frame_msssim_y": …}, …}}}

Set → sequence → point, as the DCVC project publishes VTM's results. Averages are over frames, PSNR in dB, MS-SSIM 0..1
(where it is given). Such a table holds no frames: there are no pictures, no figures by frame and no speeds.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.errors import UsageError
from codec.metrics import psnr_yuv
from infra.evaluation_results import Point
from infra.evaluation_source import EvaluationSource

_SIZED = re.compile(r"^(.+?)[_-]([0-9]{2,5})x([0-9]{2,5})(?![0-9])")
_ANCHOR_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class PublishedSequence:
    """A sequence of a table: how many frames its figures are of, and its points by falling QP."""

    frames: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class PublishedAnchor:
    """A table that was read. name: the file's, without its ending; sequences by (name in small letters, width,
    height)."""

    name: str
    path: str
    sha256: str
    sequences: dict[tuple[str, int, int], PublishedSequence]

    def find(self, source: EvaluationSource) -> PublishedSequence:
        """The table's entry of this source. Raises UsageError where there is none, or the source was shrunk."""
        if source.downscale > 1:
            raise UsageError(f"{self.name}: {source.name} is evaluated at another size than the table's; leave one out")
        for name in _names(source):
            found = self.sequences.get((name, source.width, source.height))
            if found is not None:
                return found
        raise UsageError(
            f"'{self.path}' has no sequence '{source.name}' of {source.width}x{source.height}; it has "
            f"{', '.join(sorted({name for name, _, _ in self.sequences}))}"
        )

    def notes(self, sources: list[EvaluationSource]) -> list[str]:
        """What a reader must know: tables whose figures are of other frames than ours."""
        others = [
            f"{source.name} {there} (ours {source.frame_count})"
            for source in sources
            if (there := self.find(source).frames) != source.frame_count
        ]
        if not others:
            return []
        told = "so its BD-rate there is a hint, not a result"
        return [f"{self.name}: its figures are not of the same frames as ours, {told}: {', '.join(others)}"]


def load_published(path: Path) -> PublishedAnchor:
    """Read a table. Raises UsageError where it is missing or of another form."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"anchor table '{path}': can't be read ({error.strerror or error})") from error
    name = _ANCHOR_NAME.sub("_", path.stem)
    sequences: dict[tuple[str, int, int], PublishedSequence] = {}
    try:
        for listed in json.loads(data).values():
            for file, points in listed.items():
                sized = _SIZED.match(file)
                if sized is None:
                    raise ValueError(f"'{file}' names no size such as _1920x1080")
                size = int(sized[2]), int(sized[3])
                sequences[(sized[1].lower(), *size)] = _sequence(name, list(points.values()), *size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"anchor table '{path}': not set → sequence → point with bpp and PSNR ({reason})") from error
    if not sequences:
        raise UsageError(f"anchor table '{path}': it has no sequences")
    return PublishedAnchor(name, str(path), hashlib.sha256(data).hexdigest(), sequences)


def _sequence(name: str, points: list[dict[str, Any]], width: int, height: int) -> PublishedSequence:
    counts = {int(p["i_frame_num"]) + int(p["p_frame_num"]) for p in points}
    if len(counts) != 1:
        raise ValueError(f"points of {width}x{height} are of {sorted(counts)} frames")
    if any(int(p.get("frame_pixel_num", width * height)) != width * height for p in points):
        raise ValueError(f"a point's frame_pixel_num is not {width}x{height}")
    made = [_point(name, p, width * height * min(counts)) for p in points]
    return PublishedSequence(min(counts), tuple(sorted(made, key=lambda p: -p.qp)))


def _point(name: str, data: dict[str, Any], pixels: int) -> Point:
    bpp = float(data["ave_all_frame_bpp"])
    y, u, v = (float(data[f"ave_all_frame_psnr_{plane}"]) for plane in "yuv")
    similar = data.get("ave_all_frame_msssim_y")
    return Point(
        codec=name, qp=int(data["qp"]), bytes=round(bpp * pixels / 8), bpp=bpp, psnr_y=y, psnr_u=u, psnr_v=v,
        psnr_yuv=psnr_yuv(y, u, v), ms_ssim=None if similar is None else float(similar), inter_bpp=None,
        inter_psnr_yuv=None, encode_fps=None, decode_fps=None, frames=[], details={},
    )  # fmt: skip


def _names(source: EvaluationSource) -> list[str]:
    """What the table may call this source, in small letters: its name or its file's, up to a size."""
    names = []
    for text in (source.name, Path(source.video).stem):
        sized = _SIZED.match(text)
        names.append((sized[1] if sized else text).lower())
    return names
