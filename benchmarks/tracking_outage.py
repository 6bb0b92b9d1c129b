"""A tracking server that is killed for a while in mid-training: what is missing afterwards, and what did training lose?

`bitreel train` runs by itself against a real `mlflow server` on SQLite. Once the first steps are there, the server gets
SIGKILL; with --kill-worker the training's worker gets it too while the server is away. The server comes back after
--away seconds. In the end every logged step must be in MLflow exactly once for every curve, with the values of the
journal beside the run; the speed during the outage is compared with that before and after it.

Example: python benchmarks/tracking_outage.py --store clips --away 60 --kill-worker --json outage.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

LOGGED_BEFORE = 20  # steps that MLflow has when the server is killed


class Server:
    """`mlflow server` on SQLite in `folder`; `stop` is kill -9 of it and its workers."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.uri = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        sys.exit(f"no server came up: see {log.name}")

    def stop(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def journal(folder: Path) -> Iterator[dict[str, Any]]:
    """Training points written down beside the run, with the time of each."""
    for path in sorted(folder.glob("runs/train/*/tracking/worker-*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # killed in the middle of a write
                continue
            if entry["kind"] == "metrics" and entry["of"] == "training":
                yield entry


def logged(folder: Path) -> int:
    return max((entry["step"] for entry in journal(folder)), default=0)


def wait_for(what: str, reached: Callable[[], bool], training: subprocess.Popen[bytes], seconds: float = 1800) -> None:
    until = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > until or training.poll() is not None:
            sys.exit(f"{what} did not come about; training's exit status: {training.poll()}")
        time.sleep(0.2)


def kill_worker(training: subprocess.Popen[bytes]) -> None:
    """kill -9 the Ray worker that trains."""
    for process in psutil.Process(training.pid).children(recursive=True):
        if "TrainWorker" in " ".join(process.cmdline()):
            process.kill()
            return
    sys.exit("no training worker among the processes of the training")


def seconds_per_step(points: list[tuple[float, float, int]], since: float, until: float, every: int) -> float:
    """Median over the points logged in a stretch of time; loading data and the checkpoints in between included."""
    inside = [(time_, step) for time_, _, step in points if since <= time_ <= until]
    gaps = [(b[0] - a[0]) / every for a, b in itertools.pairwise(inside)]
    return statistics.median(gaps) if gaps else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="clip store with held-out sources")
    parser.add_argument("--recipe", default="innvc-demo")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--away", type=float, default=60.0, help="seconds that the server is down")
    parser.add_argument("--kill-worker", action="store_true", help="kill the training's worker in the middle of it")
    parser.add_argument("--port", type=int, default=5060)
    parser.add_argument("--patience", type=float, default=3600, help="seconds that any one stage may take")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        server = Server(folder, given.port)
        server.start()
        environment = os.environ | {"MLFLOW_TRACKING_URI": server.uri}
        command = [sys.executable, "-m", "infra.cli", "train", given.recipe, "--store", str(given.store.resolve())]
        for change in ("log_every=1", "pictures_every=10", "checkpoint_every=10", *given.changes):
            command += ["--set", change]
        began = time.time()
        training = subprocess.Popen(command, cwd=folder, env=environment)
        events: list[tuple[float, str]] = []

        def happened(what: str) -> float:
            events.append((time.time(), what))
            print(f"{time.time() - began:7.1f} s  step {logged(folder):4d}  {what}", flush=True)
            return time.time()

        try:
            wait_for("the first steps", lambda: logged(folder) >= LOGGED_BEFORE, training, given.patience)
            server.stop()
            away = happened("tracking server killed (SIGKILL)")
            if given.kill_worker:
                time.sleep(given.away / 3)
                kill_worker(training)
                happened("training worker killed (SIGKILL)")
            time.sleep(max(0.0, away + given.away - time.time()))
            server.start()
            back = happened("tracking server is back")
            status = training.wait(given.patience)
            ended = happened(f"training ended with exit status {status}")
            answer = verdict(folder, server.uri, away, back, ended)
        finally:
            if training.poll() is None:
                training.kill()  # its Ray goes with it
                training.wait()
            server.stop()
    answer |= {"events": [{"seconds": at - began, "what": what} for at, what in events], "exit_status": status}
    for key, value in answer.items():
        if key != "events":
            print(f"{key:34s} {value}")
    if given.json:
        given.json.write_text(json.dumps(answer, indent=2) + "\n")
    sys.exit(0 if not answer["missing"] and not answer["doubled"] and not answer["differing"] else 1)


def verdict(folder: Path, uri: str, away: float, back: float, ended: float) -> dict[str, Any]:
    """MLflow beside the journal."""
    from infra.tracking import connect

    client = connect(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("bitreel").experiment_id])
    expected = {(key, e["step"]): value for e in journal(folder) for key, value in e["values"].items()}
    found: Counter[tuple[str, int]] = Counter()
    differing = 0
    for key in {key for key, _ in expected}:
        for point in client.get_metric_history(run.info.run_id, key):
            found[key, point.step] += 1
            differing += expected.get((key, point.step)) != point.value
    entries = list(journal(folder))
    steps = sorted(entry["step"] for entry in entries)
    points = [(entry["time"] / 1000, 0.0, entry["step"]) for entry in entries]
    inside = seconds_per_step(points, away, back, 1)
    outside = seconds_per_step([p for p in points if not away <= p[0] <= back], 0, ended, 1)
    return {
        "curves": len({key for key, _ in expected}),
        "steps": len(set(steps)),
        "steps_without_a_gap": steps == list(range(1, max(steps) + 1)),
        "points": len(expected),
        "points_written_while_away": sum(len(e["values"]) for e in entries if away <= e["time"] / 1000 <= back),
        "missing": sum(key not in found for key in expected),
        "doubled": sum(count > 1 for count in found.values()),
        "differing": differing,
        "status": run.info.status,
        "system_points": len(client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")),
        "pictures": len(client.list_artifacts(run.info.run_id, "reconstructions")),
        "validations": len(client.list_artifacts(run.info.run_id, "validation")),
        "seconds_per_step_outside": outside,
        "seconds_per_step_while_away": inside,
        "speed_while_away": outside / inside,
    }


if __name__ == "__main__":
    main()
