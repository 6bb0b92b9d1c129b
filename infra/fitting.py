"""Fitting a codec to videos, each on its own, at several QPs; and what that gains over coding them in one pass.

Paths are handed to Ray tasks, so on a cluster the model, the videos and `out` must lie on storage that all nodes see
under the same path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from codec.api import QP_COUNT, Codec, FitSettings, load_codec
from codec.errors import UsageError
from codec.folder_lock import only_writer
from infra.evaluation_streams import codec_digest
from infra.fitting_folders import choose_folders, remove_leftovers
from infra.fitting_results import FitReport, VideoFit
from infra.fitting_run import FittingRun, Progress
from infra.fitting_worker import FitJob
from infra.shared_models import shared_model, shared_place

# The fitted curve's ends lie elsewhere than those of one pass, and what both share must still hold four points of each.
DEFAULT_QPS = (12, 20, 28, 36, 44, 52)
_FRAMES_FOLDER = ".frames"  # and the model, for all machines


def fit_videos(
    model: Path,
    videos: Sequence[Path],
    *,
    qps: Sequence[int] = DEFAULT_QPS,
    frames: int | None = None,
    settings: FitSettings | None = None,
    out: Path,
    workers: int | None = None,
    address: str | None = None,
    on_progress: Progress | None = None,
) -> FitReport:
    """Fit the checkpoint in folder `model` to each video at every QP; streams and figures go to folder `out`.

    frames: at most so many from each video's start; None means all. workers: videos at once; by default one a GPU, or
    one a CPU where there is none. address: a Ray cluster; without it Ray runs here. on_progress gets (points done,
    points in all, what was done last).

    A video that fails is in the report with its reason, and the others go on. Run again with the same `out`, only
    points that are missing are made: those of new videos, another model, another version of the codec, other settings.

    Raises UsageError for wrong settings or a codec that can't be fitted, BitreelError where Ray can't be used or
    another run is writing to `out`.
    """
    settings = settings or FitSettings()
    qps = tuple(sorted(set(qps)))
    _check(videos, qps, frames, settings)
    codec = load_codec(model)
    if type(codec).fit is Codec.fit:
        raise UsageError(f"codec '{codec.family}' can't be fitted to a video")
    model_hash = codec.model_hash().hex()
    described = {"frames": frames, **dataclasses.asdict(settings)}
    report = on_progress or (lambda done, total, what: None)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out, f"another fit is writing to '{out}'; wait for it or stop it"):
        chosen = choose_folders(out, videos, lambda video: report(0, len(videos) * len(qps), f"read {video.name}"))
        code = codec_digest()
        jobs = [
            FitJob(
                video=str(item.video), folder=out / item.name, cache=out / _FRAMES_FOLDER,
                model=str(shared_place(model_hash, out / _FRAMES_FOLDER)), model_hash=model_hash,
                frames=frames or sys.maxsize, settings=settings,
                keys={qp: _key(code, item.checksum, model_hash, qp, described) for qp in qps},
            )
            for item in chosen.items
        ]  # fmt: skip
        run = FittingRun(jobs, report)
        try:
            _clean(out, jobs)
            shared_model(model, model_hash, out / _FRAMES_FOLDER)
            run.work(workers, address)
        finally:
            _clean(out, jobs)
        results = [
            VideoFit(item.name, str(item.video), item.checksum, *run.results[job.folder])
            for item, job in zip(chosen.items, jobs, strict=True)
        ]
        results += [VideoFit(v.stem, str(v), "", failure=reason) for v, reason in chosen.unreadable.items()]
        found = FitReport(
            model={"name": codec.display_name, "family": codec.family, "hash": model_hash, "path": str(model)},
            settings={"qps": list(qps), **described},
            videos=tuple(results),
            duplicates={str(video): str(first) for video, first in chosen.duplicates.items()},
            points_found=run.found,
            points_measured=run.measured,
            worker_deaths=run.deaths,
            folder=out,
        )
        found.save()
    return found


def _check(videos: Sequence[Path], qps: Sequence[int], frames: int | None, settings: FitSettings) -> None:
    if not videos:
        raise UsageError("no videos to fit to")
    if not qps or min(qps) < 0 or max(qps) >= QP_COUNT:
        raise UsageError(f"QPs must lie in 0..{QP_COUNT - 1}")
    if frames is not None and frames < 1:
        raise UsageError("frames must be 1 or more")
    if settings.steps < 1:
        raise UsageError("steps must be 1 or more")


def _clean(out: Path, jobs: list[FitJob]) -> None:
    shutil.rmtree(out / _FRAMES_FOLDER, ignore_errors=True)
    for job in jobs:
        remove_leftovers(job.folder)


def _key(code: str, checksum: str, model_hash: str, qp: int, described: dict[str, object]) -> str:
    """Changes with anything that can change a point: code, video, model, QP, settings."""
    return hashlib.sha256(json.dumps([code, checksum, model_hash, qp, described], sort_keys=True).encode()).hexdigest()
