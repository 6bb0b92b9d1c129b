"""What every command shares towards the person: console, progress bars, `--json` output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from codec.atomic_files import write_json_atomically

console = Console(stderr=False, highlight=False)

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file as JSON.")]


def progress() -> Progress:
    """A progress bar with counts, elapsed and remaining time; on stderr, so that stdout stays for results."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def write_json(path: Path | None, figures: Any) -> None:
    """Write figures for machines, by rename; does nothing where no path was asked for."""
    if path is None:
        return
    write_json_atomically(path, figures)
