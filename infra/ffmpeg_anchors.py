"""SVT-AV1 and VVenC through an FFmpeg program that has them: low delay, one intra frame, constant QP, one thread.

Both are told to aim at PSNR. VVenC codes 10 bits inside, as the encoders it stands for are always run: its input is the
source's samples times four, and its output is rounded to 8 bits before it is measured. Files are elementary streams;
neither encoder writes text about itself into them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from codec.errors import BitreelError
from infra.anchor import CodedVideo, QpLadder, even_planes
from infra.evaluation_source import EvaluationSource
from infra.ffmpeg_build import encoder_build

# How each encoder tells its version on FFmpeg's standard error.
_VERSIONS = {
    "libsvtav1": re.compile(r"SVT \[version\]:\s*(.+)"),
    "libvvenc": re.compile(r"libvvenc version:\s*(.+)"),
}


@dataclass(frozen=True)
class FfmpegAnchor:
    """An encoder of an FFmpeg program. options: its own, QP and intra period filled in; `params` is the name of the
    option that takes `fixed`. one_intra: how it is told of one intra frame. suffix: FFmpeg's name of the raw format."""

    name: str
    encoder: str
    suffix: str
    options: str
    params: str
    fixed: tuple[tuple[str, str], ...]
    intra_key: str
    ladder: QpLadder
    min_side: int

    def version(self) -> str:
        return _version(self.encoder)

    def command(self, qp: int, intra_period: int) -> str:
        params = ":".join(f"{k}={v}" for k, v in (*self.fixed, (self.intra_key, str(intra_period))))
        return f"-c:v {self.encoder} {self.options} -qp {qp} {self.params} {params} -f"

    def encode(self, source: EvaluationSource, qp: int, intra_period: int) -> CodedVideo:
        build = encoder_build(self.encoder)
        with tempfile.TemporaryDirectory(prefix="bitreel-anchor-") as scratch:
            out = Path(scratch) / f"out.{self.suffix}"
            with _even_file(source, Path(scratch)) as (path, width, height):
                told = [
                    "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", source.fps, "-i", path,
                    "-fps_mode", "passthrough", *self.command(qp, intra_period).split(), self.suffix, str(out),
                ]  # fmt: skip
                build.run(told, f"{self.name} on {source.name}", {"SVT_LOG": "1"})
            return CodedVideo(out.read_bytes(), _packet_sizes(out), "")


FFMPEG_ANCHORS = (
    FfmpegAnchor(
        "svt-av1-ld", "libsvtav1", "obu", "-preset 2", "-svtav1-params",
        (("rc", "0"), ("aq-mode", "0"), ("tune", "1"), ("pred-struct", "1"), ("scd", "0"), ("lp", "1")), "keyint",
        QpLadder(first=(20, 30, 40, 50), lowest=2, highest=63, step=7), 16,
    ),
    FfmpegAnchor(
        "vvenc-ld", "libvvenc", "vvc", "-pix_fmt yuv420p10le -preset slow -qpa 0 -threads 1", "-vvenc-params",
        (("picreordering", "0"), ("decodingrefreshtype", "none"), ("gopsize", "8"), ("poc0idr", "1")), "intraperiod",
        QpLadder(first=(22, 27, 32, 37), lowest=4, highest=63, step=5), 32,
    ),
)  # fmt: skip


@cache
def _version(encoder: str) -> str:
    """The encoder's own version where it tells it, and always the FFmpeg build's, which holds the encoder."""
    build = encoder_build(encoder)
    grey = ["-f", "lavfi", "-i", "color=gray:size=64x64:rate=25", "-frames:v", "1", "-c:v", encoder, "-f", "null", "-"]
    told = _VERSIONS[encoder].search(build.run(["-loglevel", "debug", *grey], encoder, {"SVT_LOG": "3"}))
    return f"{encoder} {told[1].strip()}, FFmpeg {build.version}" if told else f"{encoder}, FFmpeg {build.version}"


@contextmanager
def _even_file(source: EvaluationSource, scratch: Path) -> Iterator[tuple[str, int, int]]:
    """The source's planes as a file of even size, and that size."""
    if source.width % 2 == source.height % 2 == 0:
        yield source.path, source.width, source.height
        return
    padded = scratch / "padded.yuv"
    with padded.open("wb") as handle:
        for frame in source.frames():
            for plane in even_planes(frame):
                handle.write(plane.tobytes())
    yield str(padded), source.width + source.width % 2, source.height + source.height % 2


def _packet_sizes(path: Path) -> list[int]:
    """Bytes of each frame; with low delay frames are coded in the order in which they are shown."""
    import av

    try:
        with av.open(str(path)) as container:
            return [packet.size for packet in container.demux(video=0) if packet.size]
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise BitreelError(f"'{path.name}': PyAV's FFmpeg can't read it ({error})") from error
