"""A real `mlflow server` that is killed while a real training runs; whose worker and driver are killed as well."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.tracking_outage import Server, journal, kill_worker, logged, verdict, wait_for
from infra.run_lifetime import settle_runs
from infra.tracking import connect
from tests.trainers.small_store import make_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parent.parent.parent
AWAY = float(
    os.environ.get("BITREEL_OUTAGE_SECONDS", "2")
)  # that the server is away after the worker's death, at least
STEPS = 80 + 10 * int(AWAY / 2)
RECIPE = {
    "log_every": 1,
    "checkpoint_every": 10,
    "pictures_every": 10,
    "validate_every": 40,
    "validate_qps": [0, 63],
    "validate_clips": 1,
    "phases": [{"name": "p", "steps": STEPS, "learning_rate": 1e-3, "crop": 32}],
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(tmp_path, port)
    server.start()
    yield server
    server.stop()


def start(folder: Path, uri: str, *resume: str) -> subprocess.Popen[bytes]:
    store = folder / "store"
    if not store.exists():
        make_store(store, held_out=3)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "TINY_PACE": "0.2", "PYTHONPATH": path}
    command = [sys.executable, "-m", "tests.infra.tiny_training", str(store), json.dumps(RECIPE), *resume]
    return subprocess.Popen(command, cwd=folder, env=environment)


def status(uri: str) -> str:
    client = connect(uri)
    experiment = client.get_experiment_by_name("bitreel")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])  # one run, however often it went on
    return str(run.info.status)


def test_every_point_is_there_once_after_server_and_worker_were_killed(server: Server, tmp_path: Path) -> None:
    training = start(tmp_path, server.uri)
    wait_for("the first steps", lambda: logged(tmp_path) >= 5, training)
    server.stop()
    away = time.time()
    time.sleep(AWAY / 2)
    kill_worker(training)
    seen = logged(tmp_path)
    wait_for("steps after the worker's death", lambda: logged(tmp_path) > seen, training)
    time.sleep(max(0.0, away + AWAY - time.time()))
    server.start()
    back = time.time()
    assert training.wait(600) == 0
    found = verdict(tmp_path, server.uri, away, back, time.time())
    print(json.dumps(found | {"away": back - away}, indent=2))
    assert found["points_written_while_away"] > 0
    assert (found["missing"], found["doubled"], found["differing"]) == (0, 0, 0)
    assert found["steps_without_a_gap"] and found["steps"] == STEPS
    assert found["status"] == "FINISHED" and found["validations"] == len({*range(40, STEPS, 40), STEPS})


def test_status_of_a_run_that_is_terminated_killed_and_goes_on_without_a_server(server: Server, tmp_path: Path) -> None:
    training = start(tmp_path, server.uri)
    wait_for("the first steps", lambda: logged(tmp_path) >= 12, training)
    assert status(server.uri) == "RUNNING"
    training.send_signal(signal.SIGTERM)
    assert training.wait(60) != 0
    assert status(server.uri) == "KILLED"

    (name,) = [path.name for path in (tmp_path / "runs" / "train").iterdir()]
    server.stop()
    reached = logged(tmp_path)
    training = start(tmp_path, server.uri, name)  # going on asks no server
    wait_for("further steps", lambda: logged(tmp_path) > reached + 5, training)
    training.kill()
    training.wait()
    server.start()
    assert status(server.uri) == "KILLED"  # of the first time: the second was never heard of
    settle_runs(tmp_path / "runs" / "train")
    assert status(server.uri) == "KILLED"
    client = connect(server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("bitreel").experiment_id])  # type: ignore[union-attr]
    steps = sorted(point.step for point in client.get_metric_history(run.info.run_id, "loss"))
    assert steps == list(range(1, max(entry["step"] for entry in journal(tmp_path)) + 1))
