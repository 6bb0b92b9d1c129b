"""`bitreel models`: what the registry holds, and the models that ship with the package."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.console import JsonOption, console, write_json

if TYPE_CHECKING:
    from infra.registry import ModelVersion


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "models",
        help="List registered and built-in models; with NAME its versions, their aliases and scores.",
        epilog="Example: bitreel models street-cams",
    )(models_command)


def models_command(
    name: Annotated[str | None, typer.Argument(help="Model to show; without: all models.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Print one table of each."""
    from codec.builtin import builtin_models
    from infra.registry import list_models, list_versions
    from infra.tracking import tracking_uri, without_login

    builtin = {model: _facts(folder) for model, folder in builtin_models().items() if name in (None, model)}
    if name is not None:
        _print_builtin(builtin)
        versions = list_versions(name) if not builtin or name in list_models() else []
        if versions:
            _print_versions(name, versions)
        figures = {"name": name, "versions": [dataclasses.asdict(version) for version in versions]}
        write_json(json_path, figures | ({"built_in": builtin[name]} if builtin else {}))
        return
    _print_builtin(builtin)
    models = {model: list_versions(model) for model in list_models()}
    if not models:
        place = without_login(tracking_uri())
        console.print(f"no models yet in {place}; `bitreel train … --name NAME` registers one", markup=False)
    else:
        _print_models(models)
    registered: list[dict[str, Any]] = [
        {"name": model, "versions": len(versions), "aliases": _aliases(versions)} for model, versions in models.items()
    ]
    write_json(json_path, {"models": registered, "built_in": builtin})


def _facts(folder: Path) -> dict[str, Any]:
    from codec.builtin import CONFIG_FILE, WEIGHTS_FILE

    config = json.loads((folder / CONFIG_FILE).read_text())
    return {
        "model_hash": config["model_hash"], "family": config["family"], "weights": config.get("weights", "float32"),
        "bytes": (folder / WEIGHTS_FILE).stat().st_size, "folder": str(folder),
    }  # fmt: skip


def _print_builtin(builtin: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    if not builtin:
        return
    table = Table("built-in model", "codec", "weights", "size", "model hash")
    for model, facts in builtin.items():
        size = f"{facts['bytes'] / 1e6:.1f} MB"
        table.add_row(model, facts["family"], facts["weights"], size, facts["model_hash"][:12])
    console.print(table)


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
