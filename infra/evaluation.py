"""Evaluating a model: real files, decoded elsewhere, beside anchors encoded in the same run; all of it as Ray tasks.

Paths are handed to the tasks, so on a cluster the videos, the cache and `out` must lie on storage that all nodes see
under the same path. Models are put into the cache for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codec.api import QP_COUNT, load_codec
from codec.errors import UsageError
from infra.anchors import ANCHORS, check_anchors
from infra.evaluation_results import CHAMPION, OURS, Evaluation, Point, SequenceResult
from infra.evaluation_scores import bd_table, scores_of
from infra.evaluation_source import EvaluationSource, prepare_source
from infra.evaluation_streams import StreamSet
from infra.evaluation_tasks import EvaluationTasks, Progress, fetch, picture_frame
from infra.evaluation_videos import EvaluationVideo, as_catalogued
from infra.pictures import write_picture
from infra.published_anchors import load_published
from infra.shared_models import shared_model
from infra.vmaf import vmaf_version

DEFAULT_QPS = (0, 9, 18, 27, 36, 45, 54, 63)
DEFAULT_ANCHORS = ("x265-ldp-psnr", "x265-ldp")
DEFAULT_CACHE = Path("runs") / "cache"
_THREADS_PER_TASK = 1
_ALONE_PIXELS = 4_000_000  # luma pixels of a sequence from which on each QP is a task of its own


def evaluate_model(
    model: Path,
    videos: Sequence[Path | EvaluationVideo],
    *,
    qps: Sequence[int] = DEFAULT_QPS,
    anchors: Sequence[str] = DEFAULT_ANCHORS,
    anchor_tables: Sequence[Path] = (),
    frames: int = 96,
    intra_period: int = -1,
    out: Path,
    field: bool = True,
    max_pixels: int | None = None,
    champion: Path | None = None,
    name: str | None = None,
    champion_name: str | None = None,
    address: str | None = None,
    vmaf: bool = False,
    test_sets: Sequence[str] = (),
    notes: Sequence[str] = (),
    cache: Path = DEFAULT_CACHE,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Measure the checkpoint in folder `model` on `videos` at every QP, beside anchors; results go to `out`.

    anchor_tables: published results to compare with as well (infra/published_anchors.py). frames: at most this many
    from each video's start. max_pixels: larger videos are area-averaged by a whole factor first, which the results
    state. champion: folder of another model that is coded alike and compared with. name, champion_name: what results
    call them, such as `street-cams@7`; without, what their checkpoints do. address: a Ray cluster; without it
    Ray runs here. vmaf: measured too. test_sets, notes: stored with the results. cache: frames, points and anchors kept
    between runs, by content. on_progress gets (files done, files in all, what was done last).

    Raises UsageError for wrong settings, VideoError for a video that can't be read, BitreelError where any point
    fails: there are no results with gaps. Run again, what was measured is found again, whatever `out` is.
    """
    qps = tuple(sorted(set(qps)))
    _check(videos, qps, frames, intra_period)
    check_anchors(list(anchors))
    tables = [load_published(path) for path in anchor_tables]
    names = [*anchors, *(table.name for table in tables)]
    for taken in {OURS, CHAMPION} & set(names):
        raise UsageError(f"an anchor table can't be called '{taken}'")
    if len(set(names)) < len(names):
        raise UsageError(f"two anchors have the same name: {', '.join(names)}")
    measures = {"vmaf": vmaf_version()} if vmaf else {}
    codec = load_codec(model)
    model_hash = codec.model_hash().hex()
    description = {
        "name": name or codec.display_name, "family": codec.family, "hash": model_hash, "path": str(model),
        "complexity": codec.complexity(),
    }  # fmt: skip
    models = {OURS: (model, model_hash)}
    rival: dict[str, str] = {}
    if champion is not None:
        other = load_codec(champion)
        rival = {"name": champion_name or other.display_name, "hash": other.model_hash().hex()}
        models[CHAMPION] = (champion, rival["hash"])
    cache, out = cache.absolute(), out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    models = {label: (shared_model(folder, digest, cache), digest) for label, (folder, digest) in models.items()}
    report = on_progress or (lambda done, total, what: None)
    import ray

    from pipeline.ray_session import ray_session

    with ray_session(address):
        sources = _sources(ray, videos, cache / "sources", frames, max_pixels, report)
        _check_sizes(sources, anchors)
        published = {table.name: [list(table.find(source).points) for source in sources] for table in tables}
        work = EvaluationTasks(ray, sources, out, cache, intra_period, vmaf, report)
        for source in sources:
            for label, (folder, digest) in models.items():
                for together in _qps_of_tasks(source, qps):
                    job = StreamSet(
                        label, str(folder), digest, source, together, intra_period, field,
                        picture_frame(source), _THREADS_PER_TASK, vmaf,
                    )  # fmt: skip
                    work.code(job)
        for anchor in anchors:
            work.encode_anchor(anchor, ANCHORS[anchor].ladder.first)
        work.finish()
    sequences = [_sequence(work, source, list(anchors), out) for source in sources]
    for name, curves in published.items():
        for sequence, points in zip(sequences, curves, strict=True):
            sequence.anchors[name] = points
    table = bd_table(sequences)
    settings = {
        "qps": list(qps), "anchors": names, "frames": frames, "intra_period": intra_period, "field": field,
        "max_pixels": max_pixels, "test_sets": list(test_sets), **measures, **({"champion": rival} if rival else {}),
        "anchor_tables": [{"name": t.name, "path": t.path, "sha256": t.sha256} for t in tables],
        "notes": [*notes, *_notes(sequences, frames), *(n for t in tables for n in t.notes(sources))],
    }  # fmt: skip
    evaluation = Evaluation(description, settings, sequences, table, scores_of(sequences, table), out)
    evaluation.save()
    return evaluation


