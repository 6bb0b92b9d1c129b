"""What an evaluation found: points of each codec on each sequence, BD-rates and scores, and their files."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codec.atomic_files import write_atomically
from codec.errors import UsageError
from codec.metrics import FrameQuality
from infra.bdrate import BdRate
from infra.evaluation_source import EvaluationSource

RESULTS_FILE = "results.json"
TABLE_FILE = "results.parquet"
FORMAT = 2
OURS, CHAMPION = "bitreel", "champion"  # how results call the model, and the one it is compared with


@dataclass(frozen=True)
class FramePoint:
    """One frame of a point: type ("I", "P", "B"), bytes in the file, quality in dB; MS-SSIM 0..1 and VMAF 0..100, or
    None."""

    index: int
    type: str
    bytes: int
    psnr_y: float
    psnr_u: float
    psnr_v: float
    psnr_yuv: float
    ms_ssim: float | None
    vmaf: float | None = None

    @staticmethod
    def of(index: int, frame_type: str, size: int, quality: FrameQuality, vmaf: float | None = None) -> FramePoint:
        return FramePoint(
            index, frame_type, size, quality.psnr_y, quality.psnr_u, quality.psnr_v, quality.psnr_yuv, quality.ms_ssim,
            vmaf,
        )  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One file of one codec at one QP: its true rate, the quality of what was decoded from it, and speeds.

    bpp: bits of the whole file per luma pixel. psnr_*, ms_ssim and vmaf: means over frames. inter_*: the same without
    intra frames (None where there are none). details: what only this codec has to say (hashes, command, overheads).
    picture: path of one decoded frame, relative to the evaluation folder. A published point has no frames, no
    picture and no speeds.
    """

    codec: str
    qp: int
    bytes: int
    bpp: float
    psnr_y: float
    psnr_u: float
    psnr_v: float
    psnr_yuv: float
    ms_ssim: float | None
    inter_bpp: float | None
    inter_psnr_yuv: float | None
    encode_fps: float | None
    decode_fps: float | None
    frames: list[FramePoint]
    details: dict[str, Any] = field(default_factory=dict)
    picture: str | None = None
    vmaf: float | None = None

    @staticmethod
    def of(
        codec: str, qp: int, size: int, source: EvaluationSource, frames: list[FramePoint], encode_seconds: float,
        decode_seconds: float, details: dict[str, Any],
    ) -> Point:  # fmt: skip
        """Means over `frames`; `size` is the bytes of the whole file."""
        inter = [f for f in frames if f.type != "I"]
        similar = [f.ms_ssim for f in frames if f.ms_ssim is not None]
        perceived = [f.vmaf for f in frames if f.vmaf is not None]
        return Point(
            codec=codec,
            qp=qp,
            bytes=size,
            bpp=8.0 * size / source.pixels,
            psnr_y=statistics.fmean(f.psnr_y for f in frames),
            psnr_u=statistics.fmean(f.psnr_u for f in frames),
            psnr_v=statistics.fmean(f.psnr_v for f in frames),
            psnr_yuv=statistics.fmean(f.psnr_yuv for f in frames),
            ms_ssim=statistics.fmean(similar) if similar else None,
            inter_bpp=8.0 * sum(f.bytes for f in inter) / (len(inter) * source.width * source.height)
            if inter
            else None,
            inter_psnr_yuv=statistics.fmean(f.psnr_yuv for f in inter) if inter else None,
            encode_fps=len(frames) / max(encode_seconds, 1e-9),
            decode_fps=len(frames) / max(decode_seconds, 1e-9),
            frames=frames,
            details=details,
            vmaf=statistics.fmean(perceived) if perceived else None,
        )

    @staticmethod
    def from_json(data: dict[str, Any]) -> Point:
        return Point(**{**data, "frames": [FramePoint(**f) for f in data["frames"]]})


@dataclass
class SequenceResult:
    """All points on one sequence: ours by rising QP (worst quality first), anchors by falling QP (likewise)."""

    source: EvaluationSource
    points: list[Point]
    anchors: dict[str, list[Point]]
    source_picture: str | None = None
    picture_frame: int = 0


@dataclass(frozen=True)
class BdRow:
    """One line of the BD-rate table. sequence is None for the two aggregations, which `aggregation` names."""

    anchor: str
    metric: str
    range: str
    aggregation: str
    sequence: str | None
    result: BdRate


@dataclass
class Evaluation:
    """A finished evaluation. `model` describes the model, `settings` how it was measured, `scores` is flat."""

    model: dict[str, Any]
    settings: dict[str, Any]
    sequences: list[SequenceResult]
    bd_rates: list[BdRow]
    scores: dict[str, float]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model,
            "settings": self.settings,
            "scores": self.scores,
            "bd_rates": [dataclasses.asdict(row) for row in self.bd_rates],
            "sequences": [dataclasses.asdict(s) for s in self.sequences],
        }

    @staticmethod
    def load(folder: Path) -> Evaluation:
        """Read an evaluation folder. Raises UsageError where it is none or of another version."""
        path = folder / RESULTS_FILE
        if not path.is_file():
            raise UsageError(f"no evaluation at '{folder}': {RESULTS_FILE} is missing")
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise UsageError(f"'{path}' has format {data['format']}, this version reads {FORMAT}; evaluate again")
            return Evaluation(
                model=data["model"],
                settings=data["settings"],
                sequences=[_sequence(s) for s in data["sequences"]],
                bd_rates=[BdRow(**{**row, "result": BdRate(**row["result"])}) for row in data["bd_rates"]],
                scores=data["scores"],
                folder=folder,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"'{path}' is not an evaluation's results: {error}") from error

    def save(self) -> None:
        """Write results.json (everything) and results.parquet (one row a frame), each by rename."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / RESULTS_FILE, json.dumps(self.to_json(), indent=1).encode() + b"\n")
        self._save_table()

    def _save_table(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [
            {
                "sequence": sequence.source.name,
                "codec": point.codec,
                "qp": point.qp,
                "file_bytes": point.bytes,
                "file_bpp": point.bpp,
                **{"frame" if k == "index" else k: v for k, v in dataclasses.asdict(frame).items()},
            }
            for sequence in self.sequences
            for points in (sequence.points, *sequence.anchors.values())
            for point in points
            for frame in point.frames
        ]
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        write_atomically(self.folder / TABLE_FILE, buffer.getvalue().to_pybytes())


def _sequence(data: dict[str, Any]) -> SequenceResult:
    return SequenceResult(
        source=EvaluationSource(**data["source"]),
        points=[Point.from_json(p) for p in data["points"]],
        anchors={name: [Point.from_json(p) for p in points] for name, points in data["anchors"].items()},
        source_picture=data["source_picture"],
        picture_frame=data["picture_frame"],
    )
