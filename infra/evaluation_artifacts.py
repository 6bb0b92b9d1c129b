"""An evaluation's tables and figures in forms that MLflow's own pages show: columns by name, and SVG pictures."""

from __future__ import annotations

from typing import Any

from infra.evaluation_results import Evaluation
from infra.report_figures import METRICS, mean_rd_plot, rd_plot

Columns = dict[str, list[Any]]


def evaluation_tables(evaluation: Evaluation) -> dict[str, Columns]:
    """bd_rates: one row a BD-rate, refused ones with their reason; points: one row a file of every codec."""
    rates = [
        {
            "anchor": row.anchor, "percent": row.result.percent, "metric": row.metric, "range": row.range,
            "aggregation": row.aggregation, "sequence": row.sequence, "akima_percent": row.result.akima_percent,
            "low_db": row.result.low, "high_db": row.result.high, "refused": row.result.refused,
        }
        for row in evaluation.bd_rates
    ]  # fmt: skip
    points = [
        {
            "sequence": sequence.source.name, "codec": point.codec, "qp": point.qp, "bytes": point.bytes,
            "bpp": point.bpp, "psnr_y": point.psnr_y, "psnr_yuv": point.psnr_yuv, "ms_ssim": point.ms_ssim,
            "vmaf": point.vmaf, "encode_fps": point.encode_fps, "decode_fps": point.decode_fps,
            "exact": point.details.get("exact"),
        }
        for sequence in evaluation.sequences
        for points in (sequence.points, *sequence.anchors.values())
        for point in points
    ]  # fmt: skip
    return {name: _columns(rows) for name, rows in (("bd_rates", rates), ("points", points)) if rows}


def evaluation_figures(evaluation: Evaluation) -> dict[str, str]:
    """Rate and quality, mean and of each sequence, as SVG by name."""
    figures = {f"mean-{metric}": mean_rd_plot(evaluation, metric) for metric in METRICS}
    for sequence in evaluation.sequences:
        figures |= {f"{sequence.source.name}-{metric}": rd_plot(sequence, metric) for metric in METRICS}
    return {name: svg for name, svg in figures.items() if svg is not None}


def _columns(rows: list[dict[str, Any]]) -> Columns:
    return {key: [row[key] for row in rows] for key in rows[0]}
