"""Training in MLflow: the plan, curves without doubled steps, pictures, checkpoints, statuses."""

from __future__ import annotations

import dataclasses
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from codec.api import CODECS, load_codec
from codec.errors import UsageError
from infra.outbox import Outbox, last_status, left_behind
from infra.run_lifetime import followed_run, settle_runs
from infra.tracking import OUTBOX, TrackedRun, connect, find_training_run, noted_run, start_training_run, tracking_uri
from infra.training_tracker import TrainingTracker
from tests.trainers.synthetic import MadeUpBatches, Recorder, tiny_recipe
from trainers.checkpoint import load_training_state
from trainers.loop import fresh_codec, train
from trainers.schedule import plan_table
from trainers.validation import ValidationPoint, ValidationResult


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, mlflow_home: Path) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


def curve(client: MlflowClient, run: TrackedRun, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.run_id, key))


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def worker(run: TrackedRun) -> TrainingTracker:
    """A rank 0 that samples no system figures."""
    return run.open_as("worker")


def test_uri_comes_from_the_environment_or_is_below_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, mlflow_home: Path
) -> None:
    assert tracking_uri() == f"sqlite:///{mlflow_home / 'runs' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri() == "http://tracking:5000"


def test_curves_pictures_and_checkpoints_of_a_run_that_was_interrupted(tmp_path: Path) -> None:
    recipe = tiny_recipe(pictures_every=4)
    run = start_training_run(recipe, "tiny-1", {"store": "clips"}, tmp_path / "tiny-1")
    client = connect()
    entry = client.get_run(run.run_id)
    assert entry.data.params["phases.1.clip_frames"] == "3" and entry.data.params["store"] == "clips"
    assert Path(client.download_artifacts(run.run_id, "plan.txt")).read_text() == plan_table(recipe) + "\n"

    seen = Recorder(tmp_path)
    codec = fresh_codec(recipe)
    train(codec, recipe, MadeUpBatches(recipe), seen)
    tracker = pickle.loads(pickle.dumps(run)).open()
    for step in (2, 4, 6):
        tracker.log(step, seen.logs[step])
    # The worker dies here; the next one resumes from step 4 and logs step 6 once more.
    resumed = Recorder()
    start = load_training_state(tmp_path / "step-000004")
    train(fresh_codec(recipe), recipe, MadeUpBatches(recipe), resumed, start=start)
    tracker = worker(run)
    for step in (6, 8, 10):
        tracker.log(step, resumed.logs[step])
    tracker.pictures(10, seen.pictures[10])
    tracker.checkpoint(10, tmp_path / "step-000010")
    tracker.close()
    assert curve(client, run, "loss") == [(step, seen.logs[step]["loss"]) for step in (2, 4, 6, 8, 10)]
    assert curve(client, run, "mask_fraction")[-1] == (10, 0.5)
    shares = [curve(client, run, f"qp_share/{low:02d}-{low + 7:02d}") for low in range(0, 64, 8)]
    assert all(len(share) == 5 for share in shares)
    assert sum(share[0][1] for share in shares) == pytest.approx(1)

    (picture,) = client.list_artifacts(run.run_id, "reconstructions")
    pixels = np.asarray(Image.open(client.download_artifacts(run.run_id, picture.path)))
    assert pixels.shape == (2 * 32 + 4, 3 * 32 + 2 * 4, 3)
    kept = Path(client.download_artifacts(run.run_id, "checkpoints/step-000010"))
    assert load_codec(kept).model_hash() == codec.model_hash()
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "model.safetensors"]
    assert not list((tmp_path / "tiny-1" / OUTBOX / "files").iterdir())  # what is uploaded takes no room here

    assert find_training_run("tiny-1") is not None and find_training_run(run.run_id) is not None
    assert find_training_run("tiny-2") is None and find_training_run("it's none") is None
    assert noted_run(tmp_path / "tiny-1") == run


def test_nothing_is_lost_where_the_worker_dies_while_the_server_is_away(tmp_path: Path) -> None:
    run = start_training_run(tiny_recipe(), "tiny-1", {}, tmp_path / "tiny-1")
    outbox = tmp_path / "tiny-1" / OUTBOX
    before = worker(run)
    before.log(2, {"loss": 3.0})
    before.close()
    began = time.monotonic()
    first = worker(dataclasses.replace(run, uri="http://127.0.0.1:9"))  # nobody listens there
    first.log(4, {"loss": 2.0})
    first.log(6, {"loss": 1.5})
    assert time.monotonic() - began < 1 and left_behind(outbox)
    assert not first.outbox.close(0.5)  # dead, as far as it concerns MLflow
    with sorted(outbox.glob("worker-*.jsonl"))[-1].open("ab") as handle:
        handle.write(b'{"kind":"metr')  # killed in the middle of a write
    second = worker(run)
    second.log(6, {"loss": 99.0})  # done again; the first telling counts
    second.log(8, {"loss": 1.0})
    assert second.outbox.close(20) and not left_behind(outbox)
    assert curve(connect(), run, "loss") == [(2, 3.0), (4, 2.0), (6, 1.5), (8, 1.0)]


