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
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Make the previous champion champion again; no gate is asked.")
    ] = False,
    json_path: JsonOption = None,
) -> int:
    """Exit status 0 where the gate holds, 1 where it does not."""
    from codec.errors import UsageError
    from infra.promotion import promote, roll_back
    from infra.promotion_table import print_gate_result
    from infra.registry import check_no_journal, split_ref

    name, which = split_ref(ref)
    check_no_journal(name)
    if rollback:
        if which is not None or dry_run or to != "champion":
            raise UsageError("--rollback goes back to the previous champion: give the model's name alone")
        champion, before = roll_back(name, lambda line: console.print(f"put right: {line}", markup=False))
        console.print(f"rolled back: 'champion' of {name} moved from version {before} to version {champion}",
                      markup=False, soft_wrap=True)  # fmt: skip
        write_json(json_path, {"name": name, "champion": champion, "previous": before})
        return 0
    result = promote(name, which, gate=gate, alias=to, dry_run=dry_run)
    print_gate_result(console, result)
    write_json(json_path, dataclasses.asdict(result))
    return 0 if result.passed else 1
