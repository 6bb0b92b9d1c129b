"""`bitreel promote`: moves an alias to a version if every rule of the gate holds."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from infra.console import JsonOption, console, write_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "promote",
        help="Move an alias (champion) to a model version if every rule of the gate holds; say which does not.",
        epilog="Example: bitreel promote street-cams@7 --dry-run",
    )(promote_command)


def promote_command(
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Model, and version; without: the newest.")],
    gate: Annotated[str, typer.Option(help="Gate: a TOML file, or a name from configs/.")] = "gate-default",
    to: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge only, move nothing.")] = False,
    json_path: JsonOption = None,
) -> int:
    """Exit status 0 where the gate holds, 1 where it does not."""
    from infra.promotion import promote
    from infra.promotion_table import print_gate_result
    from infra.registry import split_ref

    name, which = split_ref(ref)
    result = promote(name, which, gate=gate, alias=to, dry_run=dry_run)
    print_gate_result(console, result)
    write_json(json_path, dataclasses.asdict(result))
    return 0 if result.passed else 1
