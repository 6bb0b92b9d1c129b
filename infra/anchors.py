"""Conventional codecs to compare with: x265 through PyAV, measured on real files by the same rules, cached by content.

The file that counts is the raw elementary stream (.hevc) without x265's self-description, so that its bytes are video
only; that description is read first, checked against what was asked, and stored with the result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import time
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from codec.atomic_files import write_atomically
from codec.errors import BitreelError, UsageError
from codec.frames import Frame, Plane
from codec.metrics import frame_quality
from infra.evaluation_results import FramePoint, Point
from infra.evaluation_source import EvaluationSource
from infra.pictures import write_picture
from infra.x265_stream import X265Info, split_info

# Coarse to fine: what is encoded first, and what may be added where the tested codec's quality range asks for it.
FIRST_QPS = (22, 27, 32, 37)
LOWEST_QP, HIGHEST_QP, QP_STEP = 4, 51, 5
_RESULT_FORMAT = 1


@dataclass(frozen=True)
class AnchorSettings:
    """How x265 is called. `params` are x265's own; `expected` is what its description must then say."""

    preset: str
    tune: str | None
    params: tuple[tuple[str, str], ...]
    expected: tuple[tuple[str, str], ...]
    default_gop: bool = False


_ONE_INTRA = (("keyint", "-1"), ("scenecut", "0"))
ANCHORS: dict[str, AnchorSettings] = {
    # The hardest P-frame anchor in PSNR: nothing is spent on looks.
    "x265-ldp-psnr": AnchorSettings(
        "veryslow", "zerolatency", (("psy-rd", "0"), ("psy-rdoq", "0"), ("aq-mode", "0"), *_ONE_INTRA),
        (("bframes", "0"), ("psy-rd", "0.00"), ("psy-rdoq", "0.00"), ("aq-mode", "0"), ("scenecut", "0"), ("rd", "6")),
    ),
    "x265-ldp": AnchorSettings(
        "veryslow", "zerolatency", _ONE_INTRA,
        (("bframes", "0"), ("psy-rd", "2.00"), ("psy-rdoq", "1.00"), ("scenecut", "0"), ("rd", "6")),
    ),
    "x265-ra": AnchorSettings(
        "veryslow", "psnr", _ONE_INTRA, (("bframes", "8"), ("psy-rd", "0.00"), ("scenecut", "0"), ("rd", "6"))
    ),
    "x265-medium": AnchorSettings("medium", None, (), (("bframes", "4"), ("rd", "3")), default_gop=True),
}  # fmt: skip


def check_anchors(names: list[str]) -> None:
    """Raises UsageError for a name that is no anchor, or where this PyAV has no x265."""
    unknown = [n for n in names if n not in ANCHORS]
    if unknown:
        raise UsageError(f"unknown anchor '{unknown[0]}'; known: {', '.join(ANCHORS)}")
    if names:
        encoder_version()


@cache
def encoder_version() -> str:
    """x265's version as its own stream states it. Raises BitreelError where this PyAV has no libx265."""
    grey = np.full((64, 64), 128, np.uint8)
    frame = Frame(grey, grey[:32, :32].copy(), grey[:32, :32].copy())
    _, info = _encode([frame], 64, 64, Fraction(25), ANCHORS["x265-medium"], {"qp": "51", **_threads()})
    if info is None:
        raise BitreelError("x265 does not state its version in its stream; anchors can't be cached")
    return info.version


