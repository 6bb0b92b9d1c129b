"""An evaluation's Ray tasks: a task for one or a few QPs of a sequence, one for each of an anchor's files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from codec.errors import BitreelError, UsageError, VideoError
from infra.anchors import ANCHORS, anchor_point, next_qps
from infra.bdrate import MIN_POINTS, PSNR_RANGES
from infra.evaluation_results import CHAMPION, OURS, Point
from infra.evaluation_source import EvaluationSource
from infra.evaluation_streams import KeptPoint, StreamSet, measure_stream_set

MAX_ANCHOR_POINTS = 12
_TRIES = 2  # of a task that raises; one whose process or machine dies Ray tries three times more

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Task:
    """what: a label or an anchor; start: gives the Ray task anew; files: it makes so many; tries: so far."""

    what: str
    source: EvaluationSource
    files: int
    start: Callable[[], Any]
    tries: int = 1


class EvaluationTasks:
    """Everything that is under way, and what came of it."""

    def __init__(
        self, ray: Any, sources: list[EvaluationSource], out: Path, cache: Path, intra_period: int, vmaf: bool,
        report: Progress,
    ) -> None:  # fmt: skip
        self._ray, self._sources, self._out, self._cache = ray, sources, out, cache
        self._intra_period, self._vmaf, self._report = intra_period, vmaf, report
        self._pending: dict[Any, _Task] = {}
        self._done, self._total, self._coding = 0, 0, 0
        self._coded: dict[str, dict[str, list[KeptPoint]]] = {}  # label -> sequence -> points as they come
        self.anchors: dict[str, dict[str, dict[int, tuple[Point, Path]]]] = {}

    def code(self, job: StreamSet) -> None:
        """A model's files of one sequence."""
        remote = self._ray.remote(num_cpus=1)(measure_stream_set)
        self._coding += 1
        self._add(_Task(job.label, job.source, len(job.qps), lambda: remote.remote(job, self._cache / "points")))

    def encode_anchor(self, anchor: str, qps: Sequence[int]) -> None:
        """An anchor's files at these QPs, of every sequence."""
        remote = self._ray.remote(num_cpus=1)(anchor_point)
        for source in self._sources:
            self.anchors.setdefault(anchor, {}).setdefault(source.name, {})
            for qp in qps:
                start = partial(
                    remote.remote, source, anchor, qp, self._cache / "anchors", intra_period=self._intra_period,
                    picture_frame=picture_frame(source), vmaf=self._vmaf,
                )  # fmt: skip
                self._add(_Task(anchor, source, 1, start))

    def finish(self) -> None:
        """Wait for all; once our own curves are known, add anchor points where those ask for them."""
        try:
            while self._pending:
                ready, _ = self._ray.wait(list(self._pending), num_returns=1)
                self._take(ready[0])
                if not self._coding:
                    self._extend_anchors()
        except BaseException:
            for task in self._pending:
                self._ray.cancel(task, force=True)
            raise

    def points(self, source: EvaluationSource) -> dict[str, list[Point]]:
        """Each model's points on a sequence by rising QP, their files gathered in the evaluation's folder."""
        return {
            label: [_gathered(each, self._out, source) for each in sorted(kept[source.name], key=lambda k: k.point.qp)]
            for label, kept in self._coded.items()
        }

    def _add(self, task: _Task) -> None:
        self._pending[task.start()] = task
        self._total += task.files
        self._report(self._done, self._total, "")

    def _take(self, reference: Any) -> None:
        task = self._pending.pop(reference)
        name = f"{task.what} on {task.source.name}"
        try:
            result = fetch(self._ray, reference, name)
        except BitreelError as error:
            # What is wrong with the videos or the wish stays wrong; what went wrong at work may go well elsewhere.
            if isinstance(error, UsageError | VideoError) or task.tries >= _TRIES:
                raise
            self._report(self._done, self._total, f"{name} failed ({error}); trying again")
            self._pending[task.start()] = replace(task, tries=task.tries + 1)
            return
        if task.what in (OURS, CHAMPION):
            self._coding -= 1
            self._coded.setdefault(task.what, {}).setdefault(task.source.name, []).extend(result)
        else:
            self.anchors[task.what][task.source.name][result[0].qp] = result
        self._done += task.files
        self._report(self._done, self._total, name)

    def _extend_anchors(self) -> None:
        busy = {task.what for task in self._pending.values()}
        for anchor, by_sequence in self.anchors.items():
            if anchor in busy:
                continue
            wanted: set[int] = set()
            for name, points in by_sequence.items():
                ours = [each.point for each in self._coded[OURS][name]]
                wanted |= _missing_qps(anchor, {qp: p.psnr_yuv for qp, (p, _) in points.items()}, ours)
            room = MAX_ANCHOR_POINTS - len(next(iter(by_sequence.values())))
            if wanted and room > 0:
                self.encode_anchor(anchor, sorted(wanted)[:room])


def fetch(ray: Any, task: Any, what: str) -> Any:
    """A task's result; what it raised comes out as a person can read it."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BitreelError):
            raise error.cause from None
        raise BitreelError(f"{what}: {type(error.cause).__name__}: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise BitreelError(f"{what}: {str(error).splitlines()[0]}") from error


def _missing_qps(anchor: str, measured: dict[int, float], ours: list[Point]) -> set[int]:
    """What an anchor lacks for every quality range in which our own curve has points enough."""
    wanted: set[int] = set()
    qualities = [p.psnr_yuv for p in ours]
    for limits in PSNR_RANGES:
        low = max(min(qualities), limits.low if limits.low is not None else min(qualities))
        high = min(max(qualities), limits.high if limits.high is not None else max(qualities))
        if low < high and sum(low <= q <= high for q in qualities) >= MIN_POINTS:
            wanted |= set(next_qps(measured, low, high, ANCHORS[anchor].ladder))
    return wanted


def picture_frame(source: EvaluationSource) -> int:
    """The frame that pictures show."""
    return source.frame_count // 2


def _gathered(kept: KeptPoint, out: Path, source: EvaluationSource) -> Point:
    """The point with its stream and picture in the evaluation's folder."""
    label, qp = kept.point.codec, kept.point.qp
    picture = f"pictures/{source.name}/{label}-qp{qp:02d}.webp"
    for file, place in ((kept.stream, f"streams/{source.name}/{label}/qp{qp:02d}.brl"), (kept.picture, picture)):
        target = out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return replace(kept.point, picture=picture)
