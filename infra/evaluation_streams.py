"""One stream set: a sequence coded at every QP into real files, and those files decoded by a process of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
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

ESTIMATE_FLOOR_BYTES = 1000  # below this a whole byte is too large a share to compare estimates by


@dataclass(frozen=True)
class StreamSet:
    """What one task codes. label names the codec in results; `threads` is PyTorch's, in encoder and decoder alike."""

    label: str
    model: str
    model_hash: str
    source: EvaluationSource
    qps: tuple[int, ...]
    intra_period: int
    field: bool
    picture_frame: int
    threads: int


def measure_stream_set(job: StreamSet, folder: Path, pictures: Path) -> list[Point]:
    """Encode all QPs to `folder`, decode them in one fresh process, and measure; one point a QP, worst quality first.

    Each point's picture is the path of a decoded frame that the decoder wrote to `pictures`.

    A finished set is kept beside its streams and found again by a later run with the very same model, code, frames
    and settings. Raises BitreelError where a stream can't be encoded or decoded: there is no set with gaps.
    """
    key = _key(job)
    kept = folder / "points.json"
    if kept.is_file():
        stored = json.loads(kept.read_text())
        if stored.get("key") == key:
            return [Point.from_json(p) for p in stored["points"]]
    import torch

    torch.set_num_threads(job.threads)
    folder.mkdir(parents=True, exist_ok=True)
    codec = load_codec(job.model)
    encoded = {qp: encode_to_file(codec, job, qp, folder / f"qp{qp:02d}.brl") for qp in job.qps}
    streams = [(qp, str(folder / f"qp{qp:02d}.brl"), str(pictures / f"{job.label}-qp{qp:02d}.webp")) for qp in job.qps]
    decoded = decode_elsewhere(DecodeJob(job.model, job.source, streams, job.picture_frame, job.threads), folder.parent)
    points = [measured_point(job, answer, *encoded[answer["qp"]], folder) for answer in decoded]
    stored = {"key": key, "points": [dataclasses.asdict(p) for p in points]}
    write_atomically(kept, json.dumps(stored).encode())
    return points


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
    frames = [
        FramePoint.of(r.index, r.frame_type, r.bytes, FrameQuality(**quality))
        for r, quality in zip(report.frames, answer["frames"], strict=True)
    ]
    large = [r for r in report.frames if r.payload_bytes > ESTIMATE_FLOOR_BYTES]
    errors = [abs(r.estimated_bits - 8 * r.payload_bytes) / (8 * r.payload_bytes) * 100 for r in large]
    overheads = [r.bytes - r.payload_bytes for r in report.frames]
    details = {
        "encoder_digest": digest,
        "decoder_digest": answer["digest"],
        "exact": digest == answer["digest"],
        "estimate_error_percent": max(errors) if errors else None,
        "estimated_frames": len(errors),
        "container_bytes_per_frame": max(overheads),
        "header_bytes": report.header_bytes,
        "field_bytes": report.field_bytes,
        "reported_bytes": report.bytes,
    }
    if report.bytes != size:
        raise BitreelError(
            f"{job.source.name} QP {answer['qp']}: encoder reports {report.bytes} bytes, file has {size}"
        )
    return Point.of(
        job.label, answer["qp"], size, job.source, frames, encode_seconds, answer["decode_seconds"], details
    )


def codec_digest() -> str:
    """SHA-256 (hex) of the codec's source: another version may code otherwise."""
    import codec as codec_package

    digest = hashlib.sha256()
    root = Path(codec_package.__file__ or "").parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _key(job: StreamSet) -> str:
    """Changes with anything that can change a result: model, codec code, frames, settings."""
    digest = hashlib.sha256(codec_digest().encode())
    described = dataclasses.asdict(job)
    del described["model"], described["source"]
    described["frames"] = [job.source.digest, job.source.width, job.source.height]
    digest.update(json.dumps(described, sort_keys=True).encode())
    return digest.hexdigest()
