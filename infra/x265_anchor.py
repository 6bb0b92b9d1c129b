"""x265 through PyAV, one thread, one frame at a time.

What counts is the raw elementary stream without x265's self-description, so that its bytes are video only; that
description is read first and checked against what was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from codec.errors import BitreelError, UsageError
from codec.frames import Frame
from infra.anchor import CodedVideo, QpLadder, even_planes
from infra.evaluation_source import EvaluationSource
from infra.x265_stream import X265Info, split_info

_ONE_INTRA = (("keyint", "-1"), ("scenecut", "0"))
# One frame at a time and one thread: results do not depend on the machine, and Ray runs several side by side. Without
# wavefronts, which reset the entropy coder's contexts at each row and so cost x265 bits.
ONE_THREAD = (("wpp", "0"), ("pools", "none"), ("frame-threads", "1"), ("log-level", "error"))


X265_LADDER = QpLadder((22, 27, 32, 37), lowest=4, highest=51, step=5)


@dataclass(frozen=True)
class X265Anchor:
    """How x265 is called. `params` are x265's own; `expected` is what its description must then say."""

    name: str
    preset: str
    tune: str | None
    params: tuple[tuple[str, str], ...]
    expected: tuple[tuple[str, str], ...]
    default_gop: bool = False
    threads: tuple[tuple[str, str], ...] = ONE_THREAD
    suffix: str = "hevc"
    ladder: QpLadder = X265_LADDER
    min_side: int = 16

    def version(self) -> str:
        """As its own stream states it. Raises UsageError where this PyAV has no libx265."""
        return encoder_version()

    def command(self, qp: int, intra_period: int) -> str:
        tune = f" -tune {self.tune}" if self.tune else ""
        return f"-c:v libx265 -preset {self.preset}{tune} -x265-params {self._params(qp, intra_period)}"

    def encode(self, source: EvaluationSource, qp: int, intra_period: int) -> CodedVideo:
        """x265-medium keeps its default GOP whatever `intra_period` says."""
        packets, info = _encode(
            list(source.frames()), Fraction(source.fps), self.preset, self.tune, self._params(qp, intra_period)
        )
        if info is None:
            raise BitreelError(
                f"{self.name} on {source.name}: x265 did not state its options, so they can't be checked"
            )
        expected = {**dict(self.expected), "rc": "cqp", "qp": str(qp), "bitdepth": "8", "frame-threads": "1"}
        wrong = [f"{k}={info.options.get(k)} (asked {v})" for k, v in expected.items() if info.options.get(k) != v]
        if wrong:
            raise BitreelError(f"{self.name} on {source.name}: x265 runs with {', '.join(wrong)}")
        sizes = {index: len(data) for index, data in packets}
        options = " ".join(f"{k}={v}" if v else k for k, v in info.options.items())
        return CodedVideo(b"".join(data for _, data in packets), [sizes[i] for i in sorted(sizes)], options)

    def _params(self, qp: int, intra_period: int) -> str:
        params = {"qp": str(qp), **dict(self.params), **dict(self.threads)}
        if intra_period > 0 and not self.default_gop:
            params |= {"keyint": str(intra_period), "min-keyint": str(intra_period)}
        return ":".join(f"{k}={v}" for k, v in params.items())


X265_ANCHORS = (
    # The hardest P-frame anchor in PSNR: nothing is spent on looks.
    X265Anchor(
        "x265-ldp-psnr", "veryslow", "zerolatency", (("psy-rd", "0"), ("psy-rdoq", "0"), ("aq-mode", "0"), *_ONE_INTRA),
        (("bframes", "0"), ("psy-rd", "0.00"), ("psy-rdoq", "0.00"), ("aq-mode", "0"), ("scenecut", "0"), ("rd", "6")),
    ),
    X265Anchor(
        "x265-ldp", "veryslow", "zerolatency", _ONE_INTRA,
        (("bframes", "0"), ("psy-rd", "2.00"), ("psy-rdoq", "1.00"), ("scenecut", "0"), ("rd", "6")),
    ),
    X265Anchor(
        "x265-ra", "veryslow", "psnr", _ONE_INTRA,
        (("bframes", "8"), ("psy-rd", "0.00"), ("scenecut", "0"), ("rd", "6")),
    ),
    X265Anchor("x265-medium", "medium", None, (), (("bframes", "4"), ("rd", "3")), default_gop=True),
)  # fmt: skip


@cache
def encoder_version() -> str:
    """x265's version as its own stream states it. Raises UsageError where this PyAV has no libx265."""
    grey = np.full((64, 64), 128, np.uint8)
    frame = Frame(grey, grey[:32, :32].copy(), grey[:32, :32].copy())
    params = ":".join(f"{k}={v}" for k, v in (("qp", "51"), *ONE_THREAD))
    _, info = _encode([frame], Fraction(25), "medium", None, params)
    if info is None:
        raise BitreelError("x265 does not state its version in its stream; anchors can't be cached")
    return info.version


def _encode(
    frames: Sequence[Frame], fps: Fraction, preset: str, tune: str | None, params: str
) -> tuple[list[tuple[int, bytes]], X265Info | None]:
    """(frame index, bytes) in coding order, and x265's description of itself."""
    import av

    try:
        encoder: Any = av.CodecContext.create("libx265", "w")
    except ValueError as error:  # PyAV's UnknownCodecError is one
        raise UsageError("this PyAV has no libx265: install PyAV's own wheel (pip install av)") from error
    height, width = even_planes(frames[0])[0].shape
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = fps, 1 / fps
    encoder.options = {"preset": preset, **({"tune": tune} if tune else {}), "x265-params": params}
    packets: list[tuple[int, bytes]] = []
    info: X265Info | None = None
    try:
        for index, frame in enumerate([*frames, None]):
            picture = None if frame is None else _av_frame(frame, index, 1 / fps)
            for packet in encoder.encode(picture):
                data, said = split_info(bytes(packet))
                info = info or said
                packets.append((packet.pts, data))
    except av.FFmpegError as error:
        raise BitreelError(f"x265 failed on {width}x{height}: {error.strerror or error}") from error
    return packets, info


def _av_frame(frame: Frame, index: int, time_base: Fraction) -> Any:
    import av

    planes = even_planes(frame)
    picture = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], "yuv420p")
    for target, plane in zip(picture.planes, planes, strict=True):
        rows = np.zeros((plane.shape[0], target.line_size), np.uint8)
        rows[:, : plane.shape[1]] = plane
        target.update(rows.tobytes())
    picture.pts, picture.time_base = index, time_base
    return picture
