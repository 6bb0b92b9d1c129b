"""Evaluating a model: real files, decoded elsewhere, beside anchors encoded in the same run; all of it as Ray tasks.

Paths are handed to the tasks, so on a cluster the model, the videos, the cache and `out` must lie on storage that all
nodes see under the same path.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from codec.api import QP_COUNT, load_codec
from codec.errors import BitreelError, UsageError, VideoError
from infra.anchors import FIRST_QPS, anchor_point, check_anchors, next_qps
from infra.bdrate import MIN_POINTS, PSNR_RANGES
from infra.evaluation_results import CHAMPION, OURS, Evaluation, Point, SequenceResult
from infra.evaluation_scores import bd_table, scores_of
from infra.evaluation_source import EvaluationSource, prepare_source
from infra.evaluation_streams import KeptPoint, StreamSet, measure_stream_set
from infra.pictures import write_picture

DEFAULT_QPS = (0, 9, 18, 27, 36, 45, 54, 63)
DEFAULT_ANCHORS = ("x265-ldp-psnr", "x265-ldp")
DEFAULT_CACHE = Path("runs") / "cache"
ANCHOR_MIN_SIDE = 16
MAX_ANCHOR_POINTS = 12
_THREADS_PER_TASK = 1
_TRIES = 2  # of a task that raises; one whose process or machine dies Ray tries three times more
_ALONE_PIXELS = 4_000_000  # luma pixels of a sequence from which on each QP is a task of its own

Progress = Callable[[int, int, str], None]


def evaluate_model(
    model: Path,
    videos: Sequence[Path],
    *,
    qps: Sequence[int] = DEFAULT_QPS,
    anchors: Sequence[str] = DEFAULT_ANCHORS,
    frames: int = 96,
    intra_period: int = -1,
    out: Path,
    field: bool = True,
    max_pixels: int | None = None,
    champion: Path | None = None,
    address: str | None = None,
    cache: Path = DEFAULT_CACHE,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Measure the checkpoint in folder `model` on `videos` at every QP, beside x265; results go to folder `out`.

    frames: at most this many from each video's start. max_pixels: larger videos are area-averaged by a whole factor
    first, which the results state. champion: folder of another model that is coded alike and compared with. address:
    a Ray cluster; without it Ray runs here. cache: frames, points and anchors kept between runs, by content.
    on_progress gets (files done, files in all, what was done last).

    Raises UsageError for wrong settings, VideoError for a video that can't be read, BitreelError where any point
    fails: there are no results with gaps. Run again, what was measured is found again, whatever `out` is.
    """
    qps = tuple(sorted(set(qps)))
    _check(videos, qps, frames, intra_period)
    check_anchors(list(anchors))
    codec = load_codec(model)
    model_hash = codec.model_hash().hex()
    description = {
        "name": codec.display_name, "family": codec.family, "hash": model_hash, "path": str(model),
        "complexity": codec.complexity(),
    }  # fmt: skip
    models = {OURS: (model, model_hash)}
    if champion is not None:
        models[CHAMPION] = (champion, load_codec(champion).model_hash().hex())
    cache, out = cache.absolute(), out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    report = on_progress or (lambda done, total, what: None)
    import ray

    from pipeline.ray_session import ray_session

    with ray_session(address):
        sources = _sources(ray, videos, cache / "sources", frames, max_pixels, report)
        _check_sizes(sources, anchors)
        work = _Work(ray, sources, out, cache, intra_period, report)
        for source in sources:
            for label, (folder, digest) in models.items():
                for together in _tasks(source, qps):
                    job = StreamSet(
                        label, str(folder.absolute()), digest, source, together, intra_period, field,
                        _picture_frame(source), _THREADS_PER_TASK,
                    )  # fmt: skip
                    work.code(job)
        for anchor in anchors:
            work.encode_anchor(anchor, list(FIRST_QPS))
        work.finish()
    sequences = [_sequence(work, source, list(anchors), out) for source in sources]
    table = bd_table(sequences)
    settings = {
        "qps": list(qps), "anchors": list(anchors), "frames": frames, "intra_period": intra_period, "field": field,
        "max_pixels": max_pixels, "notes": _notes(sequences, frames),
    }  # fmt: skip
    evaluation = Evaluation(description, settings, sequences, table, scores_of(sequences, table), out)
    evaluation.save()
    return evaluation


