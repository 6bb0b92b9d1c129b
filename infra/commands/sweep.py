"""`bitreel sweep`: trains a grid of settings, ranks them by real rate and distortion."""

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
        "sweep",
        help="Train a recipe with several settings over the cluster, and rank them by real bits at equal quality.",
        epilog="Example: bitreel sweep innvc-demo --store clips/ --grid phases.0.grad_clip=0.5,1 "
        "--grid batch_size=4,8 --name clip-and-batch",
    )(sweep_command)


def sweep_command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name from configs/, or a TOML file.")],
    store: Annotated[Path, typer.Option(help="Clip store with held-out sources, which trials are measured on.")],
    grid: Annotated[
        list[str],
        typer.Option(metavar="KEY=V1,V2,…", help="Values to try of a setting; all combinations of several."),
    ],
    name: Annotated[
        str | None, typer.Option(help="The sweep's name; again with the same, only new trials run. Default: RECIPE.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of all trials.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers-per-trial", min=1, help="Workers of each trial.")] = 1,
    parallel: Annotated[int | None, typer.Option(min=1, help="Trials at once; default: as many as find room.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to train on; default: this machine.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Train, rank, print."""
    from rich.table import Table

    from infra.registry import check_name
    from infra.sweep import make_trials, run_sweep

    trials = make_trials(recipe, store, changes or (), grid)
    name = name or trials[0].recipe.name
    check_name(name)
    prepare_kernels()
    with progress() as bar:
        task = bar.add_task("sweep", total=sum(trial.recipe.total_steps for trial in trials))

        def show(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        sweep = run_sweep(name, trials, store, workers=workers, parallel=parallel, address=address, on_progress=show)
    table = Table(title=f"{name}, ranked by {sweep.ranked_by}")
    for column in ("rank", "trial", "settings", "BD-rate", "RD cost", "mean bpp", "mean PSNR-YUV"):
        table.add_column(column, justify="left" if column == "settings" else "right", overflow="fold")
    for trial in sweep.trials:
        table.add_row(
            str(trial.rank), str(trial.number), "\n".join(trial.settings),
            "refused" if trial.bd_rate is None else f"{trial.bd_rate:+.1f} %",
            f"{trial.rd_cost:.4g}", f"{trial.bpp:.4f}", f"{trial.psnr_yuv:.2f}",
        )  # fmt: skip
    console.print(table)
    for trial in sweep.trials:
        if trial.refused:
            console.print(f"trial {trial.number}: BD-rate refused: {trial.refused}", markup=False)
    for number, reason in sorted(sweep.failed.items()):
        console.print(f"trial {number} failed: {reason}", markup=False)
    console.print(f"run id {sweep.run_id}", markup=False)
    write_json(json_path, dataclasses.asdict(sweep))
    if sweep.failed:
        raise typer.Exit(1)
