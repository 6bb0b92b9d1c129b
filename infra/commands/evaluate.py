"""`bitreel evaluate`: real files, decoded by another process, beside anchors; logged beside the model version."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codec.errors import UsageError
from infra.console import JsonOption, console, progress, write_json
from infra.kernels import prepare_kernels

if TYPE_CHECKING:
    from infra.evaluation_results import Evaluation
    from infra.registry import ModelVersion


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "evaluate",
        help="Measure a model on videos with real bitstreams beside other codecs: RD table, BD-rates, report.html.",
        epilog="Examples: bitreel evaluate --model street-cams@3 --videos held-out/ --anchors x265-ldp; "
        "bitreel evaluate --model innvc-small --test-set uvg --test-set-folder ~/uvg --anchors x265-ldp,vvenc-ld",
    )(evaluate_command)


def evaluate_command(
    model: Annotated[str, typer.Option(help="A built-in model, name@7, name@champion, or a checkpoint folder.")],
    videos: Annotated[
        list[str] | None,
        typer.Option("--videos", help="Videos, folders or globs; several after one --videos, or the option repeated."),
    ] = None,
    more_videos: Annotated[list[str] | None, typer.Argument(metavar="[SRC]...", help="More videos.")] = None,
    qps: Annotated[str, typer.Option(help="QPs to code at, 0 (worst) to 63.")] = "0,9,18,27,36,45,54,63",
    test_set: Annotated[
        list[str] | None,
        typer.Option(help="uvg, mcl-jcv, hevc-b … hevc-e, smoke (rendered), or a catalogue's .toml; may be repeated."),
    ] = None,
    test_set_folder: Annotated[
        list[Path] | None, typer.Option(help="Where the test sets' files lie; one for all, or one each in their order.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Evaluate what is there of a test set, and say what is not.")
    ] = False,
    size: Annotated[str | None, typer.Option(help="WxH of raw .yuv files whose names do not say it.")] = None,
    fps: Annotated[str | None, typer.Option(help="Frame rate of raw .yuv files, as 50 or 30000/1001.")] = None,
    anchors: Annotated[
        str,
        typer.Option(help="x265-ldp-psnr, x265-ldp, x265-ra, x265-medium, svt-av1-ld, vvenc-ld; '' for none."),
    ] = "x265-ldp-psnr,x265-ldp",
    anchor_table: Annotated[
        list[Path] | None, typer.Option(help="Published results (JSON) to compare with as well; may be repeated.")
    ] = None,
    vmaf: Annotated[bool, typer.Option("--vmaf", help="Measure VMAF too, by an FFmpeg that has libvmaf.")] = False,
    against: Annotated[
        str | None,
        typer.Option(metavar="REF", help="Compare a registered version with this one; default: the champion; or none."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="At most this many frames from each video's start.")] = 96,
    intra_period: Annotated[int, typer.Option(help="-1: one intra frame; N: one every N frames.")] = -1,
    out: Annotated[Path | None, typer.Option(help="Folder for results; default below runs/evaluations/.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, as ray://host:10001; default: here.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Resolve, measure, write, log, print."""
    from infra.evaluation import DEFAULT_CACHE, evaluate_model
    from infra.evaluation_log import log_evaluation
    from infra.evaluation_videos import find_test_sets, with_raw_form
    from infra.report import REPORT_FILE, write_report
    from infra.tracking import connect

    wanted = parse_qps(qps)
    names = parse_anchors(anchors)
    folder, version, champion = _models(model, against)
    given = [*(videos or []), *(more_videos or [])]
    if not given and not test_set:
        raise UsageError("nothing to evaluate on: give --videos, or --test-set")
    in_sets, notes = find_test_sets(test_set or [], test_set_folder or [], DEFAULT_CACHE, allow_missing=allow_missing)
    found = with_raw_form(local_videos(given) if given else [], size, fps)
    connect()  # an MLflow that does not answer is better known now than after the work
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    label = f"{version.name}-{version.version}" if version else folder.resolve().name
    out = out or Path("runs") / "evaluations" / f"{label}-{stamp}"
    prepare_kernels()
    with progress() as bar:
        task = bar.add_task("evaluate", total=None)

        def on_progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what or "evaluate")

        evaluation = evaluate_model(
            folder, [*found, *in_sets], qps=wanted, frames=frames, intra_period=intra_period, out=out,
            anchors=names,
            address=address, on_progress=on_progress,
            champion=_champion_folder(champion), name=_called(version), champion_name=_called(champion),
            anchor_tables=anchor_table or [], vmaf=vmaf, notes=notes, test_sets=test_set or [],
        )  # fmt: skip
    report = write_report(evaluation, evaluation.folder / REPORT_FILE)
    run = log_evaluation(evaluation, report, version, champion)
    print_evaluation(evaluation)
    console.print(f"report: {report}\nMLflow run: {run}", markup=False, soft_wrap=True)
    write_json(json_path, {**evaluation.to_json(), "report": str(report), "mlflow_run": run})


