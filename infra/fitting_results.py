"""What fitting brought: every video at every QP, coded in one pass and fitted; BD-rates; how points are kept."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.atomic_files import write_atomically, write_json_atomically
from infra.bdrate import MIN_POINTS, BdRate, Curve, bd_rate, mean_of_sequences
from infra.evaluation_results import Point

REPORT_FILE = "fit.json"
ONE_PASS_FOLDER = "one-pass"  # beside the fitted streams of a video
LONG_CLIP = 96  # frames; in shorter clips the intra frame weighs so much that their gain says little of a video's
_FORMAT = 1


@dataclass(frozen=True)
class FitPoint:
    """One video at one QP: the point of each of its two files, seconds that fitting took, each step's loss."""

    qp: int
    one_pass: Point
    fitted: Point
    fit_seconds: float
    losses: list[float]

    def save(self, folder: Path, key: str) -> None:
        """Note the point beside its streams, which are in place by now: it is done from here on."""
        noted = {"format": _FORMAT, "key": key, **dataclasses.asdict(self)}
        write_atomically(point_path(folder, self.qp), json.dumps(noted).encode() + b"\n")

    @staticmethod
    def find(folder: Path, qp: int, key: str) -> FitPoint | None:
        """The point that an earlier run made under the same key, or None; its streams must still be as they were."""
        try:
            noted = json.loads(point_path(folder, qp).read_text())
            if noted["format"] != _FORMAT or noted["key"] != key:
                return None
            one_pass, fitted = Point.from_json(noted["one_pass"]), Point.from_json(noted["fitted"])
            sizes = [path.stat().st_size for path in (one_pass_stream(folder, qp), fitted_stream(folder, qp))]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if sizes != [one_pass.bytes, fitted.bytes]:
            return None
        return FitPoint(qp, one_pass, fitted, noted["fit_seconds"], noted["losses"])


def point_path(folder: Path, qp: int) -> Path:
    return folder / f"qp{qp:02d}.json"


def fitted_stream(folder: Path, qp: int) -> Path:
    return folder / f"qp{qp:02d}.brl"


def one_pass_stream(folder: Path, qp: int) -> Path:
    return folder / ONE_PASS_FOLDER / f"qp{qp:02d}.brl"


@dataclass(frozen=True)
class VideoFit:
    """All points of one video, by rising QP. name: of its folder; checksum: BLAKE3 of the file; failure: why it has
    no result ("" where it has); the points that were done before stay on disk."""

    name: str
    video: str
    checksum: str
    points: tuple[FitPoint, ...] = ()
    failure: str = ""

    @property
    def frames(self) -> int:
        return len(self.points[0].fitted.frames) if self.points else 0

    @property
    def is_long(self) -> bool:
        """Whether the gain is that of a video, not mostly that of its intra frame."""
        return self.frames >= LONG_CLIP

    @property
    def fit_seconds(self) -> float:
        return sum(p.fit_seconds for p in self.points)

    def gain(self) -> BdRate:
        """BD-rate (PSNR-YUV) of the fitted files over those of one pass; negative is bits saved."""
        if len(self.points) < MIN_POINTS:
            return BdRate.refusal(f"{_count(len(self.points), 'QP')} given; {MIN_POINTS} or more are needed")
        one_pass, fitted = (
            Curve.of([p.bpp for p in points], [p.psnr_yuv for p in points])
            for points in ([p.one_pass for p in self.points], [p.fitted for p in self.points])
        )
        return bd_rate(one_pass, fitted)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "video": self.video, "checksum": self.checksum}
        if self.failure:
            return {**data, "failure": self.failure}
        return {
            **data,
            "frames": self.frames,
            f"at_least_{LONG_CLIP}_frames": self.is_long,
            "fit_seconds": self.fit_seconds,
            "bd_rate": dataclasses.asdict(self.gain()),
            "points": [
                {
                    "qp": p.qp,
                    "one_pass": {"stream": f"{self.name}/{ONE_PASS_FOLDER}/qp{p.qp:02d}.brl", **_figures(p.one_pass)},
                    "fitted": {"stream": f"{self.name}/qp{p.qp:02d}.brl", **_figures(p.fitted)},
                    "fit_seconds": p.fit_seconds,
                    "losses": p.losses,
                }
                for p in self.points
            ],
        }


@dataclass(frozen=True)
class FitReport:
    """What one run found: the model, its settings, every video, and how many points it found done and how many it
    measured itself. duplicates: a video -> the one with the same content, which stands for it."""

    model: dict[str, Any]
    settings: dict[str, Any]
    videos: tuple[VideoFit, ...]
    duplicates: dict[str, str]
    points_found: int
    points_measured: int
    worker_deaths: int
    folder: Path

    @property
    def fitted(self) -> list[VideoFit]:
        return [v for v in self.videos if not v.failure]

    @property
    def failed(self) -> list[VideoFit]:
        return [v for v in self.videos if v.failure]

    def mean_gain(self, only_long: bool = False) -> BdRate:
        """Mean of the videos' BD-rates, refused where one of them is; only_long: of clips with enough frames."""
        chosen = {v.name: v.gain() for v in self.fitted if v.is_long or not only_long}
        if not chosen:
            return BdRate.refusal(f"no clip of {LONG_CLIP} frames or more" if only_long else "no video was fitted")
        return mean_of_sequences(chosen)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "model": self.model,
            "settings": self.settings,
            "bd_rate_mean": dataclasses.asdict(self.mean_gain()),
            f"bd_rate_mean_at_least_{LONG_CLIP}_frames": dataclasses.asdict(self.mean_gain(only_long=True)),
            "fit_seconds": sum(v.fit_seconds for v in self.fitted),
            "fit_seconds_mean": statistics.fmean(v.fit_seconds for v in self.fitted) if self.fitted else None,
            "points_found": self.points_found,
            "points_measured": self.points_measured,
            "worker_deaths": self.worker_deaths,
            "videos": [v.to_json() for v in self.videos],
            "duplicates": self.duplicates,
        }

    def save(self) -> None:
        """Write fit.json, by rename."""
        write_json_atomically(self.folder / REPORT_FILE, self.to_json())


def _figures(point: Point) -> dict[str, Any]:
    """A point without its frames, which its own file has."""
    data = dataclasses.asdict(point)
    for name in ("codec", "qp", "frames", "picture"):
        del data[name]
    return data


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