def _tasks(source: EvaluationSource, qps: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The QPs of each task: one, where a stream takes longer than starting a decoder for it."""
    return [qps] if source.pixels < _ALONE_PIXELS else [(qp,) for qp in qps]


@dataclass(frozen=True)
class _Task:
    """what: a label or an anchor; start: gives the Ray task anew; files: it makes so many; tries: so far."""

    what: str
    source: EvaluationSource
    files: int
    start: Callable[[], Any]
    tries: int = 1


class _Work:
    """Everything that is under way: a task for one or a few QPs of a sequence, one for each of an anchor's files."""

    def __init__(
        self, ray: Any, sources: list[EvaluationSource], out: Path, cache: Path, intra_period: int, report: Progress
    ) -> None:
        self._ray, self._sources, self._out, self._cache = ray, sources, out, cache
        self._intra_period, self._report = intra_period, report
        self._pending: dict[Any, _Task] = {}
        self._done, self._total, self._coding = 0, 0, 0
        self._coded: dict[str, dict[str, list[KeptPoint]]] = {}  # label -> sequence -> points as they come
        self.anchors: dict[str, dict[str, dict[int, tuple[Point, Path]]]] = {}

    def code(self, job: StreamSet) -> None:
        remote = self._ray.remote(num_cpus=1)(measure_stream_set)
        self._coding += 1
        self._add(_Task(job.label, job.source, len(job.qps), lambda: remote.remote(job, self._cache / "points")))

    def encode_anchor(self, anchor: str, qps: list[int]) -> None:
        remote = self._ray.remote(num_cpus=1)(anchor_point)
        for source in self._sources:
            self.anchors.setdefault(anchor, {}).setdefault(source.name, {})
            for qp in qps:
                start = partial(
                    remote.remote, source, anchor, qp, self._cache / "anchors", intra_period=self._intra_period,
                    picture_frame=_picture_frame(source),
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
                wanted |= _missing_qps({qp: p.psnr_yuv for qp, (p, _) in points.items()}, ours)
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


def _missing_qps(measured: dict[int, float], ours: list[Point]) -> set[int]:
    """What an anchor lacks for every quality range in which our own curve has points enough."""
    wanted: set[int] = set()
    qualities = [p.psnr_yuv for p in ours]
    for limits in PSNR_RANGES:
        low = max(min(qualities), limits.low if limits.low is not None else min(qualities))
        high = min(max(qualities), limits.high if limits.high is not None else max(qualities))
        if low < high and sum(low <= q <= high for q in qualities) >= MIN_POINTS:
            wanted |= set(next_qps(measured, low, high))
    return wanted


def _check(videos: Sequence[Path], qps: Sequence[int], frames: int, intra_period: int) -> None:
    if not videos:
        raise UsageError("no videos to evaluate on")
    if not qps or min(qps) < 0 or max(qps) >= QP_COUNT:
        raise UsageError(f"QPs must lie in 0..{QP_COUNT - 1}")
    if frames < 1:
        raise UsageError("frames must be 1 or more")
    if intra_period < 1 and intra_period != -1:
        raise UsageError("intra period must be -1 (one intra frame) or 1 and more")


def _sources(
    ray: Any, videos: Sequence[Path], cache: Path, frames: int, max_pixels: int | None, report: Progress
) -> list[EvaluationSource]:
    """All videos' frames, with names that differ."""
    task = ray.remote(num_cpus=1)(prepare_source)
    pending = [task.remote(Path(v).absolute(), cache, frames, max_pixels) for v in videos]
    sources = []
    for video, one in zip(videos, pending, strict=True):
        sources.append(fetch(ray, one, str(video)))
        report(0, len(videos), f"read {Path(video).name}")
    taken: Counter[str] = Counter()
    for i, source in enumerate(sources):
        taken[source.name] += 1
        if taken[source.name] > 1:
            sources[i] = replace(source, name=f"{source.name}-{taken[source.name]}")
    return sources


def _check_sizes(sources: list[EvaluationSource], anchors: Sequence[str]) -> None:
    small = [s for s in sources if min(s.width, s.height) < ANCHOR_MIN_SIDE]
    if small and anchors:
        raise UsageError(
            f"'{small[0].video}' is {small[0].width}x{small[0].height}, and x265 wants sides of {ANCHOR_MIN_SIDE} or "
            "more; leave it out, or evaluate without anchors"
        )


def _picture_frame(source: EvaluationSource) -> int:
    return source.frame_count // 2


def _sequence(work: _Work, source: EvaluationSource, anchors: list[str], out: Path) -> SequenceResult:
    """One sequence's points with its pictures gathered in the evaluation folder."""
    folder = out / "pictures" / source.name
    at = _picture_frame(source)
    frame = next(f for i, f in enumerate(source.frames()) if i == at)
    write_picture(folder / "source.webp", frame, source.format)
    coded = work.points(source)
    ours = coded.pop(OURS)
    beside: dict[str, list[Point]] = coded
    for anchor in anchors:
        beside[anchor] = []
        for qp, (point, picture) in sorted(work.anchors[anchor][source.name].items(), reverse=True):
            name = f"{anchor}-qp{qp:02d}.webp"
            shutil.copyfile(picture, folder / name)
            beside[anchor].append(replace(point, picture=f"pictures/{source.name}/{name}"))
    return SequenceResult(source, ours, beside, f"pictures/{source.name}/source.webp", at)


def _gathered(kept: KeptPoint, out: Path, source: EvaluationSource) -> Point:
    """The point with its stream and picture in the evaluation's folder."""
    label, qp = kept.point.codec, kept.point.qp
    picture = f"pictures/{source.name}/{label}-qp{qp:02d}.webp"
    for file, place in ((kept.stream, f"streams/{source.name}/{label}/qp{qp:02d}.brl"), (kept.picture, picture)):
        target = out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return replace(kept.point, picture=picture)


def _notes(sequences: list[SequenceResult], frames: int) -> list[str]:
    """What a reader must know to judge the figures."""
    notes = []
    for s in sequences:
        source = s.source
        if source.downscale > 1:
            notes.append(
                f"{source.name}: {source.original_width}x{source.original_height} area-averaged by {source.downscale} "
                f"to {source.width}x{source.height}"
            )
        if source.frame_count < frames:
            notes.append(f"{source.name}: has {source.frame_count} frames only")
    span = max(s.points[-1].psnr_yuv - s.points[0].psnr_yuv for s in sequences)
    if span > 12 and len(sequences[0].points) < 8:
        notes.append(f"curves span {span:.1f} dB with {len(sequences[0].points)} QPs; more than 12 dB wants 8 or more")
    return notes
