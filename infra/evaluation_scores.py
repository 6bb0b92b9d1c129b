"""From measured points to BD-rates and the flat scores that a gate judges a model version by."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable

from infra.bdrate import ALL, PSNR_RANGES, Curve, QualityRange, bd_rate, is_monotonic, mean_of_sequences, ms_ssim_db
from infra.evaluation_results import CHAMPION, BdRow, Point, SequenceResult

MEAN_OF_SEQUENCES = "mean of sequences"
MEAN_CURVE = "mean curve"
ONE_SEQUENCE = "sequence"

# metric -> (points' raw value, raw value -> dB scale, quality ranges)
_METRICS: dict[str, tuple[Callable[[Point], float | None], Callable[[float], float], tuple[QualityRange, ...]]] = {
    "psnr_yuv": (lambda p: p.psnr_yuv, lambda v: v, PSNR_RANGES),
    "psnr_y": (lambda p: p.psnr_y, lambda v: v, PSNR_RANGES),
    "ms_ssim": (lambda p: p.ms_ssim, ms_ssim_db, (ALL,)),
    "vmaf": (lambda p: p.vmaf, lambda v: v, (ALL,)),
}


def bd_table(sequences: list[SequenceResult]) -> list[BdRow]:
    """BD-rates of our points against every anchor, and against the champion where it was coded too.

    Per metric and range both aggregations, then each sequence. MS-SSIM rows speak of the sequences large enough for
    it; there are none where no sequence is. A metric that an anchor has no figures of has no rows against it.
    """
    rows = []
    for anchor in sequences[0].anchors:
        for metric, (raw, to_db, ranges) in _METRICS.items():
            able = [s for s in sequences if all(raw(p) is not None for p in (*s.points, *s.anchors[anchor]))]
            if not able:
                continue
            for limits in ranges:
                single = {
                    s.source.name: bd_rate(_curve(s.anchors[anchor], raw, to_db), _curve(s.points, raw, to_db), limits)
                    for s in able
                }
                of_means = bd_rate(
                    _mean_curve([s.anchors[anchor] for s in able], raw, to_db),
                    _mean_curve([s.points for s in able], raw, to_db),
                    limits,
                )
                rows.append(BdRow(anchor, metric, limits.name, MEAN_OF_SEQUENCES, None, mean_of_sequences(single)))
                rows.append(BdRow(anchor, metric, limits.name, MEAN_CURVE, None, of_means))
                rows += [BdRow(anchor, metric, limits.name, ONE_SEQUENCE, n, r) for n, r in single.items()]
    return rows


def scores_of(sequences: list[SequenceResult], table: list[BdRow]) -> dict[str, float]:
    """Flat figures for gates. A figure that could not be had is absent, so that a gate on it fails.

    bd_rate.ANCHOR, bd_rate.ANCHOR.30-40, bd_rate.ANCHOR.40-48: percent, PSNR-YUV, mean of sequences;
    bd_rate_mean_curve.… the other aggregation; bd_rate_ms_ssim.…, bd_rate_vmaf.… where those were measured. Against
    the champion they are called bd_rate_vs_champion and so on. psnr_range_db: PSNR-YUV span of the sequence with the
    smallest. monotonic: 1 where rate and PSNR-YUV rise at every QP of every sequence. decode_hash_failures:
    streams whose fresh decode is not the encoder's reconstruction, pixel for pixel. estimate_error_percent: the worst
    frame over 1 kB. container_bytes_per_frame, header_bytes: the worst stream. bits_total: of all our files.
    bd_rate_worst.ANCHOR, bd_rate_worst_vs_champion: PSNR-YUV, the sequence that fares worst. encode_fps, decode_fps:
    one thread, harmonic mean over files; decoder_peak_mb: the largest decoder process. chain_decay_db: PSNR-YUV of
    the last 32 frames less that of frames 8 to 40, beyond the first anchor's at the same quality, in the worst
    stream of 72 frames and more; below 0 where quality falls.
    """
    points = [p for s in sequences for p in s.points]
    scores: dict[str, float] = {}
    for row in table:
        prefix = {
            ("psnr_yuv", MEAN_OF_SEQUENCES): "bd_rate",
            ("psnr_yuv", MEAN_CURVE): "bd_rate_mean_curve",
            ("ms_ssim", MEAN_OF_SEQUENCES): "bd_rate_ms_ssim",
            ("vmaf", MEAN_OF_SEQUENCES): "bd_rate_vmaf",
        }.get((row.metric, row.aggregation))
        if prefix and row.result.percent is not None:
            suffix = "" if row.range == ALL.name else f".{row.range}"
            versus = f"{prefix}_vs_champion" if row.anchor == CHAMPION else f"{prefix}.{row.anchor}"
            scores[versus + suffix] = row.result.percent
    scores |= _worst_sequences(table)
    scores["psnr_range_db"] = min(s.points[-1].psnr_yuv - s.points[0].psnr_yuv for s in sequences)
    scores["monotonic"] = float(all(_rises(s.points) for s in sequences))
    scores["decode_hash_failures"] = float(sum(not p.details["exact"] for p in points))
    errors = [e for p in points if (e := p.details["estimate_error_percent"]) is not None]
    if errors:
        scores["estimate_error_percent"] = max(errors)
    scores["container_bytes_per_frame"] = float(max(p.details["container_bytes_per_frame"] for p in points))
    scores["header_bytes"] = float(max(p.details["header_bytes"] for p in points))
    scores["bits_total"] = float(sum(8 * p.bytes for p in points))
    scores["encode_fps"] = statistics.harmonic_mean([p.encode_fps or 0.0 for p in points])
    scores["decode_fps"] = statistics.harmonic_mean([p.decode_fps or 0.0 for p in points])
    scores["decoder_peak_mb"] = max(float(p.details["decoder_peak_mb"]) for p in points)
    decays = [d for s in sequences for d in _decays_beyond_anchor(s)]
    if decays:
        scores["chain_decay_db"] = min(decays)
    return scores


def decay(point: Point) -> float | None:
    """PSNR-YUV of the last 32 frames less that of frames 8 to 40, dB; None where there are fewer than 72."""
    quality = [frame.psnr_yuv for frame in point.frames]
    if len(quality) < 72:
        return None
    return statistics.fmean(quality[-32:]) - statistics.fmean(quality[8:40])


def _decays_beyond_anchor(sequence: SequenceResult) -> list[float]:
    """Of each of our points whose quality the first anchor reaches: clips change, and both codecs see the change."""
    anchors = [points for name, points in sequence.anchors.items() if name != CHAMPION]
    if not anchors:
        return []
    beside = sorted((p.psnr_yuv, d) for p in anchors[0] if (d := decay(p)) is not None)
    found = []
    for point in sequence.points:
        own = decay(point)
        around = [pair for pair in itertools.pairwise(beside) if pair[0][0] <= point.psnr_yuv <= pair[1][0]]
        if own is not None and around:
            (low, first), (high, second) = around[0]
            share = (point.psnr_yuv - low) / (high - low) if high > low else 0.0
            found.append(own - (first + share * (second - first)))
    return found


def _worst_sequences(table: list[BdRow]) -> dict[str, float]:
    """The highest BD-rate of a single sequence against each anchor; absent where one of them is refused."""
    single: dict[str, list[float | None]] = {}
    for row in table:
        if (row.metric, row.range, row.aggregation) == ("psnr_yuv", ALL.name, ONE_SEQUENCE):
            single.setdefault(row.anchor, []).append(row.result.percent)
    worst = {}
    for anchor, values in single.items():
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            worst["bd_rate_worst_vs_champion" if anchor == CHAMPION else f"bd_rate_worst.{anchor}"] = max(known)
    return worst


def mean_points(curves: list[list[Point]], raw: Callable[[Point], float | None]) -> list[tuple[int, float, float]]:
    """(QP, mean bpp, mean raw quality) over sequences, for each QP that all of them have, in the first one's order.

    Every point must have the quality.
    """
    by_qp = [{p.qp: p for p in curve} for curve in curves]
    shared = [p.qp for p in curves[0] if all(p.qp in points for points in by_qp)]
    return [
        (
            qp,
            statistics.fmean(points[qp].bpp for points in by_qp),
            statistics.fmean(v for points in by_qp if (v := raw(points[qp])) is not None),
        )
        for qp in shared
    ]


def rate_at_quality(points: list[Point], quality: float) -> float | None:
    """Bits per pixel that a codec needs for `quality` (PSNR-YUV in dB), by PCHIP between its points on log rate.

    None where the quality lies outside its points, or they are fewer than two or not monotonic.
    """
    from scipy.interpolate import PchipInterpolator

    curve = _curve(points, lambda p: p.psnr_yuv, lambda v: v)
    if len(points) < 2 or not is_monotonic(curve) or not curve.quality[0] <= quality <= curve.quality[-1]:
        return None
    return math.exp(float(PchipInterpolator(curve.quality, [math.log(r) for r in curve.rate])(quality)))


def _rises(points: list[Point]) -> bool:
    return all(b.bpp > a.bpp and b.psnr_yuv > a.psnr_yuv for a, b in itertools.pairwise(points))


def _curve(points: list[Point], raw: Callable[[Point], float | None], to_db: Callable[[float], float]) -> Curve:
    pairs = [(p.bpp, to_db(v)) for p in points if (v := raw(p)) is not None]
    return Curve.of([r for r, _ in pairs], [q for _, q in pairs])


def _mean_curve(
    curves: list[list[Point]], raw: Callable[[Point], float | None], to_db: Callable[[float], float]
) -> Curve:
    means = mean_points(curves, raw)
    return Curve.of([rate for _, rate, _ in means], [to_db(quality) for _, _, quality in means])
