"""The whole way on one machine: videos → shards → a fine-tuned codec → streams beside x265 → a champion.

Each stage is the very function behind its command; this file only puts them in a row and keeps what they found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codec.api import load_codec, save_codec
from codec.builtin import builtin_models
from codec.errors import UsageError
from infra.bdrate import ALL, BdRate, Curve, bd_rate, mean_of_sequences
from infra.evaluation import evaluate_model
from infra.evaluation_log import log_evaluation
from infra.evaluation_results import Evaluation
from infra.evaluation_scores import MEAN_OF_SEQUENCES
from infra.promotion import GateResult, promote
from infra.registry import CHAMPION, get_version, list_versions, resolve_model
from infra.report import REPORT_FILE, write_report
from infra.training_job import run_training
from pipeline.ingest import IngestReport, ingest_videos
from pipeline.manifest import read_manifest
from pipeline.ray_session import ray_session
from pipeline.rendered import render_demo_videos
from trainers.loop import fresh_codec
from trainers.recipe import Recipe, load_recipe
from trainers.starting_codec import differing_settings

MODEL_NAME = "demo"
RECIPE = "innvc-demo"
SHIPPED = "innvc-small"  # the built-in model that it fine-tunes
OTHER = "dcvc-fm-small"  # the other codec's, measured beside it as it comes
QPS = (0, 12, 24, 36, 48, 60)
ANCHORS = ("x265-ldp-psnr",)
FRAMES = 16
HELD_OUT = 3
CROP = (256, 256)
MAX_PIXELS = 416 * 288  # larger footage is area-averaged before it is measured, so that minutes suffice
RENDERED = 10
RENDERED_FRAMES = 48
RENDERED_SIZE = (416, 240)

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


@dataclass
class DemoResult:
    """What the demo found.

    against_untrained: BD-rate of the trained model over the same codec with untrained weights. against_shipped: over
    the built-in model that it was fine-tuned from, None where it began untrained. other, other_report: the other
    codec's built-in model on the same clips, None where it does not lie there. field_gain: BD-rate of the
    model over the same without its conditioning field.
    """

    ingest: IngestReport
    evaluation: Evaluation
    against_untrained: BdRate
    against_shipped: BdRate | None
    field_gain: BdRate
    version: int
    gate: GateResult
    report: Path
    other: Evaluation | None
    other_report: Path | None
    store: Path
    rendered: bool
    seconds: dict[str, float] = field(default_factory=dict)


def run_demo(
    videos: Sequence[str], out: Path, *, recipe: Recipe | None = None, say: Say, progress: Progress
) -> DemoResult:
    """Run all stages; videos empty means clips rendered from photographs. Results go to `out`, the model version to
    the registry. What an earlier run in the same folder ingested, rendered or encoded is found again. Training starts
    from the built-in model where the recipe asks for the same codec, else from untrained weights.

    Raises UsageError where there are too few videos to hold one out.
    """
    recipe = recipe or load_recipe(RECIPE)
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    rendered = not videos
    if rendered:
        say(
            f"No --videos given: rendering {RENDERED} short clips by moving a camera over photographs that ship with "
            "scikit-image and scikit-learn, with objects that move on their own and sensor noise. "
            "They are no real footage."
        )
        made = render_demo_videos(
            out / "rendered",
            RENDERED,
            RENDERED_FRAMES,
            RENDERED_SIZE,
            on_video=lambda done: progress("render", done, RENDERED),
        )
        videos = [str(path) for path in made]
        clock.lap("render")

    say("Ingest: decode, find shot cuts, cut clips, write shards and manifest")
    store = out / "store"
    ingested = ingest_videos(
        videos,
        store,
        crop=CROP,
        held_out=HELD_OUT,
        on_progress=lambda state: progress("ingest", state.done, state.total),
    )
    clock.lap("ingest")
    held_out = held_out_videos(store)
    say(
        f"{ingested.clips} new clips from {ingested.ingested} videos, {len(ingested.quarantined)} quarantined; "
        f"held out: {', '.join(path.name for path in held_out)}"
    )

    untrained, shipped = _untrained_model(recipe, out / "untrained"), _shipped_model(recipe)
    what = f"Fine-tune the built-in {SHIPPED}" if shipped else f"Train from scratch (no built-in {SHIPPED} that fits)"
    say(f"{what}: Ray Train, workers reading the shards")
    trained = run_training(
        recipe,
        store,
        model_name=MODEL_NAME,
        workers=_workers(recipe),
        init_from=str(shipped or untrained),
        on_progress=lambda step, _: progress("train", step, recipe.total_steps),
    )
    assert trained.version is not None
    clock.lap("train")

    others = f"the built-in {SHIPPED} and untrained weights" if shipped else "its untrained start"
    say(f"Evaluate: real files, decoded by other processes, beside x265; then without field, {others}; {OTHER}")
    champion = next((v for v in list_versions(MODEL_NAME) if CHAMPION in v.aliases), None)
    model = resolve_model(f"{MODEL_NAME}@{trained.version}")

    def measure(folder: str, checkpoint: Path, **extra: Any) -> Evaluation:
        def show(done: int, total: int, what: str) -> None:
            progress(folder, done, total)

        return evaluate_model(
            checkpoint, held_out, qps=QPS, frames=FRAMES, out=out / folder, max_pixels=MAX_PIXELS, on_progress=show,
            cache=out / "cache", **{"anchors": (), **extra},
        )  # fmt: skip

    holder = resolve_model(f"{MODEL_NAME}@{CHAMPION}") if champion else None
    new, old = f"{MODEL_NAME}@{trained.version}", f"{MODEL_NAME}@{champion.version}" if champion else None
    with ray_session(None):  # one for all of them, as starting it takes seconds
        evaluation = measure("evaluation", model, anchors=ANCHORS, champion=holder, name=new, champion_name=old)
        without_field = measure("evaluation-no-field", model, field=False)
        of_untrained = measure("evaluation-untrained", untrained)
        of_shipped = measure("evaluation-shipped", shipped) if shipped else None
        other = builtin_models().get(OTHER)
        beside = {"anchors": ANCHORS, "champion": model, "champion_name": new}
        of_other = measure(f"evaluation-{OTHER}", other, **beside) if other else None
    other_report = write_report(of_other, out / f"evaluation-{OTHER}" / REPORT_FILE) if of_other else None
    report = write_report(evaluation, out / "evaluation" / REPORT_FILE)
    log_evaluation(evaluation, report, get_version(MODEL_NAME, str(trained.version)), champion)
    clock.lap("evaluate")

    gate = promote(MODEL_NAME, str(trained.version))
    return DemoResult(
        ingest=ingested,
        evaluation=evaluation,
        against_untrained=bd_rate_between(of_untrained, evaluation),
        against_shipped=bd_rate_between(of_shipped, evaluation) if of_shipped else None,
        field_gain=bd_rate_between(without_field, evaluation),
        version=trained.version,
        gate=gate,
        report=report,
        other=of_other,
        other_report=other_report,
        store=store,
        rendered=rendered,
        seconds=seconds,
    )


def _untrained_model(recipe: Recipe, folder: Path) -> Path:
    """The recipe's codec with untrained weights, saved: what training has to be better than."""
    codec = fresh_codec(recipe)
    codec.display_name = f"{MODEL_NAME}-untrained"
    save_codec(codec, folder)
    return folder