def test_what_is_sent_twice_is_there_once(tmp_path: Path) -> None:
    """A process may die between MLflow's answer and its note of it."""
    run = start_training_run(tiny_recipe(), "tiny-1", {}, tmp_path / "tiny-1")
    tracker = worker(run)
    for step in range(1, 6):
        tracker.log(step, {"loss": 1.0 / step, "bpp": float("nan")})
    tracker.close()
    (mark,) = (tmp_path / "tiny-1" / OUTBOX).glob("*.sent")
    mark.unlink()
    assert Outbox(run.uri, run.run_id, tmp_path / "tiny-1" / OUTBOX, "").close(20)
    assert curve(connect(), run, "loss") == [(step, 1.0 / step) for step in range(1, 6)]
    assert len(curve(connect(), run, "bpp")) == 5


def test_what_mlflow_will_never_take_keeps_nothing_else_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = start_training_run(tiny_recipe(), "tiny-1", {}, tmp_path / "tiny-1")
    tracker = worker(run)
    tracker.log(1, {"loss": 2.0, "no such name?": 1.0})
    tracker.log(2, {"loss": 1.0})
    tracker.close()
    assert curve(connect(), run, "loss")[-1] == (2, 1.0)
    assert "MLflow refused" in caplog.text


def test_a_file_that_can_t_be_uploaded_holds_back_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_training_run(tiny_recipe(), "tiny-1", {}, tmp_path / "tiny-1")
    folder = tmp_path / "tiny-1" / OUTBOX
    upload, tries = MlflowClient.log_artifact, []

    def refuse(client: MlflowClient, run_id: str, path: str, to: str) -> None:
        tries.append(Path(path).name)
        if path.endswith("large.png"):
            raise OSError("413 Client Error: Request Entity Too Large")
        upload(client, run_id, path, to)

    monkeypatch.setattr("mlflow.MlflowClient.log_artifact", refuse)
    tracker = worker(run)
    for step, name in enumerate(("large.png", "small.png")):
        tracker.outbox.add_file(name, "reconstructions", lambda path: path.write_bytes(b"x"))
        tracker.log(step, {"loss": 1.0})
    wait_until(lambda: len(tries) >= 2)
    tracker.log(20, {"loss": 0.5})
    wait_until(lambda: len(curve(connect(), run, "loss")) == 3)
    assert not tracker.outbox.close(0.1) and left_behind(folder)
    assert [f.path for f in connect().list_artifacts(run.run_id, "reconstructions")] == ["reconstructions/small.png"]
    assert tries.count("small.png") == 1 and "large.png: 413" in caplog.text
    monkeypatch.setattr("mlflow.MlflowClient.log_artifact", upload)  # the server takes larger ones now
    assert Outbox(run.uri, run.run_id, folder, "").close(20) and not left_behind(folder)
    assert len(connect().list_artifacts(run.run_id, "reconstructions")) == 2
    assert len(curve(connect(), run, "loss")) == 3


def test_validations_are_logged_once_at_their_own_step(tmp_path: Path) -> None:
    run = start_training_run(tiny_recipe(), "tiny-1", {}, tmp_path / "tiny-1")
    results = [
        ValidationResult(step, "00", 2, 3, 64, 1.0, 0.5, (ValidationPoint(21, 100, 0.1 * step, 30.0, 31.0, 9.0),))
        for step in (4, 8)
    ]
    tracker = run.open_as("driver")
    tracker.log(12, {"loss": 1.0})  # training is far ahead
    for result in (*results, *results):
        tracker.validation(result)
    tracker.close()
    again = run.open_as("driver")
    again.validation(results[0])
    again.close()
    client = connect()
    assert curve(client, run, "validation/qp21/bpp") == [(4, 0.4), (8, 0.8)]
    assert curve(client, run, "validation/rd_cost") == [(4, 0.5), (8, 0.5)]
    assert [f.path for f in client.list_artifacts(run.run_id, "validation")] == [
        "validation/step-000004.json",
        "validation/step-000008.json",
    ]


def test_the_status_says_how_a_training_ended(mlflow_home: Path) -> None:
    client, storage = connect(), mlflow_home / "runs" / "train"
    run = start_training_run(tiny_recipe(), "tiny-1", {}, storage / "tiny-1")

    def status() -> str:
        return str(client.get_run(run.run_id).info.status)

    for error, expected in (
        (RuntimeError, "FAILED"),
        (KeyboardInterrupt, "KILLED"),
        (SystemExit, "KILLED"),
        (None, "FINISHED"),
    ):
        try:
            with followed_run(run) as tracker:
                assert tracker.outbox.drain(20) and status() == "RUNNING"
                with pytest.raises(UsageError, match="'tiny-1' is being trained by another process"), followed_run(run):
                    pass
                settle_runs(storage)
                assert status() == "RUNNING"
                if error is not None:
                    raise error
        except (RuntimeError, KeyboardInterrupt, SystemExit):
            pass
        assert status() == expected == last_status(storage / "tiny-1" / OUTBOX)

    # A driver that was killed outright says nothing; the next one in this folder does.
    dead = run.open_as("driver")
    dead.outbox.append({"kind": "status", "status": "RUNNING"})
    dead.log(1, {"loss": 1.0})
    dead.close()
    assert status() == "RUNNING"
    settle_runs(storage)
    assert status() == "KILLED"
