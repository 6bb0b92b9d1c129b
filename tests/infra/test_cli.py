"""The command line as a whole: exit status and one clear line for wrong usage, help for every command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codec.api import create_codec, save_codec
from infra.cli import COMMANDS, run
from tests.infra.moving_clips import moving_clip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode"], "Missing argument"),
        (["bogus"], "No such command"),
        (["encode", "a", "b.brl", "--model", "m", "--qp", "abc"], "--qp"),
        (["encode", "a", "b.brl", "--model", "m", "--qp", "64"], "--qp 64"),
        (["decode", "none.brl", "out.y4m"], "no stream at"),
        (["train", "innvc-demo", "--store", "nowhere"], "nowhere"),
        (["ingest", "nowhere", "--store", "clips"], "nowhere"),
        (["ingest", "nowhere", "--store", "clips", "--held-out", "ten"], "two shares"),
        (["ingest", "nowhere", "--store", "clips", "--held-out", "0.5,0.5"], "something to train on"),
    ],
)
def test_wrong_usage_is_status_2_and_one_line(
    arguments: list[str], said: str, mlflow_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said_here = [text for text in capsys.readouterr().err.splitlines() if text.startswith("bitreel: ")]
    assert len(said_here) == 1 and said in said_here[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command == "store":
        assert run(["store", "ls", "--help"]) == 0
    else:
        assert run([command, "--help"]) == 0
    assert "xample" in capsys.readouterr().out


def test_sigterm_leaves_nothing_half_written(tmp_path: Path) -> None:
    clip = moving_clip(tmp_path / "clip.y4m", 176, 144, 60)
    save_codec(create_codec("innvc", {}), tmp_path / "model")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "infra.cli", "encode", str(clip), str(out / "a.brl"), "--model"]
    running = subprocess.Popen(
        [*command, str(tmp_path / "model"), "--qp", "60"], env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    for _ in range(600):
        if out.is_dir() and any(out.iterdir()):
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 143
    assert not list(out.iterdir())