def _shipped_model(recipe: Recipe) -> Path | None:
    """The built-in model that the recipe can go on from; None where the recipe's codec is another."""
    folder = builtin_models().get(SHIPPED)
    if folder is None or differing_settings(load_codec(folder), fresh_codec(recipe)):
        return None
    return folder


def held_out_videos(store: Path) -> list[Path]:
    """The sources that training does not see, at most HELD_OUT of them. Raises UsageError where there are none."""
    rows = read_manifest(store, ["source", "split", "source_checksum"]).to_pylist()
    found = sorted({(row["source_checksum"], row["source"]) for row in rows if row["split"] != "train"})
    if not found:
        raise UsageError(
            f"--videos: {len({r['source'] for r in rows})} usable videos; give at least 3, one is held out"
        )
    return [Path(source) for _, source in found[:HELD_OUT]]


def bd_rate_of(evaluation: Evaluation, anchor: str) -> BdRate | None:
    """The main BD-rate (PSNR-YUV, all qualities, mean of sequences) against an anchor or the champion."""
    for row in evaluation.bd_rates:
        if (row.anchor, row.metric, row.range, row.aggregation) == (anchor, "psnr_yuv", ALL.name, MEAN_OF_SEQUENCES):
            return row.result
    return None


def bd_rate_between(anchor: Evaluation, tested: Evaluation) -> BdRate:
    """BD-rate (PSNR-YUV, mean of sequences) of one evaluation's model over another's, on the same sequences."""

    def curves(evaluation: Evaluation) -> dict[str, Curve]:
        return {
            s.source.name: Curve.of([p.bpp for p in s.points], [p.psnr_yuv for p in s.points])
            for s in evaluation.sequences
        }

    anchors = curves(anchor)
    return mean_of_sequences({name: bd_rate(anchors[name], curve) for name, curve in curves(tested).items()})


def _workers(recipe: Recipe) -> int:
    """Two training workers where there are cores for them: the way a cluster does it."""
    import os

    return 2 if (os.cpu_count() or 1) > 1 and recipe.batch_size % 2 == 0 else 1


class _Clock:
    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._seconds[name] = round(now - self._last, 1)
        self._last = now