def parse_qps(text: str) -> list[int]:
    """ "0,21,42" → [0, 21, 42]. Raises UsageError."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"--qps '{text}': expected whole numbers with commas, as 0,21,42,63") from error


def parse_anchors(text: str, here: bool = True) -> list[str]:
    """ "x265-ldp,vvenc-ld" → both names. Raises UsageError for one that there is not, or not on this machine."""
    from infra.anchors import check_anchors

    names = [name for name in text.replace(" ", "").split(",") if name]
    check_anchors(names, here)
    return names


def local_videos(sources: list[str]) -> list[Path]:
    """Videos, raw .yuv too, from files, folders, globs and lists. Raises UsageError for URLs, and where none are."""
    from pipeline.sources import find_sources, is_remote

    found = find_sources(sources, frozenset({".yuv"}))
    remote = [location for location in found if is_remote(location)]
    if remote:
        raise UsageError(f"--videos '{remote[0]}': evaluation reads local files only; copy it here first")
    return [Path(location) for location in found]


def print_evaluation(evaluation: Evaluation) -> None:
    """The RD table and the BD-rates."""
    from rich.table import Table

    from infra.evaluation_scores import MEAN_CURVE, MEAN_OF_SEQUENCES, rate_at_quality

    rivals = list(evaluation.sequences[0].anchors)
    shown = rivals[:2]  # a terminal has no room for more; the report has all
    table = Table(title=f"{evaluation.model['name']}: bits per luma pixel of whole files, decoded elsewhere")
    for column in ("sequence", "QP", "bpp", "PSNR-Y", "PSNR-YUV", "MS-SSIM", "exact"):
        table.add_column(column, justify="left" if column == "sequence" else "right", overflow="fold")
    for rival in shown:
        table.add_column(f"{rival}\nat this PSNR-YUV", justify="right")
    for sequence in evaluation.sequences:
        for point in sequence.points:
            rates = [rate_at_quality(sequence.anchors[rival], point.psnr_yuv) for rival in shown]
            table.add_row(
                sequence.source.name, str(point.qp), f"{point.bpp:.4f}", f"{point.psnr_y:.2f}",
                f"{point.psnr_yuv:.2f}", "–" if point.ms_ssim is None else f"{point.ms_ssim:.4f}",
                "yes" if point.details["exact"] else "[red]NO[/]",
                *("–" if rate is None else f"{rate:.4f}" for rate in rates),
            )  # fmt: skip
        table.add_section()
    console.print(table)
    if not rivals:
        return
    table = Table("anchor", "quality", "range", title="BD-rate (negative: fewer bits at equal quality)")
    for column in (MEAN_OF_SEQUENCES, MEAN_CURVE):
        table.add_column(column, justify="right")
    for first, second in _aggregations(evaluation):
        table.add_row(first.anchor, first.metric, first.range, _answer(first.result), _answer(second.result))
    console.print(table)
    _print_refusals(evaluation)
    for note in evaluation.settings["notes"]:
        console.print(f"note: {note}", markup=False)


def _aggregations(evaluation: Evaluation) -> list[tuple[Any, Any]]:
    rows = [row for row in evaluation.bd_rates if row.sequence is None]
    return list(zip(rows[0::2], rows[1::2], strict=True))


def _answer(result: Any) -> str:
    return "[dim]refused[/]" if result.refused else f"{result.percent:+.1f} %"


def _print_refusals(evaluation: Evaluation) -> None:
    """Why whole-range figures are refused; limited ranges want many points, and the report has their reasons."""
    refused = [row for row in evaluation.bd_rates if row.result.refused and row.sequence is None]
    for row in refused:
        if row.range == "all":
            console.print(f"refused: {row.anchor}, {row.metric}, {row.aggregation}: {row.result.refused}", markup=False)
    if refused:
        console.print(f"{len(refused)} figures are refused; the report gives each reason", style="dim")


def _models(ref: str, against: str | None) -> tuple[Path, ModelVersion | None, ModelVersion | None]:
    """The model's folder; its version where it is a registered one; and the champion it must then stand against."""
    from infra.registry import CHAMPION, fetch_version, list_versions, local_model, version_of

    folder = local_model(ref)
    if folder is not None:
        if against is not None:
            raise UsageError("--against compares registered versions; evaluate the model as NAME@VERSION")
        return folder, None, None
    version = version_of(ref)
    if against is not None:
        return fetch_version(version), version, None if against == "none" else version_of(against)
    holders = [v for v in list_versions(version.name) if CHAMPION in v.aliases and v.version != version.version]
    return fetch_version(version), version, holders[0] if holders else None


def _called(version: ModelVersion | None) -> str | None:
    return f"{version.name}@{version.version}" if version else None


def _champion_folder(champion: ModelVersion | None) -> Path | None:
    from infra.registry import fetch_version

    return fetch_version(champion) if champion else None
