"""Sweeps: the grid, the ranking, and real trials that are done once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray

from codec.api import CODECS
from codec.errors import BitreelError, UsageError
from infra import sweep
from infra.sweep import TRIALS, Trial, grid_points, make_trials, run_sweep
from infra.sweep_ranking import BY_BD_RATE, BY_COST, ranked
from infra.tracking import connect
from pipeline.rendered import render_demo_videos
from tests.trainers.small_store import make_store
from tests.trainers.synthetic import tiny_recipe
from trainers.validation import ValidationPoint, ValidationResult, rd_cost

ROOT = Path(__file__).parent.parent.parent


def test_grid_is_all_combinations_and_lists_keep_their_commas() -> None:
    assert grid_points(["batch_size=4,8", "phases.0.learning_rate=[1e-3, 1e-4],[2e-3,1e-4]"]) == [
        ("batch_size=4", "phases.0.learning_rate=[1e-3, 1e-4]"),
        ("batch_size=4", "phases.0.learning_rate=[2e-3,1e-4]"),
        ("batch_size=8", "phases.0.learning_rate=[1e-3, 1e-4]"),
        ("batch_size=8", "phases.0.learning_rate=[2e-3,1e-4]"),
    ]
    assert grid_points(["seed=1,1,2"]) == [("seed=1",), ("seed=2",)]
    for bad in ("seed", "seed=", "=1", "seed=1,,2"):
        with pytest.raises(UsageError, match="expected key=value1,value2"):
            grid_points([bad])
    with pytest.raises(UsageError, match="at most 256"):
        grid_points(["a=" + ",".join(map(str, range(20))), "b=" + ",".join(map(str, range(20)))])


def curve(scale: float, points: int = 8) -> ValidationResult:
    """A codec that takes `scale` times the bits of another at the same quality."""
    made = tuple(
        ValidationPoint(9 * i, 1, scale * 0.05 * 1.5**i, 30.0 + 2 * i, 30.0 + 2 * i, 65025 / 10 ** (3.0 + 0.2 * i))
        for i in range(points)
    )
    return ValidationResult(10, "", 1, 1, 64, 1.0, rd_cost(made, (1e-3, 10.0)), made)


def test_ranking_is_by_bd_rate_where_all_have_one() -> None:
    recipe = tiny_recipe()
    trials = {1: ((), curve(1.0)), 2: (("a=1",), curve(1.2)), 3: (("a=2",), curve(0.9)), 4: (("a=3",), None)}
    by, ranking = ranked(recipe, trials)
    assert by == BY_BD_RATE
    assert [(trial.rank, trial.number) for trial in ranking] == [(1, 3), (2, 1), (3, 2)]
    assert [trial.bd_rate for trial in ranking] == [pytest.approx(-10), 0.0, pytest.approx(20)]

    by, ranking = ranked(recipe, trials | {4: (("a=3",), curve(0.8, points=3))})
    assert by == BY_COST
    assert [trial.rd_cost for trial in ranking] == sorted(trial.rd_cost for trial in ranking)
    (refused,) = [trial for trial in ranking if trial.bd_rate is None]
    assert refused.number == 4 and "4 are needed" in str(refused.refused)
    assert refused.rd_cost == rd_cost(curve(0.8, points=3).points, recipe.phases[-1].lambda_range)


def test_a_trial_without_a_result_is_told_of(mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training ended well; its validation left nothing to rank it by."""
    trials = [Trial(number, (f"seed={number}",), tiny_recipe(seed=number), f"key{number}") for number in (1, 2, 3)]
    monkeypatch.setattr(sweep, "ray_session", lambda address: nullcontext(2))
    monkeypatch.setattr(sweep, "_room", lambda trials, workers: 1)
    monkeypatch.setattr(sweep, "_run_all", lambda jobs, room, report: {})
    found = {"key1": curve(1.0), "key2": None, "key3": curve(0.9)}
    monkeypatch.setattr(sweep, "trial_result", lambda folder: found[folder.name])
    done = run_sweep("clips", trials, mlflow_home / "store")
    assert [trial.number for trial in done.trials] == [3, 1]
    assert done.failed == {2: "trained, but its validation failed"}
    found["key1"] = None
    with pytest.raises(BitreelError, match="failed: trained, but its validation failed"):
        run_sweep("clips", trials, mlflow_home / "store")


