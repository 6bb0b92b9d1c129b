"""Three nodes with a shared folder, one lost in the middle of each stage: the work ends as if nothing had been."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.manifest import MANIFEST, read_manifest
from tests.infra.mlflow_server import running_server
from tests.infra.moving_clips import moving_clip
from tests.infra.nodes_of_one_machine import Nodes, running_nodes
from tests.infra.postgres_server import running_postgres, why_no_postgres

RECIPE = """
batch_size = 2
log_every = 1
checkpoint_every = 4
pictures_every = 1000
codec = { family = "innvc", config = { width = 16, trunk_blocks = 1 } }
[[phases]]
name = "still"
steps = 40
learning_rate = [1e-3, 1e-4]
crop = 64
"""
STEPS = 40
VIDEOS = 200  # workers of all nodes have started long before all are read
QPS = "8,20,32,44,56"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running_nodes(3) as built:
        yield built


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all nodes see; commands run in it."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "videos").mkdir()
    for seed in range(VIDEOS):
        moving_clip(folder / "videos" / f"clip{seed}.y4m", 96, 80, 80, seed)
    for seed in range(6):
        (folder / "held-out").mkdir(exist_ok=True)
        moving_clip(folder / "held-out" / f"clip{seed}.y4m", 96, 80, 10, 100 + seed)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def tracking(nodes: Nodes, shared: Path) -> Iterator[str]:
    """A real MLflow server beside the head, on PostgreSQL where there is one."""
    with ExitStack() as stack:
        how: dict[str, Any] = {}
        if not why_no_postgres():
            database = stack.enter_context(running_postgres())
            how = {"database": database.uri, "settings": {"PGPASSWORD": database.password}}
        uri = stack.enter_context(running_server(shared / "mlflow", host=nodes.ip(0), within=nodes.within(), **how))
        nodes.environment["MLFLOW_TRACKING_URI"] = uri
        yield uri


def bitreel(*words: str) -> list[str]:
    return [sys.executable, "-m", "infra.cli", *words]


def alone(nodes: Nodes, folder: Path, *words: str) -> None:
    """The same command with a Ray of its own, undisturbed, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    done = nodes.run(bitreel(*words), cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def disturbed(
    nodes: Nodes, folder: Path, words: list[str], now: Callable[[], int | None], lose: Callable[[int], None]
) -> int:
    """Run a command on the cluster; lose the node that `now` names as soon as it names one. Gives that node."""
    log = folder / f"{words[0]}.log"
    command = nodes.popen(bitreel(*words, "--address", nodes.address), folder, log)
    lost = None
    deadline = time.monotonic() + 300
    while command.poll() is None and time.monotonic() < deadline:
        if lost is None:
            lost = now()
            if lost is not None:
                lose(lost)
        time.sleep(0.05)
    said = log.read_text()[-6000:]
    if command.poll() is None:
        command.kill()
        raise AssertionError(f"it does not end: node {lost} was lost; {said}")
    assert command.returncode == 0, said
    assert lost is not None, f"it ended before a node was lost: {said}"
    return lost


def test_nodes_are_lost_in_every_stage(nodes: Nodes, shared: Path, tracking: str, tmp_path: Path) -> None:
    store, run = shared / "store", shared / "runs" / "train"

    def ingesting() -> int | None:
        begun = len(list((store / MANIFEST).glob("[!.]*.parquet"))) >= 2
        return next((n for n in (1, 2) if begun and nodes.at_work(n, ".ingest")), None)

    words = ["ingest", str(shared / "videos"), "--store", str(store), "--workers", "3", "--json", "ingest.json"]
    lost = disturbed(nodes, shared, words, ingesting, nodes.cut_off)
    report = json.loads((shared / "ingest.json").read_text())
    assert report["ingested"] == VIDEOS and report["worker_deaths"] >= 1 and report["quarantined"] == {}, report
    checked = nodes.run(bitreel("store", "verify", str(store)), cwd=shared, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    alone(nodes, tmp_path / "ingest", *words[:3], "store", *words[4:])
    assert clip_ids(store) == clip_ids(tmp_path / "ingest" / "store")
    nodes.bring_back(lost)

    def training() -> int | None:
        begun = any(run.glob("*/checkpoints/step-*")) and step(run) < STEPS - 10
        return next((n for n in (1, 2) if begun and nodes.at_work(n, "RayTrainWorker")), None)

    words = ["train", str(shared / "recipe.toml"), "--store", str(store), "--name", "cams", "--workers", "2"]
    lost = disturbed(nodes, shared, words, training, nodes.cut_off)
    alone(nodes, tmp_path / "train", *words)
    made = json.loads(models(nodes, shared))["versions"]
    assert [version["version"] for version in made] == [1, 2]
    assert made[0]["tags"]["model_hash"] == made[1]["tags"]["model_hash"], "the very weights of the undisturbed run"
    nodes.bring_back(lost)

    def evaluating() -> int | None:
        begun = any((shared / "runs" / "cache" / "points").rglob("*.json"))
        return next((n for n in (1, 2) if begun and nodes.at_work(n)), None)

    words = ["evaluate", "--model", "cams@1", "--videos", str(shared / "held-out"), "--qps", QPS, "--anchors", ""]
    disturbed(nodes, shared, [*words, "--out", "evaluation"], evaluating, nodes.kill)
    alone(nodes, tmp_path / "evaluate", *words, "--out", "evaluation")
    ours, undisturbed = points(shared / "evaluation"), points(tmp_path / "evaluate" / "evaluation")
    assert len(ours) == 6 * len(QPS.split(",")) and ours == undisturbed


def clip_ids(store: Path) -> list[tuple[str, str, int]]:
    rows = read_manifest(store).to_pylist()
    return sorted((row["source"], row["clip_id"], row["first_frame"]) for row in rows)


def step(run: Path) -> int:
    try:
        return max(int(json.loads(path.read_text())["step"]) for path in run.glob("*/progress.json"))
    except ValueError:  # none yet, or just being replaced
        return 0


def models(nodes: Nodes, folder: Path) -> str:
    done = nodes.run(bitreel("models", "cams", "--json", "models.json"), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (folder / "models.json").read_text()


def points(folder: Path) -> dict[tuple[str, int], tuple[float, float, str]]:
    found = json.loads((folder / "results.json").read_text())
    return {
        (sequence["source"]["name"], point["qp"]): (point["bpp"], point["psnr_yuv"], point["details"]["decoder_digest"])
        for sequence in found["sequences"]
        for point in sequence["points"]
    }
