"""One run of fitting on Ray: a task a video, those that die started again, points on disk counted as they come."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import BitreelError
from infra.fitting_results import FitPoint, point_path
from infra.fitting_worker import FitJob, fit_video

if TYPE_CHECKING:
    from trainers.ray_workers import Resources

MAX_ATTEMPTS = 3  # workers that may die on a video one after another without a point more
_LOOK_SECONDS = 0.5  # how often points on disk are counted

Progress = Callable[[int, int, str], None]


@dataclass
class _Video:
    """A video that has no result yet: its points on disk, and workers that died since there was one more of them.

    old: time of each note that an earlier run left, of points that are to be made anew.
    """

    job: FitJob
    done: set[int]
    old: dict[int, int | None] = field(default_factory=dict)
    deaths: int = 0


class FittingRun:
    """What waits, what is under way, what came of it: results maps a job's folder to its points or why it failed."""

    def __init__(self, jobs: list[FitJob], report: Progress) -> None:
        self.results: dict[Path, tuple[tuple[FitPoint, ...], str]] = {}
        self.found = self.measured = self.deaths = 0
        self._report = report
        self._given_up = 0  # points of videos that failed
        self._total = sum(len(job.keys) for job in jobs)
        self._waiting: deque[_Video] = deque()
        for job in jobs:
            done = job.done()
            self.found += len(done)
            if len(done) == len(job.keys):
                self.results[job.folder] = (tuple(done[qp] for qp in sorted(done)), "")
            else:
                old = {qp: _written(job, qp) for qp in job.keys if qp not in done}
                self._waiting.append(_Video(job, set(done), old))

    def work(self, workers: int | None, address: str | None) -> None:
        """Let Ray work until nothing waits. Raises UsageError for more workers than CPUs or GPUs."""
        self._tell("fit")
        if not self._waiting:
            return
        import ray

        from pipeline.ray_session import ray_session

        with ray_session(address) as cpus:
            share = _share(ray, workers, cpus, len(self._waiting))
            # Started again here, not by Ray: here it is known whether the last one got on.
            task = ray.remote(num_cpus=share.cpus, num_gpus=int(share.gpu), max_retries=0)(fit_video)
            pending: dict[Any, _Video] = {}
            try:
                while self._waiting or pending:
                    while self._waiting and len(pending) < share.most:
                        video = self._waiting.popleft()
                        device = "cuda" if share.gpu else "cpu"
                        job = dataclasses.replace(video.job, threads=share.cpus, device=device)
                        pending[task.remote(job)] = video
                    ended, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK_SECONDS)
                    for video in pending.values():
                        self._look(video)
                    for one in ended:
                        self._settle(ray, one, pending.pop(one))
            except BaseException:
                for one in pending:
                    ray.cancel(one, force=True)
                raise

    def _settle(self, ray: Any, task: Any, video: _Video) -> None:
        """Deal with a task that ended."""
        self._look(video)
        try:
            self.results[video.job.folder] = (tuple(ray.get(task)), "")
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            told = str(cause) if isinstance(cause, BitreelError) else f"{type(cause).__name__}: {cause}"
            self._fail(video, _first_line(told))
        except ray.exceptions.RayError as error:
            self.deaths += 1
            video.deaths += 1
            if video.deaths < MAX_ATTEMPTS:
                self._waiting.append(video)
            else:
                name = Path(video.job.video).name
                self._fail(video, f"{name}: {MAX_ATTEMPTS} workers died on it (out of memory?): {_first_line(error)}")

    def _look(self, video: _Video) -> None:
        """Count the points that came since the last look."""
        missing = {qp: _written(video.job, qp) for qp in video.job.keys if qp not in video.done}
        new = {qp for qp, written in missing.items() if written is not None and written != video.old[qp]}
        if new:
            video.done |= new
            video.deaths = 0
            self.measured += len(new)
            self._tell(f"fit {video.job.folder.name}")

    def _fail(self, video: _Video, reason: str) -> None:
        self.results[video.job.folder] = ((), reason)
        self._given_up += len(video.job.keys) - len(video.done)
        self._tell(f"{video.job.folder.name} failed")

    def _tell(self, what: str) -> None:
        self._report(self.found + self.measured + self._given_up, self._total, what)


def _share(ray: Any, workers: int | None, cpus: int, videos: int) -> Resources:
    """How many tasks run at once, and what each of them gets."""
    from trainers.ray_workers import choose_resources

    if workers is not None:
        choose_resources(workers)  # refuses what the cluster has not, however few videos there are
    most = workers or int(ray.cluster_resources().get("GPU", 0)) or cpus
    return choose_resources(min(most, videos))


def _written(job: FitJob, qp: int) -> int | None:
    """When a point's note was written (ns), None where there is none."""
    try:
        return point_path(job.folder, qp).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _first_line(said: object) -> str:
    return (str(said).splitlines() or [type(said).__name__])[0]
