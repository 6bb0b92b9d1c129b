"""`bitreel submit -- COMMAND`: a command as a Ray job on the cluster."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from infra.console import JsonOption, write_json

_ADDRESS = "http://127.0.0.1:8265"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "submit",
        help="Run a command as a Ray job on the cluster and show its output. The job's id follows from the command and "
        "the folder, so submitting it again shows the job that is there; one that failed runs again. Ctrl-C detaches: "
        "the job goes on. Exit status: the job's.",
        epilog="Example: bitreel submit --address http://127.0.0.1:8265 -- train innvc-small --store /shared/store",
    )(submit_command)


def submit_command(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="A bitreel command and its options.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard; RAY_API_SERVER_ADDRESS by default.")] = "",
    job_id: Annotated[str | None, typer.Option(help="The job's id; default: from the command.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where on the head the command runs; default: the current folder's path.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the job of this command instead.")] = False,
    json_path: JsonOption = None,
) -> int:
    """What the job writes goes to stdout, what is said of it to stderr."""
    from codec.errors import UsageError
    from infra.ray_jobs import RayJobs, job_id_of

    if command[0] == "bitreel":
        command = command[1:]
    if not command or command[0].startswith("-"):
        raise UsageError("give the command after `--`, as in: bitreel submit -- train innvc-small --store DIR")
    if folder is not None and not folder.is_absolute():
        raise UsageError(f"--folder '{folder}' is one of the cluster's head: give its whole path, as /shared")
    jobs = RayJobs(address or os.environ.get("RAY_API_SERVER_ADDRESS", _ADDRESS))
    words = ["bitreel", *command]
    job_id = job_id or job_id_of(words, folder)
    if stop:
        jobs.stop(job_id)
        _say(f"asked job {job_id} to stop")
        return 0
    job = jobs.submit(words, job_id, folder)
    _say(f"job {job.job_id}: " + ("submitted" if job.started else f"is there already, {job.status.lower()}"))
    if detach:
        write_json(json_path, dataclasses.asdict(job))
        return 0
    try:
        over = jobs.follow(job_id, lambda text: _print(text))
    except KeyboardInterrupt:
        _say(f"detached; job {job_id} goes on (the same command shows it again, with --stop ends it)")
        return 0
    write_json(json_path, dataclasses.asdict(over))
    _say(f"job {job_id}: {over.status.lower()}" + (f": {over.message}" if over.status != "SUCCEEDED" else ""))
    return 0 if over.status == "SUCCEEDED" else 1


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(f"bitreel: {text}", file=sys.stderr)
