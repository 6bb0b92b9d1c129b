"""An evaluation as one HTML page that needs nothing else: curves, BD-rates, frames, pictures at equal bits."""

from __future__ import annotations

import math
import statistics
from importlib import resources
from pathlib import Path
from typing import Any

from codec.atomic_files import write_atomically
from codec.errors import BitreelError
from infra.bdrate import PSNR_RANGES
from infra.evaluation_results import CHAMPION, OURS, BdRow, Evaluation, Point, SequenceResult
from infra.evaluation_scores import MEAN_CURVE, MEAN_OF_SEQUENCES, ONE_SEQUENCE, rate_at_quality
from infra.pictures import data_url
from infra.report_figures import METRICS, frame_plot, mean_rd_plot, rd_plot

REPORT_FILE = "report.html"
_METRIC_NAMES = {"psnr_yuv": "PSNR-YUV", "psnr_y": "PSNR-Y", "ms_ssim": "MS-SSIM", "vmaf": "VMAF"}
_LABELS = {
    "decoder_kmac_per_pixel_intra": "decoder, kMAC a pixel, intra frames",
    "decoder_kmac_per_pixel_inter": "decoder, kMAC a pixel, other frames",
    "psnr_range_db": "PSNR-YUV span, dB",
    "monotonic": "rate and PSNR rise with QP everywhere (1: yes)",
    "decode_hash_failures": "streams that decode to other pixels",
    "estimate_error_percent": "estimated rate off by, worst frame over 1 kB, %",
    "container_bytes_per_frame": "container bytes a frame, worst stream",
    "header_bytes": "header bytes, worst stream",
    "bits_total": "bits of all streams",
    "chain_decay_db": "PSNR lost along the chain beyond the anchor's, dB",
}
_IN_OTHER_TABLES = ("bd_rate", "encode_fps", "decode_fps", "decoder_peak_mb")
_STRIPS = 3  # picture rows a sequence: worst, middle, best quality


def write_report(evaluation: Evaluation, out: Path) -> Path:
    """Write the page to `out`, by rename. Pictures come from the evaluation's folder. Gives `out`."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = _figure
    environment.filters["percent"] = _percent
    template = environment.from_string(resources.files("infra.templates").joinpath("report.html").read_text())
    page = template.render(
        model=evaluation.model,
        figures=_figures(evaluation),
        has_vmaf="vmaf" in evaluation.settings,
        settings=evaluation.settings,
        headline=_headline(evaluation),
        mean_plots=[plot for metric in METRICS if (plot := mean_rd_plot(evaluation, metric))],
        bd_rows=_bd_rows(evaluation),
        sequence_names=[s.source.name for s in evaluation.sequences],
        refusals=_refusals(evaluation.bd_rates),
        sequences=[_sequence(evaluation, s) for s in evaluation.sequences],
        rivals=list(evaluation.sequences[0].anchors),
        anchors=_anchors(evaluation),
        speeds=_speeds(evaluation),
    )
    write_atomically(out, page.encode())
    return out


def nearest_in_rate(point: Point, others: list[Point]) -> Point:
    """The point whose bits per pixel are the nearest to `point`'s, by ratio."""
    return min(others, key=lambda other: abs(math.log(other.bpp / point.bpp)))


def _headline(evaluation: Evaluation) -> list[dict[str, str]]:
    """The figures that one wants first."""
    cards = []
    scores = evaluation.scores
    rivals = {anchor: f"bd_rate.{anchor}" for anchor in evaluation.settings["anchors"]}
    if "champion" in evaluation.settings:
        rivals = {f"the champion, {evaluation.settings['champion']['name']}": "bd_rate_vs_champion", **rivals}
    for rival, score in rivals.items():
        value = scores.get(score)
        cards.append({
            "value": "refused" if value is None else _percent(value),
            "label": f"BD-rate over {rival} (PSNR-YUV, all qualities)",
            "mood": "" if value is None else "good" if value < 0 else "bad",
        })  # fmt: skip
    failures = int(scores["decode_hash_failures"])
    files = sum(len(s.points) for s in evaluation.sequences)
    cards.append({"value": f"{scores['psnr_range_db']:.1f} dB", "label": "PSNR-YUV span of one model", "mood": ""})
    cards.append({
        "value": f"{files - failures} of {files}",
        "label": "streams decoded bit-exactly by another process",
        "mood": "bad" if failures else "good",
    })  # fmt: skip
    rises = scores["monotonic"] == 1.0
    cards.append({
        "value": "yes" if rises else "no",
        "label": "rate and PSNR rise with every QP",
        "mood": "good" if rises else "bad",
    })  # fmt: skip
    return cards


def _bd_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One line an anchor, metric and range: both aggregations, then the sequences in order. A limited range in which
    every figure is refused has none; the list of refusals has its reasons."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in evaluation.bd_rates:
        name = f"{row.range} dB" if row.range != PSNR_RANGES[0].name else row.range
        line = lines.setdefault(
            (row.anchor, row.metric, row.range),
            {"anchor": row.anchor, "metric": _METRIC_NAMES[row.metric], "range": name, "single": {}},
        )
        if row.aggregation == ONE_SEQUENCE:
            line["single"][row.sequence] = row.result
        elif row.aggregation == MEAN_CURVE:
            line["mean_curve"] = row.result
        elif row.aggregation == MEAN_OF_SEQUENCES:
            line["mean"] = row.result
    whole = PSNR_RANGES[0].name
    return [
        line
        for (_, _, limits), line in lines.items()
        if limits == whole or not all(r.refused for r in (line["mean"], line["mean_curve"], *line["single"].values()))
    ]


