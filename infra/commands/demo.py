"""`bitreel demo`: everything, on this machine, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.console import JsonOption, console, progress, write_json
from infra.kernels import prepare_kernels

if TYPE_CHECKING:
    from rich.progress import TaskID

    from infra.demo import DemoResult

HELP = """From videos to a promoted codec: ingest, fine-tune, evaluate beside x265, register, promote.

Without --videos it renders short clips from photographs. It starts from the built-in innvc-small and trains a few
minutes on your footage; tables say how it stands to x265, and what the minutes changed.

Example: bitreel demo --videos ~/videos --out demo
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", help=HELP)(demo)


def demo(
    videos: Annotated[
        list[str] | None, typer.Option("--videos", help="Videos, folders or globs; the option may be repeated.")
    ] = None,
    more_videos: Annotated[list[str] | None, typer.Argument(metavar="[SRC]...", help="More videos.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for shards, streams and the report.")] = Path("demo"),
    recipe: Annotated[str, typer.Option(help="How to train: a name from configs/ or a path.")] = "innvc-demo",
    json_path: JsonOption = None,
) -> None:
    """Run the stages and print what came out."""
    from infra.commands.evaluate import print_evaluation
    from infra.demo import run_demo
    from infra.promotion_table import print_gate_result
    from infra.tracking import tracking_uri, without_login
    from trainers.recipe import load_recipe

    sources = [*(videos or []), *(more_videos or [])]
    plan = load_recipe(recipe)
    prepare_kernels()
    with progress() as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        result = run_demo(
            sources,
            out,
            recipe=plan,
            say=lambda text: bar.console.print(f"[bold]▸[/] {text}"),
            progress=show,
        )
    print_evaluation(result.evaluation)
    print_gate_result(console, result.gate)
    _print_summary(result, without_login(tracking_uri()))
    write_json(json_path, _figures(result))


def _print_summary(result: DemoResult, uri: str) -> None:
    from infra.demo import ANCHORS, OTHER, SHIPPED, bd_rate_of

    scores = result.evaluation.scores
    for anchor in ANCHORS:
        answer = bd_rate_of(result.evaluation, anchor)
        if answer is not None:
            console.print(f"BD-rate against {anchor}: {_percent(answer.percent, answer.refused)}")
            if answer.percent is not None and answer.percent > 0:
                console.print("  It takes more bits than x265 on this footage; docs/innvc.md has longer, real one.")
        beside = result.other and bd_rate_of(result.other, anchor)
        if beside:
            console.print(
                f"BD-rate of the built-in {OTHER} against {anchor}: {_percent(beside.percent, beside.refused)}"
            )
    untrained, shipped = result.against_untrained, result.against_shipped
    if shipped is not None:
        gain = _percent(shipped.percent, shipped.refused)
        console.print(f"BD-rate against the built-in {SHIPPED} it was fine-tuned from: {gain}", soft_wrap=True)
    console.print(f"BD-rate against untrained weights: {_percent(untrained.percent, untrained.refused)}")
    field = _percent(result.field_gain.percent, result.field_gain.refused, digits=2)
    console.print(f"BD-rate with the conditioning field against without: {field}")
    console.print(
        f"span of one model: {scores['psnr_range_db']:.1f} dB; streams that did not decode exactly: "
        f"{scores['decode_hash_failures']:.0f}"
    )
    console.print(
        f"real against estimated bits, worst frame over 1 kB: {scores.get('estimate_error_percent', 0):.2f} %; "
        f"container: {scores['container_bytes_per_frame']:.0f} bytes a frame, header {scores['header_bytes']:.0f} bytes"
    )
    if result.rendered:
        console.print("Footage: rendered from photographs. Try your own: bitreel demo --videos FOLDER")
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    console.print(f"time: {stages}")
    champion = f"demo@{result.version}" if result.gate.passed else "unchanged"
    console.print(f"champion: {champion} (see: bitreel models demo)", soft_wrap=True)
    console.print(f"report: {result.report}", soft_wrap=True)
    if result.other_report is not None:
        console.print(f"report of {OTHER}, the demo's model beside it: {result.other_report}", soft_wrap=True)
    console.print(f"MLflow UI: .venv/bin/mlflow ui --backend-store-uri {uri}", soft_wrap=True)


def _percent(percent: float | None, reason: str | None, digits: int = 1) -> str:
    return f"{percent:+.{digits}f} %" if percent is not None else f"not defined ({reason})"


def _figures(result: DemoResult) -> dict[str, object]:
    return {
        "scores": result.evaluation.scores,
        "bd_rate_against_untrained": result.against_untrained.percent,
        "bd_rate_against_shipped": result.against_shipped.percent if result.against_shipped else None,
        "bd_rate_of_field": result.field_gain.percent,
        "version": f"demo@{result.version}",
        "promoted": result.gate.moved,
        "report": str(result.report),
        "other_report": str(result.other_report) if result.other_report else None,
        "store": str(result.store),
        "rendered": result.rendered,
        "seconds": result.seconds,
    }
