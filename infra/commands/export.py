"""`bitreel export`: a model as a folder to hand on, with what made it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from infra.console import JsonOption, console, write_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "export",
        help="Write a model to a folder that is named like it: weights in half precision, config, and, where they are "
        "known, recipe.toml, the list of its data and its training curve.",
        epilog="Example: bitreel export street-cams@champion models/street-small",
    )(export_command)


def export_command(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="name@7, name@champion, a built-in model, or a checkpoint folder.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder; its name becomes the model's.")],
    full: Annotated[bool, typer.Option("--full", help="Keep float32 weights, so that the model's hash stays.")] = False,
    json_path: JsonOption = None,
) -> None:
    """Rounding the weights makes another model: it does not decode streams of the one it was made of."""
    from infra.model_export import export_model

    made = export_model(ref, folder, half=not full)
    console.print(
        f"{made.folder}: {made.name}, {made.bytes / 1e6:.2f} MB, hash {made.model_hash[:12]}",
        markup=False,
        soft_wrap=True,
    )
    if made.model_hash != made.made_of:
        console.print(f"its weights are rounded: streams of the original (hash {made.made_of[:12]}) need the original")
    console.print(f"beside it: {', '.join(made.beside) or 'nothing'}", markup=False)
    for reason in made.lacking:
        console.print(f"not beside it: {reason}", markup=False, soft_wrap=True)
    write_json(json_path, dataclasses.asdict(made))
