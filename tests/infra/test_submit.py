"""Commands as Ray jobs: run once, shown again, run again where they failed; clear words where there is no cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from codec.errors import BitreelError, UsageError
from infra.commands import submit
from infra.ray_jobs import dashboard_address, job_id_of
from tests.infra.ray_head import running_head


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    submit.register(made)
    made.callback()(lambda: None)  # so that the one command keeps its name
    return made


def test_ids_follow_from_command_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = job_id_of(["bitreel", "train", "innvc-small"])
    assert here == job_id_of(["bitreel", "train", "innvc-small"]) and here.startswith("bitreel-train-")
    assert here != job_id_of(["bitreel", "train", "innvc-base"])
    monkeypatch.chdir(tmp_path)
    assert here != job_id_of(["bitreel", "train", "innvc-small"])


def test_addresses() -> None:
    assert dashboard_address("ray://head:10001") == "http://head:8265"
    assert dashboard_address("http://head:8265/") == "http://head:8265"
    with pytest.raises(UsageError, match="jobs want the dashboard's"):
        dashboard_address("head:6379")


def test_no_cluster(app: typer.Typer) -> None:
    with pytest.raises(BitreelError, match=r"can't be reached.*docs/cluster\.md"):
        app(["submit", "--address", "http://127.0.0.1:9", "--", "doctor"], standalone_mode=False)
    with pytest.raises(UsageError, match="after `--`"):
        app(["submit", "--", "bitreel"], standalone_mode=False)


@pytest.mark.slow
def test_jobs_on_a_real_head(mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own, as Ray reads its token once a process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_home}/runs/mlflow.db")

    def run(*command: str) -> tuple[int, str, str]:
        words = [sys.executable, "-m", "infra.cli", "submit", "--address", head.address, "--", *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=200)
        return done.returncode, done.stdout, done.stderr

    with running_head() as head:
        status, out, err = run("models")
        assert (status, "submitted" in err) == (0, True), err
        assert "innvc-small" in out
        status, out, err = run("models")
        assert status == 0 and "innvc-small" in out and "is there already, succeeded" in err
        status, out, err = run("models", "dogs")
        assert status == 1 and "no model 'dogs'" in out and "failed" in err
        assert "submitted" in run("models", "dogs")[2], "one that failed runs again"
