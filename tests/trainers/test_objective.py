"""The objective against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch

from codec.api import TrainingOutput
from trainers.objective import METRICS, frame_weights, rate_distortion, step_metrics
from trainers.schedule import weight_of


def output(bits: list[float], sse: list[float], field: float) -> TrainingOutput:
    nothing = torch.zeros(0)
    return TrainingOutput(torch.tensor([bits]), torch.tensor([field]), torch.tensor([sse]), nothing, nothing)


def test_a_short_clip_stands_for_a_segment() -> None:
    weights, field = frame_weights(4, 16)
    assert weights.tolist() == pytest.approx([1 / 16] + [5 / 16] * 3) and field == 1 / 16
    assert frame_weights(1, 16)[0].tolist() == [1.0]
    assert frame_weights(32, 16)[0].tolist() == pytest.approx([1 / 32] * 32)


def test_loss_and_metrics_by_hand() -> None:
    pixels = 100
    out = output([160.0, 16.0], [100.0, 1.0], 32.0)
    # (1·(160 + 2·100) + 15·(16 + 2·1) + 1·32) / 16 / 100
    loss = rate_distortion(out, torch.tensor([2.0]), torch.tensor([1.0]), pixels, 16)
    assert float(loss) == pytest.approx((360 + 270 + 32) / 1600)
    figures = dict(zip(METRICS, step_metrics(loss, out, pixels, 16).tolist(), strict=True))
    assert figures["bpp"] == pytest.approx((160 + 15 * 16 + 32) / 1600)
    assert (figures["bpp_intra"], figures["bpp_inter"]) == pytest.approx((1.6, 0.16))
    assert figures["field_share"] == pytest.approx(32 / (160 + 240 + 32))
    assert (figures["psnr_yuv_intra"], figures["psnr_yuv_inter"]) == pytest.approx((48.1308, 68.1308), abs=1e-4)
    assert figures["psnr_yuv"] == pytest.approx((48.1308 + 15 * 68.1308) / 16, abs=1e-4)


def test_an_exact_single_frame() -> None:
    out = output([50.0], [0.0], 10.0)
    loss = rate_distortion(out, torch.tensor([1.0]), torch.tensor([1.0]), 100, 16)
    figures = dict(zip(METRICS, step_metrics(loss, out, 100, 16).tolist(), strict=True))
    assert float(loss) == pytest.approx(0.6)
    assert figures["psnr_yuv"] == 100.0 and figures["psnr_yuv_inter"] != figures["psnr_yuv_inter"]


def test_balance_weighs_low_qps_up_and_keeps_the_middle() -> None:
    lambdas = torch.tensor([1e-3, 1e-1, 1e1])
    assert torch.allclose(weight_of(lambdas, (1e-3, 1e1), 0.5), torch.tensor([10.0, 1.0, 0.1]))
    assert torch.equal(weight_of(lambdas, (1e-3, 1e1), 0.0), torch.ones(3))
