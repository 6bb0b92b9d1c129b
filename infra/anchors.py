"""Conventional codecs to compare with, measured on real files by the same rules as ours, and cached by content.

Each family of encoders has a file of its own; here they are named, run, decoded and measured. Every file is decoded by
FFmpeg's decoder through PyAV; what has 10 bits inside is rounded to the 8 bits of the source before it is measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from codec.atomic_files import write_atomically
from codec.errors import BitreelError, UsageError
from codec.frames import Frame, Plane
from codec.metrics import frame_quality
from infra.anchor import Anchor, QpLadder
from infra.evaluation_results import FramePoint, Point
from infra.evaluation_source import EvaluationSource
from infra.ffmpeg_anchors import FFMPEG_ANCHORS
from infra.pictures import write_picture
from infra.vmaf import VmafMeter, vmaf_version
from infra.x265_anchor import X265_ANCHORS

ANCHORS: dict[str, Anchor] = {anchor.name: anchor for anchor in (*X265_ANCHORS, *FFMPEG_ANCHORS)}
_RESULT_FORMAT = 2
_PICTURE_TYPES = {1: "I", 2: "P", 3: "B"}


def check_anchors(names: list[str], here: bool = True) -> None:
    """Raises UsageError for a name that is no anchor, or (here) whose encoder this machine has not."""
    unknown = [n for n in names if n not in ANCHORS]
    if unknown:
        raise UsageError(f"unknown anchor '{unknown[0]}'; known: {', '.join(ANCHORS)}")
    for name in names if here else []:
        ANCHORS[name].version()


def anchor_point(
    source: EvaluationSource,
    name: str,
    qp: int,
    cache_folder: Path,
    *,
    intra_period: int = -1,
    picture_frame: int = 0,
    vmaf: bool = False,
) -> tuple[Point, Path]:
    """Encode `source` by anchor `name` at a constant QP, decode the file, measure; gives the point and a picture.

    intra_period: -1 as the settings say (one intra frame); N > 0 puts an intra frame every N frames (x265-medium
    keeps its default GOP). Raises BitreelError where the encoder fails or did not take a setting.
    """
    anchor = ANCHORS[name]
    command = anchor.command(qp, intra_period)
    identity: dict[str, Any] = {
        "format": _RESULT_FORMAT, "frames": source.digest, "size": [source.width, source.height], "fps": source.fps,
        "command": command, "version": anchor.version(), "picture": picture_frame,
    }  # fmt: skip
    if vmaf:
        identity["vmaf"] = vmaf_version()
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    result, stream = cache_folder / f"{key}.json", cache_folder / f"{key}.{anchor.suffix}"
    picture = cache_folder / f"{key}.webp"
    if result.is_file() and picture.is_file():
        try:
            return Point.from_json(json.loads(result.read_text())["point"]), picture
        except (ValueError, KeyError, TypeError):
            result.unlink(missing_ok=True)  # damaged: measure anew
    point = _measure(anchor, source, qp, intra_period, stream, picture, picture_frame, vmaf)
    point = dataclasses.replace(
        point, details={"encoder": anchor.version(), "command": f"{command} {stream.suffix[1:]}", **point.details}
    )
    entry = {"identity": identity, "point": dataclasses.asdict(point)}
    write_atomically(result, json.dumps(entry, indent=1).encode() + b"\n")
    return point, picture


def next_qps(measured: dict[int, float], low: float, high: float, ladder: QpLadder) -> list[int]:
    """QPs to add so that an anchor covers the quality range low..high (dB), given {QP: PSNR-YUV}; [] when it does.

    Past the ends by the ladder's steps within its limits; then halfway across the widest gap, until at least 4 points
    lie within the range.
    """
    best, worst = min(measured), max(measured)
    wanted = []
    if measured[best] < high and best > ladder.lowest:
        wanted.append(max(ladder.lowest, best - ladder.step))
    if measured[worst] > low and worst < ladder.highest:
        wanted.append(min(ladder.highest, worst + ladder.step))
    if wanted or sum(low <= q <= high for q in measured.values()) >= 4:
        return wanted
    # Quality falls as QP rises: how many dB of the range lie between two neighbours that still have a QP between them?
    gaps = [
        (min(high, measured[a]) - max(low, measured[b]), a, b)
        for a, b in itertools.pairwise(sorted(measured))
        if b - a > 1
    ]
    inside, a, b = max(gaps, default=(0.0, 0, 0))
    return [(a + b) // 2] if inside > 0 else []


def _measure(
    anchor: Anchor, source: EvaluationSource, qp: int, intra_period: int, stream: Path, picture: Path,
    picture_frame: int, vmaf: bool,
) -> Point:  # fmt: skip
    started = time.perf_counter()
    coded = anchor.encode(source, qp, intra_period)
    encode_seconds = time.perf_counter() - started
    write_atomically(stream, coded.data)
    decoded, decode_seconds = _decode(stream, source.width, source.height)
    if not len(decoded) == len(coded.sizes) == source.frame_count:
        raise BitreelError(
            f"{anchor.name} on {source.name}: {len(decoded)} frames in {len(coded.sizes)} packets came back of "
            f"{source.frame_count}"
        )
    if sum(coded.sizes) != len(coded.data):
        raise BitreelError(f"{anchor.name} on {source.name}: frames have {sum(coded.sizes)} of {len(coded.data)} bytes")
    details: dict[str, Any] = {"options": coded.options}
    similar: list[float | None] = [None] * len(decoded)
    if vmaf:
        with VmafMeter(source, stream.parent) as meter:
            for frame, _ in decoded:
                meter.add(frame)
            similar = list(meter.scores())
        details["vmaf"] = vmaf_version()
    points = [
        FramePoint.of(i, kind, size, frame_quality(original, frame), score)
        for i, (original, (frame, kind), size, score) in enumerate(
            zip(source.frames(), decoded, coded.sizes, similar, strict=True)
        )
    ]
    write_picture(picture, decoded[picture_frame][0], source.format)
    return Point.of(anchor.name, qp, len(coded.data), source, points, encode_seconds, decode_seconds, details)


def _decode(stream: Path, width: int, height: int) -> tuple[list[tuple[Frame, str]], float]:
    """Frames in order with their types, and the seconds that took."""
    import av

    decoded: list[tuple[Frame, str]] = []
    started = time.perf_counter()
    try:
        with av.open(str(stream)) as container:
            video = container.streams.video[0]
            video.codec_context.thread_count = 1
            for picture in container.decode(video):
                cw, ch = (width + 1) // 2, (height + 1) // 2
                sizes = ((width, height), (cw, ch), (cw, ch))
                deep = picture.format.components[0].bits > 8
                planes = [_plane(p, w, h, deep) for p, (w, h) in zip(picture.planes, sizes, strict=True)]
                decoded.append((Frame(*planes), _PICTURE_TYPES[int(picture.pict_type)]))
    except (av.FFmpegError, ValueError) as error:
        raise BitreelError(f"'{stream}': PyAV's FFmpeg can't decode it ({error})") from error
    return decoded, time.perf_counter() - started


def _plane(plane: Any, width: int, height: int, deep: bool) -> Plane:
    """The plane's samples; 10-bit ones rounded to 8."""
    if not deep:
        return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width].copy()
    samples = np.frombuffer(plane, np.uint16).reshape(-1, plane.line_size // 2)[:height, :width]
    return np.minimum((samples + 2) >> 2, 255).astype(np.uint8)
