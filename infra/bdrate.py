"""Bjøntegaard delta rate between two measured curves, and the refusal to answer where the curves do not allow it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_POINTS = 4  # of each curve, within the common range
MIN_OVERLAP = 0.25  # share of the quality that either curve covers
MS_SSIM_CEILING = 1.0 - 1e-10  # an exact frame would be infinitely good on the logarithmic scale


@dataclass(frozen=True)
class QualityRange:
    """A stretch of quality in dB over which rates are compared; None leaves that end open."""

    name: str
    low: float | None = None
    high: float | None = None


ALL = QualityRange("all")
PSNR_RANGES = (ALL, QualityRange("30-40", 30.0, 40.0), QualityRange("40-48", 40.0, 48.0))


@dataclass(frozen=True)
class Curve:
    """Rate (bits per pixel) and quality (dB) of a codec's points, by rising rate."""

    rate: tuple[float, ...]
    quality: tuple[float, ...]

    @staticmethod
    def of(rate: Sequence[float], quality: Sequence[float]) -> Curve:
        """A curve sorted by rate. Raises ValueError where the lists differ in length."""
        pairs = sorted(zip(rate, quality, strict=True))
        return Curve(tuple(float(r) for r, _ in pairs), tuple(float(q) for _, q in pairs))


@dataclass(frozen=True)
class BdRate:
    """The answer: percent (PCHIP) and akima_percent, None where `refused` says why; low..high are the dB compared.

    Negative is better: bits that the tested codec saves at equal quality.
    """

    percent: float | None
    akima_percent: float | None
    low: float | None
    high: float | None
    refused: str | None

    @staticmethod
    def refusal(reason: str) -> BdRate:
        return BdRate(None, None, None, None, reason)


def bd_rate(anchor: Curve, test: Curve, quality: QualityRange = ALL) -> BdRate:
    """BD-rate of `test` against `anchor` over the part of `quality` that both curves cover.

    Refuses where a curve is not monotonic, where both cover less than 25 % of what either covers, or where one has
    fewer than 4 points within the common range. The interpolating functions are the library's, drawn through all
    points of a curve; a limited range only limits what is integrated.
    """
    for name, curve in (("anchor", anchor), ("tested codec", test)):
        fault = _fault(curve)
        if fault:
            return BdRate.refusal(f"{name}: {fault}")
    low = max(anchor.quality[0], test.quality[0])
    high = min(anchor.quality[-1], test.quality[-1])
    union_low = min(anchor.quality[0], test.quality[0])
    union_high = max(anchor.quality[-1], test.quality[-1])
    if quality.low is not None:
        low, union_low = max(low, quality.low), max(union_low, quality.low)
    if quality.high is not None:
        high, union_high = min(high, quality.high), min(union_high, quality.high)
    if union_high <= union_low:
        return BdRate.refusal("no point of either curve lies in this range")
    overlap = max(0.0, high - low) / (union_high - union_low)
    if overlap < MIN_OVERLAP:
        return BdRate.refusal(f"the curves share {overlap:.0%} of their quality; {MIN_OVERLAP:.0%} are needed")
    for name, curve in (("anchor", anchor), ("tested codec", test)):
        count = sum(low <= q <= high for q in curve.quality)
        if count < MIN_POINTS:
            return BdRate.refusal(f"{name} has {count} points in {low:.1f}-{high:.1f} dB; {MIN_POINTS} are needed")
    return BdRate(
        _percent(anchor, test, low, high, "pchip"), _percent(anchor, test, low, high, "akima"), low, high, None
    )


def mean_of_sequences(results: dict[str, BdRate]) -> BdRate:
    """Mean of per-sequence BD-rates; refused where any sequence is, since a mean without it would be another figure."""
    refused = {name: r.refused for name, r in results.items() if r.refused}
    if not results:
        return BdRate.refusal("no sequences")
    if refused:
        name, reason = next(iter(refused.items()))
        return BdRate.refusal(f"{len(refused)} of {len(results)} sequences refused, first {name}: {reason}")
    answers = list(results.values())
    return BdRate(
        float(np.mean([a.percent for a in answers if a.percent is not None])),
        float(np.mean([a.akima_percent for a in answers if a.akima_percent is not None])),
        min(a.low for a in answers if a.low is not None),
        max(a.high for a in answers if a.high is not None),
        None,
    )


def ms_ssim_db(value: float) -> float:
    """MS-SSIM (0..1) on the scale on which curves are compared: −10·log10(1 − x), in dB, at most 100."""
    return -10.0 * math.log10(1.0 - min(value, MS_SSIM_CEILING))


def is_monotonic(curve: Curve) -> bool:
    """Whether quality rises strictly with rate."""
    return _fault(curve) is None


def _fault(curve: Curve) -> str | None:
    if not curve.rate:
        return "no points"
    if not all(math.isfinite(v) for v in (*curve.rate, *curve.quality)) or min(curve.rate) <= 0:
        return "a point has no finite positive rate or quality"
    for i in range(1, len(curve.rate)):
        if curve.rate[i] <= curve.rate[i - 1] or curve.quality[i] <= curve.quality[i - 1]:
            return f"not monotonic: quality does not rise at {curve.rate[i]:.4f} bpp ({curve.quality[i]:.2f} dB)"
    return None


def _percent(anchor: Curve, test: Curve, low: float, high: float, method: str) -> float:
    import bjontegaard

    functions: tuple[Any, Any, Any] = bjontegaard.bd_rate(
        anchor.rate, anchor.quality, test.rate, test.quality,
        method=method, require_matching_points=False, interpolators=True, min_overlap=0,
    )  # fmt: skip
    difference = functions[2].integrate(low, high) - functions[1].integrate(low, high)
    return float((10.0 ** (difference / (high - low)) - 1.0) * 100.0)
