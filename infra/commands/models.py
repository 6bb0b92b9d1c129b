"""`bitreel models`: what the registry holds."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.console import JsonOption, console, write_json

if TYPE_CHECKING:
    from infra.registry import ModelVersion


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "models",
        help="List registered models; with NAME its versions, their aliases and scores.",
        epilog="Example: bitreel models street-cams",
    )(models_command)


def models_command(
    name: Annotated[str | None, typer.Argument(help="Model to show; without: all models.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Print one table."""
    from infra.registry import list_models, list_versions
    from infra.tracking import tracking_uri

    if name is not None:
        versions = list_versions(name)
        _print_versions(name, versions)
        write_json(json_path, {"name": name, "versions": [dataclasses.asdict(version) for version in versions]})
        return
    models = {model: list_versions(model) for model in list_models()}
    if not models:
        console.print(f"no models yet in {tracking_uri()}; `bitreel train … --name NAME` registers one", markup=False)
    else:
        _print_models(models)
    figures: list[dict[str, Any]] = [
        {"name": model, "versions": len(versions), "aliases": _aliases(versions)} for model, versions in models.items()
    ]
    write_json(json_path, {"models": figures})


def _print_models(models: dict[str, list[ModelVersion]]) -> None:
    from rich.table import Table

    table = Table("model", "versions", "newest", "aliases")
    for model, versions in models.items():
        newest = _when(versions[-1]) if versions else "-"
        aliases = ", ".join(f"{alias} → {number}" for alias, number in _aliases(versions).items())
        table.add_row(model, str(len(versions)), newest, aliases or "-")
    console.print(table)


def _print_versions(name: str, versions: list[ModelVersion]) -> None:
    from rich.table import Table

    scores = sorted({key for version in versions for key in version.scores})
    # One column a version: there are many scores, and few versions that one compares.
    shown = versions[-6:]
    left_out = len(versions) - len(shown)
    title = f"{name}: {len(versions)} versions" + (f", the newest {len(shown)} shown" if left_out else "")
    table = Table("", *(str(version.version) for version in shown), title=title, title_justify="left")
    table.add_row("aliases", *(", ".join(version.aliases) or "-" for version in shown))
    table.add_row("registered", *(_when(version) for version in shown))
    table.add_row("model hash", *(version.model_hash[:12] or "-" for version in shown))
    table.add_row("run", *(version.run_id[:12] or "-" for version in shown), end_section=True)
    for key in scores:
        table.add_row(key, *(f"{v.scores[key]:.5g}" if key in v.scores else "-" for v in shown))
    console.print(table)


def _aliases(versions: list[ModelVersion]) -> dict[str, int]:
    return {alias: version.version for version in versions for alias in version.aliases}


def _when(version: ModelVersion) -> str:
    return datetime.datetime.fromtimestamp(version.created_ms / 1000).strftime("%Y-%m-%d %H:%M")