@pytest.fixture
def _ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={
            "worker_process_setup_hook": "tests.trainers.tiny_codec.install",
            "env_vars": {"PYTHONPATH": str(ROOT)},
        },
    )
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_ray")
def test_trials_are_trained_once_and_ranked_by_their_files(mlflow_home: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", held_out=3)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        "batch_size = 2\nlog_every = 1\npictures_every = 4\ncheckpoint_every = 4\n"
        "validate_clips = 2\nvalidate_crop = 32\nvalidate_frames = 2\nvalidate_qps = [0, 21, 42, 63]\n"
        '[codec]\nfamily = "tiny"\n[[phases]]\nname = "p"\nsteps = 8\nlearning_rate = 1e-3\ncrop = 32\n'
    )
    trials = make_trials(str(recipe), store, ["seed=3"], ["phases.0.grad_clip=0.5,1", "phases.0.steps=4,8"])
    first = run_sweep("clips", trials[:3], store, parallel=2)
    assert not first.failed and sorted(trial.number for trial in first.trials) == [1, 2, 3]
    assert all(trial.result.step in (4, 8) and len(trial.result.points) == 4 for trial in first.trials)

    client = connect()
    experiment = client.get_experiment_by_name("bitreel")
    assert experiment is not None
    below = f"tags.mlflow.parentRunId = '{first.run_id}'"
    runs = client.search_runs([experiment.experiment_id], below)
    assert len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        settings = run.data.params["grid"]
        (trial,) = [trial for trial in first.trials if " ".join(trial.settings) == settings]
        assert run.data.metrics["sweep/rank"] == trial.rank
        assert run.data.metrics["validation/qp63/bpp"] == trial.result.points[-1].bpp
        assert run.data.metrics["learning_rate"] == 1e-3
    parent = client.get_run(first.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["bitreel.best_trial"] == str(first.trials[0].number)
    assert [file.path for file in client.list_artifacts(first.run_id, "sweep")] == ["sweep/ranking.json"]

    # Again, with a point more: only that one is trained.
    folder = mlflow_home / "runs" / "sweeps" / "clips" / TRIALS
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/run.json")}
    second = run_sweep("clips", trials, store, parallel=2)
    assert second.run_id == first.run_id and len(second.trials) == 4
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [t.rd_cost for t in second.trials if t.number < 4] == [t.rd_cost for t in first.trials]
    assert len(client.search_runs([experiment.experiment_id], below)) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_line_sweeps_a_real_recipe(mlflow_home: Path) -> None:
    """Rendered videos, ingested; two trials of the demo's recipe, ranked by the files of the held-out video."""
    videos, path = mlflow_home / "videos", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    videos.mkdir()
    render_demo_videos(videos, 3, 8, (64, 64))

    def bitreel(*arguments: str) -> str:
        command = [sys.executable, "-m", "infra.cli", *arguments]
        environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "160"}
        done = subprocess.run(command, cwd=mlflow_home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    bitreel("ingest", "videos", "--store", "clips", "--clip-frames", "4")
    settings = {
        "scale_steps": 0.05, "batch_size": 1, "phases.0.crop": 32, "phases.0.clip_frames": 2, "validate_clips": 1,
        "validate_frames": 2, "validate_crop": 64,
    }  # fmt: skip
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    grid = ("--grid", "phases.0.learning_rate=[1e-4,1e-5],[1e-2,1e-2]")
    said = bitreel(
        "sweep", "innvc-demo", "--store", "clips", *grid, *changes, "--name", "rates", "--json", "found.json"
    )
    found = json.loads((mlflow_home / "found.json").read_text())
    assert f"rates, ranked by {found['ranked_by']}" in " ".join(said.split())
    assert [trial["rank"] for trial in found["trials"]] == [1, 2] and found["failed"] == {}
    results = [trial["result"] for trial in found["trials"]]
    assert {result["step"] for result in results} == {4} and len({result["model_hash"] for result in results}) == 2
    assert all([point["qp"] for point in result["points"]] == [0, 9, 18, 27, 36, 45, 54, 63] for result in results)
    key = "bd_rate" if found["ranked_by"] == BY_BD_RATE else "rd_cost"
    assert found["trials"][0][key] <= found["trials"][1][key]

    client = connect()
    (experiment,) = client.search_experiments(filter_string="name = 'bitreel'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_id == found["run_id"] and len(runs) == 3
    assert parent.data.tags["bitreel.best_trial"] == str(found["trials"][0]["number"])
    for run in runs:
        assert run.info.status == "FINISHED"
        if run is not parent:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            (trial,) = [t for t in found["trials"] if " ".join(t["settings"]) == run.data.params["grid"]]
            assert run.data.metrics["sweep/rank"] == trial["rank"]
            assert run.data.metrics["validation/rd_cost"] == trial["result"]["rd_cost"]
