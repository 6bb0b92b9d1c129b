"""`bitreel report`: an evaluation as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.console import console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "report",
        help="Write an evaluation as one HTML page that needs no other file.",
        epilog="Example: bitreel report street-cams@3 --out street-cams.html",
    )(report_command)


def report_command(
    ref: Annotated[
        str, typer.Argument(metavar="RUN|VERSION|FOLDER", help="MLflow run id, NAME@VERSION, or a results folder.")
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")],
) -> None:
    """Find the evaluation, write the page."""
    from infra.evaluation_log import find_evaluation
    from infra.report import write_report

    with find_evaluation(ref) as evaluation:
        write_report(evaluation, out)
    console.print(f"report: {out}", markup=False, soft_wrap=True)
