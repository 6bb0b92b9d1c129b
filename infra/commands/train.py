"""`bitreel train`: prints the plan, trains on Ray Train, registers the result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from infra.console import JsonOption, console, progress, write_json
from infra.kernels import prepare_kernels


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "train",
        help="Train a codec by a recipe on the clips of a store; print the plan first.",
        epilog="Examples: bitreel train innvc-small --store clips/ --name cams --set scale_steps=0.5 --workers 2 · "
        "bitreel train innvc-demo --from innvc-small --store clips/ --name cams",
    )(train_command)


def train_command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name from configs/, or a TOML file.")],
    store: Annotated[Path, typer.Option(help="Clip store that `bitreel ingest` made.")],
    name: Annotated[str | None, typer.Option(help="Register the result as a new version of this model.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: batch_size=4, phases.0.steps=50, …"),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="REF",
            help="Start from this model's weights: a built-in model, name@7, name@champion, or a checkpoint folder.",
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN-MAX", help="Workers; MIN-MAX as machines come and go. Default: one per GPU, or one."
        ),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to train on; default: this machine.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run that stopped.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Train and say what came out."""
    from rich.table import Table

    from infra.training_job import run_training
    from trainers.ray_workers import parse_workers
    from trainers.recipe import load_recipe
    from trainers.schedule import plan_rows, plan_title

    plan = load_recipe(recipe, changes or ())
    names, *settings = plan_rows(plan)
    table = Table(*names, title=plan_title(plan), title_justify="left")
    for row in settings:
        table.add_row(*row)
    console.print(table)

    with progress() as bar:
        task = bar.add_task("training", total=plan.total_steps)

        def show(step: int, metrics: dict[str, float]) -> None:
            figures = f"bpp {metrics.get('bpp', float('nan')):.3f}, {metrics.get('psnr_yuv', float('nan')):.2f} dB"
            bar.update(task, completed=step, description=f"training ({figures})")

        def started(run: str) -> None:
            console.print(f"run {run}", markup=False)
            prepare_kernels()

        done = run_training(
            plan,
            store,
            model_name=name,
            workers=parse_workers(workers),
            address=address,
            resume=resume,
            init_from=init_from,
            on_progress=show,
            on_start=started,
            on_event=lambda text: console.print(text, markup=False),
        )
    for key in ("loss", "bpp", "psnr_yuv", "skipped_steps"):
        if key in done.metrics:
            console.print(f"{key} {done.metrics[key]:.4g}", markup=False)
    console.print(f"checkpoint {done.checkpoint}", markup=False, soft_wrap=True)
    if done.version is not None:
        console.print(f"registered {name} version {done.version}", markup=False)
    console.print(f"run id {done.run_id}", markup=False)
    write_json(json_path, dataclasses.asdict(done))
