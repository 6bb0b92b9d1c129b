"""The decoder's own process: `python -m infra.evaluation_worker JOB.json RESULT.json`.

It loads the model from disk, decodes every stream of one sequence, and reports digests and quality. Nothing of the
encoder's process is left in it, so what it decodes is what any user would.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.atomic_files import write_atomically
from codec.errors import BitreelError, StreamError
from infra.evaluation_source import EvaluationSource


@dataclass(frozen=True)
class DecodeJob:
    """streams: (QP, file, picture to write). Pictures show frame `picture_frame`. threads: PyTorch's. vmaf: measured
    too."""

    model: str
    source: EvaluationSource
    streams: list[tuple[int, str, str]]
    picture_frame: int
    threads: int
    vmaf: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> DecodeJob:
        data = json.loads(text)
        streams = [(int(qp), path, picture) for qp, path, picture in data["streams"]]
        return DecodeJob(**{**data, "source": EvaluationSource(**data["source"]), "streams": streams})


def run_job(job: DecodeJob) -> list[dict[str, Any]]:
    """Decode all streams: per stream its QP, digest, decoding seconds and each frame's quality;
    vmaf is empty where it was not asked for."""
    import torch

    from codec.api import load_codec

    torch.set_num_threads(job.threads)
    codec = load_codec(job.model)
    return [_decode_stream(codec, job, *stream) for stream in job.streams]


def _decode_stream(codec: Any, job: DecodeJob, qp: int, path: str, picture: str) -> dict[str, Any]:
    from codec.metrics import frame_quality
    from infra.pictures import write_picture
    from infra.vmaf import VmafMeter

    digest = hashlib.sha256()
    qualities: list[dict[str, float | None]] = []
    scores: list[float] = []
    seconds = 0.0
    originals = job.source.frames()
    with ExitStack() as stack:
        stream = stack.enter_context(Path(path).open("rb"))
        meter = stack.enter_context(VmafMeter(job.source, Path(path).parent)) if job.vmaf else None
        decoded = codec.decode(stream)
        while True:
            started = time.perf_counter()
            frame = next(decoded, None)
            seconds += time.perf_counter() - started
            if frame is None:
                break
            original = next(originals, None)
            if original is None:
                raise StreamError(f"'{path}' decodes to more frames than were encoded")
            for plane in frame.planes:
                digest.update(plane.tobytes())
            if len(qualities) == job.picture_frame:
                write_picture(Path(picture), frame, job.source.format)
            qualities.append(dataclasses.asdict(frame_quality(original, frame)))
            if meter is not None:
                meter.add(frame)
        if len(qualities) != job.source.frame_count:
            raise StreamError(f"'{path}' decodes to {len(qualities)} frames of {job.source.frame_count}")
        # Of the process so far: in a set of several streams, of the largest.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if meter is not None:
            scores = meter.scores()
    return {
        "qp": qp, "digest": digest.hexdigest(), "decode_seconds": seconds, "frames": qualities, "vmaf": scores,
        "peak_mb": peak,
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    job_path, result_path = map(Path, arguments)
    try:
        result = run_job(DecodeJob.from_json(job_path.read_text()))
    except (BitreelError, ValueError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    write_atomically(result_path, json.dumps(result).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
