"""Training in MLflow: the plan, curves without doubled steps, pictures, checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from codec.api import CODECS, load_codec
from infra.tracking import TrackedRun, connect, end_run, find_training_run, start_training_run, tracking_uri
from tests.trainers.synthetic import MadeUpBatches, Recorder, tiny_recipe
from trainers.checkpoint import load_training_state
from trainers.loop import fresh_codec, train
from trainers.schedule import plan_table


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, mlflow_home: Path) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


def curve(client: MlflowClient, run: TrackedRun, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.run_id, key))


def test_uri_comes_from_the_environment_or_is_below_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, mlflow_home: Path
) -> None:
    assert tracking_uri() == f"sqlite:///{mlflow_home / 'runs' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri() == "http://tracking:5000"


def test_curves_pictures_and_checkpoints_of_a_run_that_was_interrupted(tmp_path: Path) -> None:
    recipe = tiny_recipe(pictures_every=4)
    run = start_training_run(recipe, "tiny-1", {"store": "clips"})
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
    tracker = run.open()
    for step in (6, 8, 10):
        tracker.log(step, resumed.logs[step])
    assert curve(client, run, "loss") == [(step, seen.logs[step]["loss"]) for step in (2, 4, 6, 8, 10)]
    assert curve(client, run, "mask_fraction")[-1] == (10, 0.5)

    tracker.pictures(10, seen.pictures[10])
    tracker.checkpoint(10, tmp_path / "step-000010")
    (picture,) = client.list_artifacts(run.run_id, "reconstructions")
    pixels = np.asarray(Image.open(client.download_artifacts(run.run_id, picture.path)))
    assert pixels.shape == (2 * 32 + 4, 3 * 32 + 2 * 4, 3)
    kept = Path(client.download_artifacts(run.run_id, "checkpoints/step-000010"))
    assert load_codec(kept).model_hash() == codec.model_hash()
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "model.safetensors"]

    end_run(run)
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert find_training_run("tiny-1") == (run, "tiny-1") == find_training_run(run.run_id)
    assert find_training_run("tiny-2") is None and find_training_run("it's none") is None


def test_training_outlives_a_tracking_store_that_goes_away(mlflow_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = start_training_run(tiny_recipe(), "tiny-1", {})
    tracker = run.open()
    tracker.log(2, {"loss": 3.0, "learning_rate": 1.0})
    database = mlflow_home / "runs" / "mlflow.db"
    whole = database.read_bytes()
    database.write_bytes(b"away")
    tracker.log(4, {"loss": 2.0, "learning_rate": 1.0})
    assert "training goes on" in caplog.text
    database.write_bytes(whole)
    tracker.log(6, {"loss": 1.0, "learning_rate": 1.0})
    assert curve(connect(), run, "loss") == [(2, 3.0), (4, 2.0), (6, 1.0)]
