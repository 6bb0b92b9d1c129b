"""`bitreel train` as a process that is told to end at several moments: how its run stands then, what is left of it, and
that it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from codec.api import load_codec
from codec.builtin import builtin_models
from infra.tracking import connect
from tests.trainers.small_store import make_store
from trainers.validation import waiting_validations

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parent.parent.parent
SETTINGS = (
    *("batch_size=2", "phases.0.crop=32", "phases.0.clip_frames=2", "phases.0.warmup_steps=0"),
    *("log_every=1", "checkpoint_every=50", "validate_every=50"),
    *("validate_frames=2", "validate_crop=32", "validate_clips=3"),
)
ALL_QPS = f"validate_qps={list(range(64))}"  # long enough to be met in the middle


class Training:
    """One in `folder`, in a process group of its own, as a scheduler starts it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"
        if not (folder / "store").exists():
            make_store(folder / "store", held_out=3)
        command = [sys.executable, "-m", "infra.cli", "train", "innvc-demo", "--store", str(folder / "store")]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.said = folder / "said.txt"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [*command, *(part for setting in SETTINGS for part in ("--set", setting)), *options],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": path, "MLFLOW_TRACKING_URI": self.uri},
                stderr=said,
                start_new_session=True,
            )
        self.children: dict[int, psutil.Process] = {}

    @property
    def run(self) -> Path:
        return next((self.folder / "runs" / "train").glob("*"), self.folder / "none")

    def steps(self) -> int:
        try:
            return int(json.loads((self.run / "progress.json").read_text())["step"])
        except FileNotFoundError:
            return 0

    def trains(self) -> bool:
        """Whether a worker is there; notes all that are."""
        self.children |= {child.pid: child for child in psutil.Process(self.process.pid).children(recursive=True)}
        return any("TrainWorker" in " ".join(child.cmdline()) for child in self.children.values() if alive(child))

    def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            assert self.process.poll() is None, self.said.read_text()
            self.trains()
            time.sleep(0.05)

    def end(self, had_children: bool = True) -> int:
        """Its exit status; nothing that it started is there any more."""
        status = self.process.wait(600)
        until = time.monotonic() + 30
        while any(alive(child) for child in self.children.values()) and time.monotonic() < until:
            time.sleep(0.1)
        assert (self.children or not had_children) and not [
            child.cmdline() for child in self.children.values() if alive(child)
        ]
        return status

    def status(self) -> str:
        client = connect(self.uri)
        (run,) = client.search_runs([client.get_experiment_by_name("bitreel").experiment_id])  # type: ignore[union-attr]
        return str(run.info.status)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_while_ray_starts_it_ends_at_once_and_knows_the_weights_it_was_given(tmp_path: Path) -> None:
    steps = ("--set", "phases.0.steps=4", "--set", "phases.0.learning_rate=0")
    training = Training(tmp_path, *steps, "--from", "innvc-small")
    training.until(lambda: (training.run / "run.json").exists())
    training.process.send_signal(signal.SIGTERM)
    assert training.end(had_children=False) == 1 and training.status() == "KILLED"
    assert f"was stopped; go on with --resume {training.run.name}" in training.said.read_text()

    again = Training(tmp_path, *steps, "--resume", training.run.name)
    assert again.process.wait(600) == 0, again.said.read_text()
    end = load_codec(training.run / "checkpoints" / "step-00000004")
    assert end.model_hash() == load_codec(builtin_models()["innvc-small"]).model_hash()


def test_before_the_first_step_it_ends_at_once(tmp_path: Path) -> None:
    training = Training(tmp_path, "--set", "phases.0.steps=4")
    training.until(lambda: (training.run / "clips.parquet").exists())
    training.process.send_signal(signal.SIGTERM)
    assert training.end() == 1 and training.status() == "KILLED"
    assert f"was stopped; go on with --resume {training.run.name}" in training.said.read_text()
    assert training.steps() == 0


def test_in_mid_training_the_whole_group_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    training = Training(tmp_path, "--set", "phases.0.steps=2000", "--set", "validate_qps=[0]")
    training.until(lambda: training.steps() >= 2)
    os.killpg(training.process.pid, signal.SIGTERM)
    assert training.end() == 1 and training.status() == "KILLED"
    assert f"of 2000; go on with --resume {training.run.name}" in training.said.read_text()
    reached = training.steps()
    (checkpoint,) = (training.run / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{reached:08d}"  # what was done is saved, though no checkpoint was due

    again = Training(
        tmp_path, "--set", "phases.0.steps=2000", "--set", "validate_qps=[0]", "--resume", training.run.name
    )
    again.until(lambda: again.steps() > reached)
    assert again.status() == "RUNNING"
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == 1 and again.status() == "KILLED"


def test_while_it_validates_it_ends_and_validates_when_it_goes_on(tmp_path: Path) -> None:
    training = Training(tmp_path, "--set", "phases.0.steps=2", "--set", ALL_QPS)
    training.until(lambda: bool(waiting_validations(training.run)))
    training.until(lambda: not training.trains())
    training.process.send_signal(signal.SIGTERM)
    assert training.end() == 1 and training.status() == "KILLED"
    assert "was stopped with 1 validations to do" in training.said.read_text()
    assert waiting_validations(training.run)

    again = Training(tmp_path, "--set", "phases.0.steps=2", "--set", "validate_qps=[0]", "--resume", training.run.name)
    again.until(lambda: not waiting_validations(again.run))
    assert again.end() == 0 and again.status() == "FINISHED"
