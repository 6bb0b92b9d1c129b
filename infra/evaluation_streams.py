"""One stream set: a sequence coded at every QP into real files, and those files decoded by a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from codec.api import Codec, EncodeOptions, FrameReport, StreamReport, load_codec
from codec.atomic_files import write_atomically
from codec.errors import BitreelError
from codec.frames import Frame
from codec.metrics import FrameQuality
from infra.evaluation_results import FramePoint, Point
from infra.evaluation_source import EvaluationSource
from infra.evaluation_worker import DecodeJob
from infra.vmaf import vmaf_version

_STREAM, _PICTURE, _POINT = "stream.brl", "picture.webp", "point.json"  # in a point's folder of the cache
ESTIMATE_FLOOR_BYTES = 1000  # below this a whole byte is too large a share to compare estimates by


@dataclass(frozen=True)
class StreamSet:
    """What one task codes. label names the codec in results; `threads` is PyTorch's, in encoder and decoder alike;
    vmaf: whether that is measured too."""

    label: str
    model: str
    model_hash: str
    source: EvaluationSource
    qps: tuple[int, ...]
    intra_period: int
    field: bool
    picture_frame: int
    threads: int
    vmaf: bool = False


@dataclass(frozen=True)
class KeptPoint:
    """A measured point in the cache, with its stream and a picture of one decoded frame."""

    point: Point
    stream: Path
    picture: Path


def measure_stream_set(job: StreamSet, into: Path) -> list[KeptPoint]:
    """Encode at all QPs, decode the files in one fresh process, and measure; one point a QP, in the order of `job.qps`.

    Each point is kept in folder `into` under a name that follows from model, codec code, frames, QP and settings, and
    any later evaluation finds it there again, whatever it calls the codec: yesterday's candidate is today's champion.
    Raises BitreelError where a stream can't be encoded or decoded: there is no set with gaps.
    """
    folders = {qp: into / _key(job, qp) for qp in job.qps}
    missing = [qp for qp, folder in folders.items() if _kept(folder) is None]
    if missing:
        _measure(job, missing, into, folders)
    found = [_kept(folders[qp]) for qp in job.qps]
    if None in found:
        raise BitreelError(f"'{into}' lost what was just written there; is another process clearing it?")
    return [
        dataclasses.replace(each, point=dataclasses.replace(each.point, codec=job.label))
        for each in found
        if each is not None
    ]


def _measure(job: StreamSet, qps: list[int], into: Path, folders: dict[int, Path]) -> None:
    import torch

    torch.set_num_threads(job.threads)
    into.mkdir(parents=True, exist_ok=True)
    codec = load_codec(job.model)
    with tempfile.TemporaryDirectory(dir=into, prefix=".part-") as scratch:
        folder = Path(scratch)
        encoded = {qp: encode_to_file(codec, job, qp, folder / f"qp{qp:02d}.brl") for qp in qps}
        streams = [(qp, str(folder / f"qp{qp:02d}.brl"), str(folder / f"qp{qp:02d}.webp")) for qp in qps]
        order = DecodeJob(job.model, job.source, streams, job.picture_frame, job.threads, job.vmaf)
        decoded = decode_elsewhere(order, folder)
        for answer in decoded:
            qp = answer["qp"]
            point = measured_point(job, answer, *encoded[qp], folder)
            entry = folder / f"entry{qp:02d}"
            entry.mkdir()
            (folder / f"qp{qp:02d}.brl").rename(entry / _STREAM)
            (folder / f"qp{qp:02d}.webp").rename(entry / _PICTURE)
            write_atomically(entry / _POINT, json.dumps(dataclasses.asdict(point)).encode())
            _place(entry, folders[qp])


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hexadecimal. Raises OSError."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _place(entry: Path, folder: Path) -> None:
    """Give a new entry its name in the cache, instead of a damaged one; a good one that is there meanwhile stays."""
    with contextlib.suppress(OSError):
        entry.rename(folder)
        return
    if _kept(folder) is None:  # else another task was faster with the same point, and somebody may read it now
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            entry.rename(folder)


def _kept(folder: Path) -> KeptPoint | None:
    """The point in a folder of the cache; None where there is none, or one that is damaged."""
    stream, picture = folder / _STREAM, folder / _PICTURE
    try:
        point = Point.from_json(json.loads((folder / _POINT).read_text()))
        whole = sha256_of(stream) == point.details["stream_sha256"] and picture.is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return KeptPoint(point, stream, picture) if whole else None


def encode_to_file(codec: Codec, job: StreamSet, qp: int, path: Path) -> tuple[StreamReport, str, float]:
    """Encode the job's source at `qp` to `path`, by rename: the stream's report, the digest of the encoder's
    reconstruction, and seconds."""
    digest = hashlib.sha256()

    def on_frame(report: FrameReport, frame: Frame) -> None:
        for plane in frame.planes:
            digest.update(plane.tobytes())

    options = EncodeOptions(qp=qp, intra_period=job.intra_period, field=job.field)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    started = time.perf_counter()
    try:
        with temporary.open("wb") as sink:
            report = codec.encode(job.source.frames(), job.source.format, sink, options, on_frame)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return report, digest.hexdigest(), time.perf_counter() - started


def decode_elsewhere(job: DecodeJob, scratch: Path) -> list[dict[str, Any]]:
    """Run the job in a fresh process, with a temporary folder in `scratch`: per stream what `run_job` gives.

    Raises BitreelError where a stream can't be decoded.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".decode-") as folder:
        order, answer = Path(folder) / "job.json", Path(folder) / "result.json"
        order.write_text(job.to_json())
        command = [sys.executable, "-m", "infra.evaluation_worker", str(order), str(answer)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise BitreelError(
                f"decoding {job.source.name} in a fresh process failed: "
                f"{said[-1] if said else f'exit status {done.returncode}'}"
            )
        result: list[dict[str, Any]] = json.loads(answer.read_text())
        return result


def measured_point(
    job: StreamSet, answer: dict[str, Any], report: StreamReport, digest: str, encode_seconds: float, folder: Path
) -> Point:
    """One stream's point, of the decoder's answer and what `encode_to_file` gave; the file is qpNN.brl in `folder`.

    Raises BitreelError where the file has other bytes than the encoder reports.
    """
    size = (folder / f"qp{answer['qp']:02d}.brl").stat().st_size
    perceived = answer["vmaf"] or [None] * len(answer["frames"])
    frames = [
        FramePoint.of(r.index, r.frame_type, r.bytes, FrameQuality(**quality), vmaf)
        for r, quality, vmaf in zip(report.frames, answer["frames"], perceived, strict=True)
    ]
    large = [r for r in report.frames if r.payload_bytes > ESTIMATE_FLOOR_BYTES]
    errors = [abs(r.estimated_bits - 8 * r.payload_bytes) / (8 * r.payload_bytes) * 100 for r in large]
    overheads = [r.bytes - r.payload_bytes for r in report.frames]
    details = {
        "stream_sha256": sha256_of(folder / f"qp{answer['qp']:02d}.brl"),
        "encoder_digest": digest,
        "decoder_digest": answer["digest"],
        "exact": digest == answer["digest"],
        "estimate_error_percent": max(errors) if errors else None,
        "estimated_frames": len(errors),
        "container_bytes_per_frame": max(overheads),
        "header_bytes": report.header_bytes,
        "field_bytes": report.field_bytes,
        "reported_bytes": report.bytes,
        "decoder_peak_mb": answer["peak_mb"],
    }
    if answer["vmaf"]:
        details["vmaf"] = vmaf_version()
    if report.bytes != size:
        raise BitreelError(
            f"{job.source.name} QP {answer['qp']}: encoder reports {report.bytes} bytes, file has {size}"
        )
    return Point.of(
        job.label, answer["qp"], size, job.source, frames, encode_seconds, answer["decode_seconds"], details
    )


@cache
def codec_digest() -> str:
    """SHA-256 (hex) of the codec's source and of what coding starts from: another version may code otherwise."""
    import codec as codec_package

    return source_digest(Path(codec_package.__file__ or "").parent)


def source_digest(root: Path) -> str:
    """SHA-256 (hex) of the Python and NumPy files below a folder, names included."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".npz")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _key(job: StreamSet, qp: int) -> str:
    """Changes with anything that can change a result: model, codec code, frames, QP, settings. What the codec is called
    does not."""
    told: dict[str, Any] = {
        "codec": codec_digest(), "model": job.model_hash, "qp": qp,
        "frames": [job.source.digest, job.source.width, job.source.height, job.source.fps],
        "settings": [job.intra_period, job.field, job.picture_frame, job.threads],
    }  # fmt: skip
    if job.vmaf:
        told["vmaf"] = vmaf_version()
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
