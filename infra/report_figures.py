"""The report's plots, as SVG text that stands in the page itself."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from infra.bdrate import ms_ssim_db
from infra.evaluation_results import OURS, Evaluation, Point, SequenceResult
from infra.evaluation_scores import mean_points

OUR_COLOUR = "#c2410c"
ANCHOR_COLOURS = ("#1d4ed8", "#0f766e", "#7e22ce", "#525252", "#a16207", "#be185d", "#0e7490")
EXACT_DB = 100.0  # how exact frames count

METRICS: dict[str, tuple[str, Callable[[Point], float | None], Callable[[float], float]]] = {
    "psnr_yuv": ("PSNR-YUV 6:1:1, dB", lambda p: p.psnr_yuv, lambda v: v),
    "psnr_y": ("PSNR-Y, dB", lambda p: p.psnr_y, lambda v: v),
    "ms_ssim": ("MS-SSIM (Y), −10·log10(1 − x) dB", lambda p: p.ms_ssim, ms_ssim_db),
    "vmaf": ("VMAF", lambda p: p.vmaf, lambda v: v),
}

Lines = dict[str, tuple[list[float], list[float]]]


def mean_rd_plot(evaluation: Evaluation, metric: str) -> str | None:
    """Rate and quality averaged over the sequences at each QP; None where no sequence has the metric."""
    _, raw, to_db = METRICS[metric]
    able = [s for s in evaluation.sequences if all(raw(p) is not None for p in s.points)]
    if not able:
        return None
    curves = {OURS: [s.points for s in able]}
    curves |= {anchor: [s.anchors[anchor] for s in able] for anchor in able[0].anchors}
    lines: Lines = {}
    for codec, points in curves.items():
        if all(raw(p) is not None for curve in points for p in curve):
            means = mean_points(points, raw)
            lines[codec] = ([rate for _, rate, _ in means], [to_db(quality) for _, _, quality in means])
    return _rd_plot(lines, metric)


def rd_plot(sequence: SequenceResult, metric: str) -> str | None:
    """One sequence's curves; None where it is too small for the metric, or that was not measured."""
    _, raw, to_db = METRICS[metric]
    if any(raw(p) is None for p in sequence.points):
        return None
    lines: Lines = {}
    for codec, points in {OURS: sequence.points, **sequence.anchors}.items():
        pairs = [(p.bpp, to_db(v)) for p in points if (v := raw(p)) is not None]
        if len(pairs) == len(points):
            lines[codec] = ([r for r, _ in pairs], [q for _, q in pairs])
    return _rd_plot(lines, metric)


def frame_plot(points: list[Point], pixels: int) -> str:
    """Quality and bits of each frame, one line a codec; points without frames (published ones) have none."""
    figure, (quality, bits) = _axes(2, (9.6, 2.9))
    for index, point in enumerate(p for p in points if p.frames):
        at = [f.index for f in point.frames]
        style = _style(point.codec, index)
        quality.plot(at, [f.psnr_yuv for f in point.frames], label=f"{point.codec} QP {point.qp}", **style)
        bits.plot(at, [8 * f.bytes / pixels for f in point.frames], label=f"{point.codec} QP {point.qp}", **style)
    quality.set(xlabel="frame", ylabel="PSNR-YUV, dB")
    bits.set(xlabel="frame", ylabel="bits per pixel", yscale="log")
    _plain_numbers(bits.yaxis)
    quality.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _rd_plot(lines: Lines, metric: str) -> str:
    figure, (axis,) = _axes(1, (4.8, 3.4))
    for index, (codec, (rate, quality)) in enumerate(lines.items()):
        axis.plot(rate, quality, marker="o", label=codec, **_style(codec, index))
    axis.set(xlabel="bits per pixel", ylabel=METRICS[metric][0], xscale="log")
    _plain_numbers(axis.xaxis)
    inexact = [q for _, quality in lines.values() for q in quality if q < EXACT_DB]
    if metric.startswith("psnr") and inexact and any(EXACT_DB in quality for _, quality in lines.values()):
        # One exact point would press all others together; its line leaves the picture at the top.
        axis.set_ylim(min(inexact) - 2, max(inexact) + 4)
    axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis 0.1, 0.2, 0.5 … rather than by powers, and closer where it spans little."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _style(codec: str, index: int) -> dict[str, Any]:
    ours = codec == OURS
    colour = OUR_COLOUR if ours else ANCHOR_COLOURS[(index - 1) % len(ANCHOR_COLOURS)]
    return {"color": colour, "linewidth": 1.8 if ours else 1.2, "markersize": 3.5, "zorder": 3 if ours else 2}


def _axes(count: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for axis in axes:
        axis.grid(alpha=0.25, which="both", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_fontsize(9)
        axis.yaxis.label.set_fontsize(9)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bitreel", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