def _qps_of_tasks(source: EvaluationSource, qps: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The QPs of each task: one, where a stream takes longer than starting a decoder for it."""
    return [qps] if source.pixels < _ALONE_PIXELS else [(qp,) for qp in qps]


def _check(videos: Sequence[Path | EvaluationVideo], qps: Sequence[int], frames: int, intra_period: int) -> None:
    if not videos:
        raise UsageError("no videos to evaluate on")
    if not qps or min(qps) < 0 or max(qps) >= QP_COUNT:
        raise UsageError(f"QPs must lie in 0..{QP_COUNT - 1}")
    if frames < 1:
        raise UsageError("frames must be 1 or more")
    if intra_period < 1 and intra_period != -1:
        raise UsageError("intra period must be -1 (one intra frame) or 1 and more")


def _sources(
    ray: Any, videos: Sequence[Path | EvaluationVideo], cache: Path, frames: int, max_pixels: int | None,
    report: Progress,
) -> list[EvaluationSource]:  # fmt: skip
    """All videos' frames, with names that differ."""
    given = [video if isinstance(video, EvaluationVideo) else EvaluationVideo(Path(video)) for video in videos]
    task = ray.remote(num_cpus=1)(prepare_source)
    pending = [task.remote(video.path.absolute(), cache, frames, max_pixels, video.raw) for video in given]
    sources = []
    for video, one in zip(given, pending, strict=True):
        source = fetch(ray, one, str(video.path))
        sources.append(replace(as_catalogued(source, video), name=video.name or source.name))
        report(0, len(videos), f"read {video.path.name}")
    names = _distinct([source.name for source in sources])
    return [replace(source, name=name) for source, name in zip(sources, names, strict=True)]


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with -2, -3, … behind those that came before; never one that another video has by itself."""
    taken, seen, distinct = set(names), set[str](), []
    for name in names:
        unique, number = name, 1
        while unique in seen or (number > 1 and unique in taken):
            number += 1
            unique = f"{name}-{number}"
        seen.add(unique)
        distinct.append(unique)
    return distinct


def _check_sizes(sources: list[EvaluationSource], anchors: Sequence[str]) -> None:
    for name in anchors:
        least = ANCHORS[name].min_side
        small = [s for s in sources if min(s.width, s.height) < least]
        if small:
            raise UsageError(
                f"'{small[0].video}' is {small[0].width}x{small[0].height}, and {name} wants sides of {least} or more; "
                "leave it out, or evaluate without that anchor"
            )


def _sequence(work: EvaluationTasks, source: EvaluationSource, anchors: list[str], out: Path) -> SequenceResult:
    """One sequence's points with its pictures gathered in the evaluation folder."""
    folder = out / "pictures" / source.name
    at = picture_frame(source)
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
        notes += [f"{source.name}: {note}" for note in source.notes]
    span = max(s.points[-1].psnr_yuv - s.points[0].psnr_yuv for s in sequences)
    if span > 12 and len(sequences[0].points) < 8:
        notes.append(f"curves span {span:.1f} dB with {len(sequences[0].points)} QPs; more than 12 dB wants 8 or more")
    return notes