def anchor_point(
    source: EvaluationSource, name: str, qp: int, cache_folder: Path, *, intra_period: int = -1, picture_frame: int = 0
) -> tuple[Point, Path]:
    """Encode `source` by anchor `name` at a constant QP, decode the file, measure; gives the point and a picture.

    intra_period: -1 as the settings say (one intra frame); N > 0 puts an intra frame every N frames (x265-medium
    keeps its default GOP). Raises BitreelError where x265 fails or did not take a setting.
    """
    settings = ANCHORS[name]
    params = anchor_params(settings, qp, intra_period)
    command = {"encoder": "libx265", "preset": settings.preset, "tune": settings.tune, "x265-params": params}
    identity = {
        "format": _RESULT_FORMAT, "frames": source.digest, "size": [source.width, source.height], "fps": source.fps,
        "command": command, "version": encoder_version(), "picture": picture_frame,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    result, stream = cache_folder / f"{key}.json", cache_folder / f"{key}.hevc"
    picture = cache_folder / f"{key}.webp"
    if result.is_file() and picture.is_file():
        try:
            return Point.from_json(json.loads(result.read_text())["point"]), picture
        except (ValueError, KeyError, TypeError):
            result.unlink()  # damaged: measure anew
    point = _measure(source, name, qp, settings, params, stream, picture, picture_frame)
    point = dataclasses.replace(point, details={**point.details, "command": command})
    entry = {"identity": identity, "point": dataclasses.asdict(point)}
    write_atomically(result, json.dumps(entry, indent=1).encode() + b"\n")
    return point, picture


def anchor_params(settings: AnchorSettings, qp: int, intra_period: int) -> dict[str, str]:
    """The x265-params of one encode, threads included."""
    params = {"qp": str(qp), **dict(settings.params), **_threads()}
    if intra_period > 0 and not settings.default_gop:
        params |= {"keyint": str(intra_period), "min-keyint": str(intra_period)}
    return params


def next_qps(measured: dict[int, float], low: float, high: float) -> list[int]:
    """QPs to add so that an anchor covers the quality range low..high (dB), given {QP: PSNR-YUV}; [] when it does.

    Past the ends by steps of 5 within 4..51; then halfway across the widest gap, until at least 4 points
    lie within the range.
    """
    best, worst = min(measured), max(measured)
    wanted = []
    if measured[best] < high and best > LOWEST_QP:
        wanted.append(max(LOWEST_QP, best - QP_STEP))
    if measured[worst] > low and worst < HIGHEST_QP:
        wanted.append(min(HIGHEST_QP, worst + QP_STEP))
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


def _threads() -> dict[str, str]:
    # One frame at a time and one thread: results do not depend on the machine, and Ray runs several side by side.
    # Without wavefronts, which reset the entropy coder's contexts at each row and so cost x265 bits.
    return {"wpp": "0", "pools": "none", "frame-threads": "1", "log-level": "error"}


def _measure(
    source: EvaluationSource, name: str, qp: int, settings: AnchorSettings, params: dict[str, str], stream: Path,
    picture: Path, picture_frame: int,
) -> Point:  # fmt: skip
    fps = Fraction(source.fps)
    started = time.perf_counter()
    frames = list(source.frames())
    packets, info = _encode(frames, source.width, source.height, fps, settings, params)
    encode_seconds = time.perf_counter() - started
    if info is None:
        raise BitreelError(f"{name} on {source.name}: x265 did not state its options, so they can't be checked")
    expected = {**dict(settings.expected), "rc": "cqp", "qp": str(qp), "bitdepth": "8", "frame-threads": "1"}
    wrong = [f"{k}={info.options.get(k)} (asked {v})" for k, v in expected.items() if info.options.get(k) != v]
    if wrong:
        raise BitreelError(f"{name} on {source.name}: x265 runs with {', '.join(wrong)}")
    write_atomically(stream, b"".join(data for _, data in packets))
    sizes = {index: len(data) for index, data in packets}
    decoded, decode_seconds = _decode(stream, source.width, source.height)
    if len(decoded) != source.frame_count:
        raise BitreelError(f"{name} on {source.name}: {len(decoded)} frames came back of {source.frame_count}")
    points = [
        FramePoint.of(i, kind, sizes[i], frame_quality(original, frame))
        for i, (original, (frame, kind)) in enumerate(zip(frames, decoded, strict=True))
    ]
    write_picture(picture, decoded[picture_frame][0], source.format)
    details = {"encoder": info.version, "options": " ".join(f"{k}={v}" if v else k for k, v in info.options.items())}
    return Point.of(name, qp, stream.stat().st_size, source, points, encode_seconds, decode_seconds, details)


def _encode(
    frames: list[Frame], width: int, height: int, fps: Fraction, settings: AnchorSettings, params: dict[str, str]
) -> tuple[list[tuple[int, bytes]], X265Info | None]:
    """(frame index, bytes) in coding order, and x265's description of itself."""
    import av

    try:
        encoder: Any = av.CodecContext.create("libx265", "w")
    except ValueError as error:  # PyAV's UnknownCodecError is one
        raise BitreelError("this PyAV has no libx265: install PyAV's own wheel (pip install av)") from error
    # x265 takes even sizes only: odd ones are padded by repeating the edge, as everywhere, and cut back after decoding.
    encoder.width, encoder.height, encoder.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    encoder.framerate, encoder.time_base = fps, 1 / fps
    encoder.options = {
        "preset": settings.preset,
        **({"tune": settings.tune} if settings.tune else {}),
        "x265-params": ":".join(f"{k}={v}" for k, v in params.items()),
    }
    packets: list[tuple[int, bytes]] = []
    info: X265Info | None = None
    try:
        for index, frame in enumerate([*frames, None]):
            picture = None if frame is None else _av_frame(frame, encoder.width, encoder.height, index, 1 / fps)
            for packet in encoder.encode(picture):
                data, said = split_info(bytes(packet))
                info = info or said
                packets.append((packet.pts, data))
    except av.FFmpegError as error:
        raise BitreelError(f"x265 failed on {width}x{height}: {error.strerror or error}") from error
    return packets, info


def _decode(stream: Path, width: int, height: int) -> tuple[list[tuple[Frame, str]], float]:
    """Frames in order with their types, and the seconds that took."""
    import av

    decoded: list[tuple[Frame, str]] = []
    started = time.perf_counter()
    with av.open(str(stream)) as container:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        for picture in container.decode(video):
            cw, ch = (width + 1) // 2, (height + 1) // 2
            sizes = ((width, height), (cw, ch), (cw, ch))
            y, u, v = (_plane(p, w, h) for p, (w, h) in zip(picture.planes, sizes, strict=True))
            decoded.append((Frame(y, u, v), {1: "I", 2: "P", 3: "B"}[int(picture.pict_type)]))
    return decoded, time.perf_counter() - started


def _plane(plane: Any, width: int, height: int) -> Plane:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width].copy()


def _av_frame(frame: Frame, width: int, height: int, index: int, time_base: Fraction) -> Any:
    import av

    picture = av.VideoFrame(width, height, "yuv420p")
    sizes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    for target, plane, (rows, columns) in zip(picture.planes, frame.planes, sizes, strict=True):
        padded = np.pad(plane, ((0, rows - plane.shape[0]), (0, target.line_size - plane.shape[1])), mode="edge")
        assert columns <= target.line_size
        target.update(np.ascontiguousarray(padded).tobytes())
    picture.pts, picture.time_base = index, time_base
    return picture
