"""`bitreel autopilot`: new versions are evaluated and promoted with nobody watching."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from infra.console import JsonOption, console, write_json
from infra.kernels import prepare_kernels


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "autopilot",
        help="Watch the registry: evaluate each new version against the champion and anchors, promote those that pass.",
        epilog="Example: bitreel autopilot --name street-cams --videos held-out/ --address http://127.0.0.1:8265",
    )(autopilot_command)


def autopilot_command(
    name: Annotated[str, typer.Option(help="The model to watch.")],
    videos: Annotated[
        list[str], typer.Option("--videos", help="Videos, folders or globs to evaluate on; may be repeated.")
    ],
    qps: Annotated[str, typer.Option(help="QPs to code at.")] = "0,9,18,27,36,45,54,63",
    anchors: Annotated[str, typer.Option(help="Anchors, as `bitreel evaluate` takes them.")] = "x265-ldp-psnr,x265-ldp",
    frames: Annotated[int, typer.Option(min=1, help="At most this many frames from each video's start.")] = 96,
    gate: Annotated[str, typer.Option(help="Gate: a TOML file, or a name from configs/.")] = "gate-default",
    once: Annotated[bool, typer.Option("--once", help="Judge what is new and end, for cron.")] = False,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between looks at the registry.")] = 60.0,
    out: Annotated[Path, typer.Option(help="Folder for evaluations; on a cluster, one that all machines see.")] = Path(
        "runs/autopilot"
    ),
    address: Annotated[
        str | None,
        typer.Option(
            help="Evaluate as jobs of the cluster with this dashboard, such as http://127.0.0.1:8265 on its head."
        ),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT where MLflow's webhook tells of new versions at once.")
    ] = None,
    webhook_secret: Annotated[
        Path | None, typer.Option(help="File with the webhook's secret; --listen wants it.")
    ] = None,
    json_path: JsonOption = None,
) -> int:
    """With --once, exit status 1 where a version could not be evaluated; refused versions are no failure."""
    from codec.api import QP_COUNT
    from codec.errors import UsageError
    from infra.autopilot import AutopilotSettings, fly
    from infra.commands.evaluate import local_videos, parse_anchors, parse_qps
    from infra.promotion import load_gate
    from infra.ray_jobs import dashboard_address
    from infra.registry import check_name, check_no_journal
    from infra.webhooks import listening, read_secret

    check_name(name)
    check_no_journal(name)
    load_gate(gate)
    wanted = parse_qps(qps)
    if min(wanted) < 0 or max(wanted) >= QP_COUNT:
        raise UsageError(f"--qps '{qps}': QPs must lie in 0..{QP_COUNT - 1}")
    parse_anchors(anchors, here=address is None)
    if address is not None:
        dashboard_address(address)
    found = [str(path.absolute()) for path in local_videos(videos)]
    options = [f"--qps={qps}", f"--anchors={anchors}", f"--frames={frames}", *(f"--videos={path}" for path in found)]
    settings = AutopilotSettings(name, tuple(options), gate, out, address)
    if (listen is None) != (webhook_secret is None):
        raise UsageError("--listen and --webhook-secret belong together")
    wake = threading.Event()
    with contextlib.ExitStack() as stack:
        if listen is not None and webhook_secret is not None:
            stack.enter_context(listening(listen, read_secret(webhook_secret), wake))
        if address is None:
            prepare_kernels()
        done = fly(settings, _tell, once=once, interval=interval, wake=wake)
    if not done.outcomes:
        _tell(f"{name}: nothing new")
    write_json(json_path, {"name": name, **dataclasses.asdict(done)})
    return int(any(outcome.startswith(("failed", "waiting")) for outcome in done.outcomes.values()))


def _tell(text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, soft_wrap=True, highlight=False)
