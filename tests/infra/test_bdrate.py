"""BD-rate: equal to the library's where it answers, and silent where it must be."""

from __future__ import annotations

import bjontegaard
import pytest

from infra.bdrate import ALL, BdRate, Curve, QualityRange, bd_rate, mean_of_sequences, ms_ssim_db

ANCHOR = Curve.of([0.05, 0.1, 0.2, 0.4, 0.8, 1.6], [29.0, 32.0, 35.2, 38.1, 41.0, 44.0])
TEST = Curve.of([0.06, 0.11, 0.19, 0.35, 0.7, 1.5], [30.0, 32.5, 35.5, 38.6, 41.9, 45.0])


@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_whole_range_is_the_librarys_figure(method: str) -> None:
    ours = bd_rate(ANCHOR, TEST)
    theirs = bjontegaard.bd_rate(
        ANCHOR.rate,
        ANCHOR.quality,
        TEST.rate,
        TEST.quality,
        method=method,
        require_matching_points=False,
        min_overlap=0,
    )
    assert (ours.percent if method == "pchip" else ours.akima_percent) == pytest.approx(theirs, abs=1e-9)
    assert (ours.low, ours.high, ours.refused) == (30.0, 44.0, None)


def test_half_the_bits_are_minus_50_in_every_range() -> None:
    half = Curve.of([r / 2 for r in ANCHOR.rate], ANCHOR.quality)
    for limits in (ALL, QualityRange("29-39", 29.0, 39.0)):
        assert bd_rate(ANCHOR, half, limits).percent == pytest.approx(-50.0, abs=1e-9)
    assert bd_rate(ANCHOR, ANCHOR).percent == pytest.approx(0.0, abs=1e-9)


def test_range_looks_only_at_its_own_part() -> None:
    quality = [30.0, 32.0, 34.0, 36.0, 38.0, 40.0, 42.0, 44.0, 46.0, 48.0]
    rate = [0.05 * 1.5**i for i in range(10)]
    test = Curve.of([r * (0.8 if q <= 38 else 1.3) for r, q in zip(rate, quality, strict=True)], quality)
    anchor = Curve.of(rate, quality)
    low = bd_rate(anchor, test, QualityRange("30-38", 30.0, 38.0))
    high = bd_rate(anchor, test, QualityRange("40-48", 40.0, 48.0))
    assert low.percent == pytest.approx(-20.0, abs=1.0)
    assert high.percent == pytest.approx(30.0, abs=1.0)
    assert (high.low, high.high) == (40.0, 48.0)


@pytest.mark.parametrize(
    ("test", "limits", "reason"),
    [
        (Curve.of([0.1, 0.2, 0.3, 0.4], [43.0, 44.0, 45.0, 60.0]), ALL, "share"),
        (Curve.of([0.1, 0.2, 0.3, 0.4], [50.0, 51.0, 52.0, 53.0]), ALL, "share 0%"),
        (Curve.of([0.1, 0.2, 0.3, 0.4, 0.5], [30.0, 34.0, 33.0, 38.0, 42.0]), ALL, "not monotonic"),
        (Curve.of([0.1, 0.1, 0.3, 0.4, 0.5], [30.0, 34.0, 36.0, 38.0, 42.0]), ALL, "not monotonic"),
        (Curve.of([0.1, 0.2, 0.4], [30.0, 36.0, 42.0]), ALL, "tested codec has 3 points"),
        (TEST, QualityRange("30-40", 30.0, 40.0), "anchor has 3 points in 30.0-40.0 dB"),
        (TEST, QualityRange("60-70", 60.0, 70.0), "no point"),
        (Curve.of([], []), ALL, "no points"),
        (Curve.of([0.1, 0.2, 0.3, float("nan")], [30.0, 34.0, 38.0, 42.0]), ALL, "no finite"),
    ],
)  # fmt: skip
def test_refusals_have_a_reason_and_no_number(test: Curve, limits: QualityRange, reason: str) -> None:
    answer = bd_rate(ANCHOR, test, limits)
    assert answer.percent is None and answer.akima_percent is None
    assert answer.refused is not None and reason in answer.refused


def test_mean_is_refused_with_any_of_its_parts() -> None:
    good = BdRate(-10.0, -12.0, 30.0, 40.0, None)
    better = BdRate(-20.0, -18.0, 31.0, 42.0, None)
    mean = mean_of_sequences({"a": good, "b": better})
    assert (mean.percent, mean.akima_percent) == (-15.0, -15.0)
    refused = mean_of_sequences({"a": good, "b": BdRate.refusal("too few")})
    assert refused.percent is None and "1 of 2 sequences refused, first b: too few" in (refused.refused or "")


def test_ms_ssim_scale() -> None:
    assert ms_ssim_db(0.99) == pytest.approx(20.0)
    assert ms_ssim_db(1.0) == pytest.approx(100.0, abs=1e-4)
