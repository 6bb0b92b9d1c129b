"""`bitreel doctor`: what works here."""

from __future__ import annotations

import dataclasses

import typer

from infra.console import JsonOption, console, write_json

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "doctor",
        help="Try Ray, MLflow, decoders, x265, GPU on this machine; says how to mend what does not work.",
        epilog="Example: bitreel doctor --json health.json",
    )(doctor_command)


def doctor_command(json_path: JsonOption = None) -> None:
    """One line a check; exit status 1 only where something that is needed fails."""
    from infra.health import Check, check_all

    checks: list[Check] = []
    for check in check_all():
        checks.append(check)
        style = _STYLES[check.verdict]
        console.print(f"[{style}]{check.verdict:4}[/]", end="  ")
        console.print(f"{check.name:8} {check.found}", markup=False, soft_wrap=True)
        if check.mend:
            console.print(f"      {'':8} → {check.mend}", markup=False, soft_wrap=True)
    healthy = all(check.verdict != "fail" for check in checks)
    write_json(json_path, {"healthy": healthy, "checks": [dataclasses.asdict(check) for check in checks]})
    if not healthy:
        raise typer.Exit(1)