def _refusals(rows: list[BdRow]) -> list[str]:
    return [
        f"{row.anchor}, {_METRIC_NAMES[row.metric]}, {row.range}, {row.sequence or row.aggregation}: "
        f"{row.result.refused}"
        for row in rows
        if row.result.refused and row.aggregation != MEAN_OF_SEQUENCES
    ]


def _sequence(evaluation: Evaluation, sequence: SequenceResult) -> dict[str, Any]:
    source = sequence.source
    middle = sequence.points[len(sequence.points) // 2]
    beside = [nearest_in_rate(middle, points) for points in sequence.anchors.values() if points[0].frames]
    return {
        "name": source.name,
        "source": source,
        "plots": [plot for metric in METRICS if (plot := rd_plot(sequence, metric))],
        "rows": [_point_row(p, sequence) for p in sequence.points],
        "anchor_rows": [p for points in sequence.anchors.values() for p in points],
        "frame_plot": frame_plot([middle, *beside], source.width * source.height),
        "picture_frame": sequence.picture_frame,
        "source_picture": _picture(evaluation, sequence.source_picture),
        "strips": [_strip(evaluation, sequence, p) for p in _spread(sequence.points)],
    }


def _point_row(point: Point, sequence: SequenceResult) -> dict[str, Any]:
    same = []
    for points in sequence.anchors.values():
        rate = rate_at_quality(points, point.psnr_yuv)
        same.append(None if rate is None else (rate, 100.0 * (point.bpp / rate - 1.0)))
    return {"point": point, "same_quality": same}


def _strip(evaluation: Evaluation, sequence: SequenceResult, point: Point) -> list[dict[str, Any]]:
    shown = [point, *(nearest_in_rate(point, points) for points in _strip_rivals(sequence))]
    return [
        {
            "picture": _picture(evaluation, p.picture),
            "point": p,
            "frame": p.frames[sequence.picture_frame],
        }
        for p in shown
    ]


def _strip_rivals(sequence: SequenceResult) -> list[list[Point]]:
    """The conventional codec, where there is one; there is room for one picture beside ours."""
    seen = {name: points for name, points in sequence.anchors.items() if points[0].frames}
    rivals = [points for name, points in seen.items() if name != CHAMPION] or [*seen.values()]
    return rivals[:1]


def _picture(evaluation: Evaluation, path: str | None) -> str | None:
    """The picture as a part of the page. Results may come from somebody else: no other file gets into it."""
    if path is None:
        return None
    place = (evaluation.folder / path).resolve()
    if place.suffix != ".webp" or not place.is_relative_to((evaluation.folder / "pictures").resolve()):
        raise BitreelError(f"'{evaluation.folder}' names '{path}' as a picture, which is none of its own")
    return data_url(place) if place.is_file() else None


def _spread(points: list[Point]) -> list[Point]:
    """At most three points: the first, the middle and the last."""
    if len(points) <= _STRIPS:
        return points
    return [points[0], points[len(points) // 2], points[-1]]


def _figures(evaluation: Evaluation) -> list[tuple[str, float]]:
    """Complexity and what else is known of the model, with names for people."""
    scores = {k: v for k, v in evaluation.scores.items() if not k.startswith(_IN_OTHER_TABLES)}
    listed = {**evaluation.model["complexity"], **scores}
    return [(_LABELS.get(name, name.replace("_", " ")), value) for name, value in listed.items()]


def _anchors(evaluation: Evaluation) -> list[dict[str, str]]:
    """What each anchor is, in its encoder's own words; of a published one, where its figures come from."""
    tables = {table["name"]: table for table in evaluation.settings.get("anchor_tables", [])}
    described = []
    for name in evaluation.settings["anchors"]:
        if name in tables:
            table = tables[name]
            origin = f"published results, read from {Path(table['path']).name} (SHA-256 {table['sha256'][:16]}…)"
            limits = "It has no frames: nothing of it by frame, no pictures, no speeds."
            described.append({"name": name, "encoder": origin, "command": "", "options": "", "limits": limits})
            continue
        point = evaluation.sequences[0].anchors[name][0]
        words = {key: str(point.details[key]) for key in ("encoder", "command", "options")}
        described.append({"name": name, **words, "limits": ""})
    return described


def _speeds(evaluation: Evaluation) -> list[dict[str, Any]]:
    curves: dict[str, list[Point]] = {}
    for sequence in evaluation.sequences:
        for codec, points in {OURS: sequence.points, **sequence.anchors}.items():
            curves.setdefault(codec, []).extend(points)
    return [
        {
            "codec": codec,
            "encode": _mean_speed([p.encode_fps for p in points]),
            "decode": _mean_speed([p.decode_fps for p in points]),
            "peak_mb": max(
                (p.details["decoder_peak_mb"] for p in points if "decoder_peak_mb" in p.details), default=None
            ),
        }
        for codec, points in curves.items()
    ]


def _mean_speed(speeds: list[float | None]) -> float | None:
    known = [speed for speed in speeds if speed is not None]
    return statistics.harmonic_mean(known) if known else None


def _figure(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f} %".replace("-", "−")
