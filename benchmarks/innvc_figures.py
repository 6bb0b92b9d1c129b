"""What one InnVC model is worth: rate beside x265, size without loss beside FFV1 and x265, where its bits go, and
what its conditioning field gains.

Everything is measured on real files that another process decoded, by the project's own evaluation, with one intra
frame. QPs are chosen from a look at each clip's first frames, so that every clip has at least 4 points between 30 and
40 dB and between 40 and 48 dB, as far as its curve goes there. Run it again with the same --out and what is done is
found again; anchors and peers are found in --cache, whatever the model.

Example: python -m benchmarks.innvc_figures --model innvc-small --clips ~/held-out --out figures
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.innvc_bits import PAYLOAD_PARTS, Bits, stream_bits
from benchmarks.innvc_tables import print_figures
from benchmarks.lossless_peers import PEERS, peer_bytes
from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError, UsageError
from codec.inter.layout import GROUP_SIZES, GROUP_STARTS
from codec.inter.quantization import LOSSLESS_QP
from infra.bdrate import MIN_OVERLAP, MIN_POINTS, PSNR_RANGES
from infra.evaluation import DEFAULT_CACHE, evaluate_model
from infra.evaluation_results import BdRow, Evaluation, Point, SequenceResult
from infra.evaluation_scores import ONE_SEQUENCE, bd_table
from infra.evaluation_source import EvaluationSource
from infra.registry import resolve_model
from pipeline.sources import find_sources

PSNR_ANCHOR, MS_SSIM_ANCHOR = "x265-ldp-psnr", "x265-ldp"
PARTS = ("rate", "lossless", "bits", "field")
EVENLY_SPREAD = tuple(range(0, LOSSLESS_QP + 1, 7))
PROBED, PROBED_FRAMES = (0, 12, 24, 36, 48, 60), 6
WANTED_DB = [(limits.low, limits.high) for limits in PSNR_RANGES if limits.low and limits.high]
MARGIN_DB = 0.3  # the first frames only say about where a point will lie
EXACT_DB = 100.0  # PSNR of a frame without loss
FIELD_OFF = "without field"


def choose_qps(curves: Sequence[dict[int, float]]) -> list[int]:
    """QPs, evenly spread, and more wherever one of the curves (QP → PSNR-YUV in dB) would have fewer than 4 points
    within a range that is compared and that it covers enough of; those farthest from what is there come first."""
    chosen = set(EVENLY_SPREAD)
    for curve in curves:
        probed = sorted(curve)
        quality = np.interp(np.arange(probed[-1] + 1), probed, [curve[qp] for qp in probed])
        for low, high in WANTED_DB:
            if min(high, quality.max()) - max(low, quality.min()) < MIN_OVERLAP * (high - low):
                continue  # no BD-rate can be had here
            inside = set(np.flatnonzero((quality >= low + MARGIN_DB) & (quality <= high - MARGIN_DB)).tolist())
            while len(inside & chosen) < MIN_POINTS and inside - chosen:
                chosen.add(max(sorted(inside - chosen), key=lambda qp: min(abs(qp - other) for other in chosen)))
    return sorted(chosen)


def rate_figures(evaluation: Evaluation) -> list[dict[str, Any]]:
    """BD-rates of the lossy points against each anchor, per clip and both aggregations."""
    return _rows(bd_table([_lossy(s) for s in evaluation.sequences]))


def field_figures(on: Evaluation, off: Evaluation) -> dict[str, Any]:
    """BD-rates of the model with its field against the same without, and the change of its lossless size in percent."""
    pairs = [
        _lossy(dataclasses.replace(with_field, anchors={FIELD_OFF: without.points}))
        for with_field, without in zip(on.sequences, off.sequences, strict=True)
    ]
    sizes = [[_lossless_point(s).bytes for s in e.sequences] for e in (on, off)]
    change = [100 * (a / b - 1) for a, b in zip(*sizes, strict=True)]
    return {"bd_rates": _rows(bd_table(pairs)), "lossless_percent": statistics.fmean(change)}


def lossless_figures(evaluation: Evaluation, cache: Path) -> list[dict[str, Any]]:
    """A clip's bytes at the lossless QP, whether its decoded frames are the source's, and the peers' bytes."""
    jobs = [(s.source, peer) for s in evaluation.sequences for peer in PEERS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # FFmpeg works outside Python's lock
        answers = dict(
            zip(
                ((s.name, p) for s, p in jobs),
                pool.map(lambda job: peer_bytes(job[0], job[1], cache), jobs),
                strict=True,
            )
        )
    found = []
    for sequence in evaluation.sequences:
        source, point = sequence.source, _lossless_point(sequence)
        peers = {peer: answers[source.name, peer]["bytes"] for peer in PEERS}
        found.append(
            {
                "clip": source.name, "frames": source.frame_count, "raw_bytes": source.pixels * 3 // 2,
                "bytes": point.bytes, "exact": point.details["decoder_digest"] == _digest(source), "peers": peers,
                "percent": {peer: 100 * (point.bytes / size - 1) for peer, size in peers.items()},
                "settings": {peer: answers[source.name, peer] for peer in PEERS},
            }
        )  # fmt: skip
    return found


def bits_figures(
    evaluation: Evaluation, model: Path, frames: int | None, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """For each QP, over all clips: bits of I and P frames, shares of the payload, and channels that carry 99 %."""
    streams = evaluation.folder / "streams"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        jobs = {
            (p.qp, s.source.name): pool.submit(
                stream_bits, str(model), streams / s.source.name / p.codec / f"qp{p.qp:02d}.brl",
                evaluation.folder / "bits" / f"{s.source.name}-qp{p.qp:02d}.json", frames,
            )
            for s in evaluation.sequences for p in s.points
        }  # fmt: skip
        answers = {}
        for place, (job, future) in enumerate(jobs.items(), start=1):
            answers[job] = future.result()
            report(f"bits of {job[1]} at QP {job[0]} ({place} of {len(jobs)})")
    return [
        _bits_at(qp, evaluation, {name: a for (q, name), a in answers.items() if q == qp}) for qp in _qps(evaluation)
    ]


def _bits_at(qp: int, evaluation: Evaluation, answers: dict[str, dict[str, Bits]]) -> dict[str, Any]:
    total = {"I": Bits(), "P": Bits()}
    for answer in answers.values():
        for kind, bits in answer.items():
            total[kind].add(bits)
    both = Bits()
    for bits in total.values():
        both.add(bits)
    points = {s.source.name: next(p for p in s.points if p.qp == qp) for s in evaluation.sequences}
    intra, inter = ([f.bytes for p in points.values() for f in p.frames if (f.type == "I") is i] for i in (True, False))
    ratios = [_frame_bytes(p, True) / _frame_bytes(p, False) for p in points.values() if len(p.frames) > 1]
    return {
        "qp": qp,
        "psnr_yuv": statistics.fmean(p.psnr_yuv for p in points.values()),
        "channels_99": {kind: bits.carrying_channels() for kind, bits in (*total.items(), ("all", both))},
        "channels_99_by_clip": {n: {k: b.carrying_channels() for k, b in a.items()} for n, a in answers.items()},
        "share_of_payload": _shares(both),
        "share_of_p_frames": _shares(total["P"]),
        "field_share_of_files": sum(p.details["field_bytes"] for p in points.values())
        / sum(p.bytes for p in points.values()),
        "intra_share_of_frame_bytes": sum(intra) / (sum(intra) + sum(inter)),
        "intra_to_p_frame": statistics.geometric_mean(ratios) if ratios else None,
        "bits": {kind: bits.to_json() for kind, bits in total.items()},
    }


def _shares(bits: Bits) -> dict[str, float]:
    """Of the payload: coefficients as a whole and by group of channels, the parts by name, and what is left."""
    found = {"coefficients": bits.coefficients, **{part: bits.parts.get(part, 0.0) for part in PAYLOAD_PARTS}}
    for start, size in zip(GROUP_STARTS, GROUP_SIZES, strict=True):
        group = range(start, start + size)
        found[f"channels {start}-{start + size - 1}"] = sum(bits.channels.get(channel, 0.0) for channel in group)
    found["other"] = bits.other
    return {name: share / bits.payload if bits.payload else 0.0 for name, share in found.items()}


def _frame_bytes(point: Point, intra: bool) -> float:
    return statistics.fmean(f.bytes for f in point.frames if (f.type == "I") is intra)


def _lossy(sequence: SequenceResult) -> SequenceResult:
    """Without the points that lose nothing, which lie on no curve: no quality there is 100 dB."""

    def kept(points: list[Point]) -> list[Point]:
        return [p for p in points if p.psnr_yuv < EXACT_DB]

    return dataclasses.replace(
        sequence, points=kept(sequence.points), anchors={name: kept(p) for name, p in sequence.anchors.items()}
    )


def _lossless_point(sequence: SequenceResult) -> Point:
    return next(p for p in sequence.points if p.qp == LOSSLESS_QP)


def _rows(table: list[BdRow]) -> list[dict[str, Any]]:
    rows = [{**dataclasses.asdict(row), **dataclasses.asdict(row.result)} for row in table]
    answered: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        del row["result"]
        if row["aggregation"] == ONE_SEQUENCE and row["percent"] is not None:
            answered.setdefault((row["anchor"], row["metric"], row["range"]), []).append(row["percent"])
    for row in rows:
        if row["sequence"] is None and row["refused"]:  # what the clips that can answer say, and how many they are
            found = answered.get((row["anchor"], row["metric"], row["range"]), [])
            row["clips_that_answer"] = len(found)
            row["percent_of_those"] = statistics.fmean(found) if found else None
    return rows


def _qps(evaluation: Evaluation) -> list[int]:
    return [p.qp for p in evaluation.sequences[0].points]


def _digest(source: EvaluationSource) -> str:
    digest = hashlib.sha256()
    for frame in source.frames():
        digest.update(frame.to_bytes())
    return digest.hexdigest()


def _span(evaluation: Evaluation) -> dict[str, Any]:
    """From the worst point to the best lossy one, clip by clip, in dB PSNR-YUV."""
    curves = {s.source.name: [p.psnr_yuv for p in _lossy(s).points] for s in evaluation.sequences}
    return {name: {"lowest": min(q), "highest": max(q), "span": max(q) - min(q)} for name, q in curves.items()}


def measure(model: Path, clips: list[Path], parts: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for, as the JSON file holds it. Raises as `evaluate_model` does."""
    out, cache = Path(given.out), Path(given.cache)

    def report(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    def evaluate(folder: str, qps: Sequence[int], anchors: Sequence[str], frames: int, field: bool) -> Evaluation:
        return evaluate_model(
            model, clips, qps=qps, anchors=anchors, frames=frames, out=out / folder, field=field, cache=cache,
            on_progress=lambda done, total, what: report(f"{folder}: {done} of {total} files, {what}"),
        )  # fmt: skip

    if given.qps:
        qps = sorted({int(qp) for qp in given.qps.split(",")} | {LOSSLESS_QP})
    else:
        probe = evaluate("probe", PROBED, (), min(PROBED_FRAMES, given.frames), True)
        qps = choose_qps([{p.qp: p.psnr_yuv for p in s.points} for s in probe.sequences])
    anchors = given.anchors.split(",") if "rate" in parts else ()
    on = evaluate("on", qps, anchors, given.frames, True)
    figures: dict[str, Any] = {
        "model": on.model, "clips": [s.source.name for s in on.sequences], "qps": qps, "frames": given.frames,
        "span": _span(on), "decode_hash_failures": on.scores["decode_hash_failures"],
    }  # fmt: skip
    if "rate" in parts:
        figures["rate"] = rate_figures(on)
    if "lossless" in parts:
        figures["lossless"] = lossless_figures(on, cache.absolute() / "lossless")
    if "field" in parts:
        figures["field"] = field_figures(on, evaluate("off", qps, (), given.frames, False))
    if "bits" in parts:
        figures["bits"] = bits_figures(on, model.absolute(), given.bits_frames, report)
    return figures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="REF", help="a checkpoint folder, or a model's name")
    parser.add_argument("--clips", required=True, nargs="+", help="folders or files; even sizes")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="figures.json and the evaluations go there")
    parser.add_argument("--cache", default=str(DEFAULT_CACHE), help="frames, anchors and lossless peers between runs")
    parser.add_argument("--frames", type=int, default=96, help="of each clip, at most")
    parser.add_argument("--anchors", default=f"{PSNR_ANCHOR},{MS_SSIM_ANCHOR}", help="either, or both")
    parser.add_argument("--qps", help="comma-separated, in place of those that are chosen")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--bits-frames", type=int, help="look at the bits of so many frames only")
    given = parser.parse_args(arguments)
    parts = [part.strip() for part in given.parts.split(",")]
    from pipeline.ray_session import ray_session

    try:
        if unknown := [part for part in parts if part not in PARTS]:
            raise UsageError(f"--parts '{unknown[0]}': known are {', '.join(PARTS)}")
        clips = [Path(clip) for clip in find_sources(given.clips)]
        with ray_session(None):
            figures = measure(resolve_model(given.model), clips, parts, given)
        write_json_atomically(Path(given.out) / "figures.json", figures)
    except BitreelError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
