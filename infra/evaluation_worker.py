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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.atomic_files import write_atomically
from codec.errors import BitreelError, StreamError
from codec.frames import Frame
from infra.evaluation_source import EvaluationSource


@dataclass(frozen=True)
class DecodeJob:
    """streams: (QP, file, picture to write). Pictures show frame `picture_frame`. threads: PyTorch's."""

    model: str
    source: EvaluationSource
    streams: list[tuple[int, str, str]]
    picture_frame: int
    threads: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> DecodeJob:
        data = json.loads(text)
        streams = [(int(qp), path, picture) for qp, path, picture in data["streams"]]
        return DecodeJob(**{**data, "source": EvaluationSource(**data["source"]), "streams": streams})


def run_job(job: DecodeJob) -> list[dict[str, Any]]:
    """Decode all streams: per stream its QP, digest, decoding seconds and each frame's quality."""
    import torch

    from codec.api import load_codec

    torch.set_num_threads(job.threads)
    codec = load_codec(job.model)
    source_frames = list(job.source.frames())
    return [_decode_stream(codec, job, source_frames, *stream) for stream in job.streams]


def _decode_stream(
    codec: Any, job: DecodeJob, source_frames: list[Frame], qp: int, path: str, picture: str
) -> dict[str, Any]:
    from codec.metrics import frame_quality
    from infra.pictures import write_picture

    digest = hashlib.sha256()
    qualities: list[dict[str, float | None]] = []
    seconds = 0.0
    with Path(path).open("rb") as stream:
        decoded = codec.decode(stream)
        while True:
            started = time.perf_counter()
            frame = next(decoded, None)
            seconds += time.perf_counter() - started
            if frame is None:
                break
            if len(qualities) == len(source_frames):
                raise StreamError(f"'{path}' decodes to more frames than were encoded")
            for plane in frame.planes:
                digest.update(plane.tobytes())
            quality = frame_quality(source_frames[len(qualities)], frame)
            if len(qualities) == job.picture_frame:
                write_picture(Path(picture), frame, job.source.format)
            qualities.append(dataclasses.asdict(quality))
    if len(qualities) != len(source_frames):
        raise StreamError(f"'{path}' decodes to {len(qualities)} frames of {len(source_frames)}")
    # Of the process so far: in a set of several streams, of the largest.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "qp": qp, "digest": digest.hexdigest(), "decode_seconds": seconds, "frames": qualities, "peak_mb": peak
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
