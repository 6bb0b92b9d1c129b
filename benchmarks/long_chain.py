"""What a long prediction chain does to quality: PSNR and bits by frame on palindromes, beside x265 on the same.

    python -m benchmarks.long_chain --model REF [--refresh 32,0] --clips FOLDER --out FOLDER [--frames 96] [--qps …]

Clips run forward and then backward, so that early and late frames show the same pictures: what changes is the codec,
not the content. One intra frame. Decay is the mean PSNR-YUV of the last 32 frames less that of frames 8 to 40, so below
0 where quality falls; x265 (x265-ldp-psnr) is taken at the two QPs around our quality, and its decay interpolated. The
streams are decoded and their frames held against the encoder's. `--refresh` sets the model's refresh period, where it
has one. Results as a table and in OUT/long_chain.json.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codec.api import Codec, EncodeOptions, load_codec
from codec.errors import BitreelError
from codec.frames import Frame, frames_digest
from codec.metrics import frame_quality
from infra.anchors import anchor_point
from infra.evaluation_source import EvaluationSource, prepare_source
from pipeline.video_files import open_writer

_LATE, _EARLY = 32, (8, 40)
_ANCHOR = "x265-ldp-psnr"
_ANCHOR_QPS = range(8, 47, 3)


def decay(by_frame: Sequence[float]) -> float:
    """Mean of the last 32 frames less that of frames 8 to 40, dB."""
    return float(np.mean(by_frame[-_LATE:]) - np.mean(by_frame[slice(*_EARLY)]))


def palindrome(video: Path, frames: int, cache: Path) -> EvaluationSource:
    """The clip forward and backward, `frames` in all, as often as it takes; it ends with the pictures it began with."""
    source = prepare_source(video, cache, frames // 2 + 1)
    held = list(source.frames())
    times = -(-frames // (2 * max(len(held) - 1, 1)))
    held = held[: round(frames / (2 * times)) + 1]
    turn = held + held[-2:0:-1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{source.name}.y4m"
        with open_writer(path, source.format) as writer:
            for index in range(frames):
                writer.write(turn[index % len(turn)])
        return prepare_source(path, cache, frames)


def ours(codec: Codec, source: EvaluationSource, qp: int) -> tuple[list[float], list[int]]:
    """PSNR-YUV and bytes by frame. Raises BitreelError where the decoder's frames are not the encoder's."""
    seen: list[Frame] = []
    sink = io.BytesIO()
    report = codec.encode(source.frames(), source.format, sink, EncodeOptions(qp), lambda _, frame: seen.append(frame))
    sink.seek(0)
    if frames_digest(codec.decode(sink)) != frames_digest(seen):
        raise BitreelError(f"{source.name}, QP {qp}: the decoder's frames are not the encoder's")
    quality = [frame_quality(a, b).psnr_yuv for a, b in zip(source.frames(), seen, strict=True)]
    return quality, [frame.bytes for frame in report.frames]


def anchor_decay(source: EvaluationSource, quality: float, cache: Path) -> tuple[float, float] | None:
    """x265's decay at this mean PSNR-YUV, and its bits a pixel there; None where its range does not reach so far."""
    points: list[tuple[float, float, float]] = []
    for qp in reversed(_ANCHOR_QPS):
        point, _ = anchor_point(source, _ANCHOR, qp, cache)
        points.append((point.psnr_yuv, decay([f.psnr_yuv for f in point.frames]), point.bpp))
        if point.psnr_yuv > quality:
            break
    if len(points) < 2 or not points[-2][0] <= quality <= points[-1][0]:
        return None
    (low, first, cheap), (high, second, dear) = points[-2:]
    share = (quality - low) / (high - low)
    return first + share * (second - first), float(np.exp(np.log(cheap) + share * np.log(dear / cheap)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--refresh", default="")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--qps", default="16,28,40")
    given = parser.parse_args()
    codec = load_codec(given.model)
    cache = given.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    print("clip · QP · refresh · bpp · PSNR-YUV · decay, dB · x265's there · beyond x265's · x265's bpp there")
    for video in sorted(path for path in given.clips.iterdir() if path.is_file()):
        source = palindrome(video, given.frames, cache)
        for qp in (int(text) for text in given.qps.split(",")):
            for period in given.refresh.split(","):
                if period:
                    codec.config.refresh_period = int(period)
                quality, sizes = ours(codec, source, qp)
                mean, size = float(np.mean(quality)), 8 * sum(sizes) / source.pixels
                beside = anchor_decay(source, mean, cache)
                row = {
                    "clip": source.name, "qp": qp, "refresh": period, "bpp": size, "psnr_yuv": mean,
                    "decay": decay(quality), "anchor_decay": beside and beside[0], "anchor_bpp": beside and beside[1],
                    "psnr_by_frame": quality, "bytes_by_frame": sizes,
                }  # fmt: skip
                rows.append(row)
                own, told = decay(quality), "-"
                if beside is not None:
                    told = f"{beside[0]:+.2f} · {own - beside[0]:+.2f} · {beside[1]:.4f}"
                print(f"{source.name} · {qp} · {period or '-'} · {size:.4f} · {mean:.2f} · {own:+.2f} · {told}",
                      flush=True)  # fmt: skip
    (given.out / "long_chain.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
