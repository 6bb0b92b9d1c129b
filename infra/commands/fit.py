"""`bitreel fit`: a codec fitted to each video on its own; fitted streams beside those of one pass, and the gain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.errors import BitreelError, UsageError
from infra.commands.evaluate import local_videos, parse_qps
from infra.console import JsonOption, console, progress, write_json
from infra.kernels import prepare_kernels

if TYPE_CHECKING:
    from infra.bdrate import BdRate
    from infra.fitting_results import FitReport

EXAMPLE = """Fit the coding to each video by trying it out, then encode: fewer bits for the time it takes.

SRC: files, folders, globs or lists; each video is one Ray task. Below --out it gets a folder with its
fitted streams, qpNN.brl, and in one-pass/ what the model gives without fitting. Another process decodes
all of them with the model as it is: what was fitted is in the stream, and its bits count. Run it again
and only what is missing is done.

Example: bitreel fit ~/videos --model street-cams@champion --qps 20,36 --out fitted
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit", help=EXAMPLE)(fit_command)


def fit_command(
    sources: Annotated[list[str], typer.Argument(metavar="SRC...", help="Files, folders, globs, lists.")],
    model: Annotated[str, typer.Option(help="name@champion, name@7, models:/…, or a checkpoint folder.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For streams and figures; made where it is not there.")],
    qps: Annotated[
        str, typer.Option(help="QPs, 0 (worst) to 63. A BD-rate wants four of them where both curves lie: give six.")
    ] = "12,20,28,36,44,52",
    frames: Annotated[int | None, typer.Option(min=1, help="At most this many frames from each video's start.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="How often each video is coded to see what suits it.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Videos at once; by default one a GPU, or one a CPU where there is none.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, as ray://host:10001; default: here.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Resolve, fit, print; status 1 where a video failed, after the others are done."""
    from codec.api import FitSettings
    from infra.fitting import fit_videos
    from infra.registry import resolve_model

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out '{out}' is a file; give a folder")
    wanted, videos = parse_qps(qps), local_videos(sources)
    folder = resolve_model(model)
    prepare_kernels()
    with progress() as bar:
        task = bar.add_task("fit", total=None)

        def on_progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        report = fit_videos(
            folder, videos, qps=wanted, frames=frames, settings=FitSettings(steps=steps), out=out,
            workers=workers, address=address, on_progress=on_progress,
        )  # fmt: skip
    print_fit(report)
    write_json(json_path, report.to_json())
    if report.failed:
        first = report.failed[0].failure
        raise BitreelError(f"{len(report.failed)} of {len(report.videos)} videos failed: {first}")


def print_fit(report: FitReport) -> None:
    """Bits and quality of both files at each QP, then the gains."""
    from rich.table import Table

    from infra.bdrate import MIN_POINTS
    from infra.fitting_results import LONG_CLIP, REPORT_FILE

    table = Table(title="bits per luma pixel of whole files, decoded elsewhere")
    for column in ("video", "QP", "one pass\nbpp", "PSNR-YUV", "fitted\nbpp", "PSNR-YUV", "bits", "fitting, s"):
        table.add_column(column, justify="left" if column == "video" else "right", overflow="fold")
    for video in report.fitted:
        for p in video.points:
            table.add_row(
                video.name, str(p.qp), f"{p.one_pass.bpp:.4f}", f"{p.one_pass.psnr_yuv:.2f}", f"{p.fitted.bpp:.4f}",
                f"{p.fitted.psnr_yuv:.2f}", f"{100 * (p.fitted.bytes / p.one_pass.bytes - 1):+.1f} %",
                f"{p.fit_seconds:.1f}",
            )  # fmt: skip
        table.add_section()
    gains = Table("video", title="BD-rate of fitted files over one pass (negative: fewer bits at equal PSNR-YUV)")
    for column in ("frames", "BD-rate", "fitting, s"):
        gains.add_column(column, justify="right")
    for video in report.fitted:
        mark = "" if video.is_long else " *"
        gains.add_row(video.name, f"{video.frames}{mark}", _answer(video.gain()), f"{video.fit_seconds:.1f}")
    gains.add_section()
    long = report.mean_gain(only_long=True)
    gains.add_row("mean", "", _answer(report.mean_gain()), "")
    gains.add_row("mean of clips", f"{LONG_CLIP} +", _answer(long), "")
    if report.fitted:
        console.print(table)
        console.print(gains)
    for video in report.fitted:
        if (reason := video.gain().refused) is not None:
            console.print(f"no BD-rate: {video.name}: {reason}", markup=False, soft_wrap=True)
    if any(video.gain().refused and len(video.points) >= MIN_POINTS for video in report.fitted):
        console.print("(there the anchor is one pass, the tested codec the fitted one; more QPs may help)")
    if any(not video.is_long for video in report.fitted):
        console.print(f"* shorter than {LONG_CLIP} frames: its intra frame weighs more than in a whole video")
    for again, first in report.duplicates.items():
        console.print(f"not done twice: {again} is the same as {first}", markup=False, soft_wrap=True)
    for video in report.failed:
        console.print(f"failed: {video.name}: {video.failure}", style="yellow", markup=False, soft_wrap=True)
    console.print(
        f"{report.points_measured} points measured, {report.points_found} found from before; "
        f"streams and {REPORT_FILE}: {report.folder}", markup=False, soft_wrap=True,
    )  # fmt: skip


def _answer(gain: BdRate) -> str:
    return "[dim]refused[/]" if gain.percent is None else f"{gain.percent:+.1f} %"
