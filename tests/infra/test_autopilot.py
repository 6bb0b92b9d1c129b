"""The autopilot with real evaluations: better is promoted, worse refused with its reason, a lost point is no score."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codec.api import load_codec, save_codec
from codec.builtin import builtin_models
from codec.errors import BitreelError, UsageError
from codec.folder_lock import only_writer
from infra.autopilot import AutopilotSettings, fly
from infra.registry import get_version, list_versions, record_scores, register_version, set_alias
from infra.tracking import start_run, tracking_uri
from tests.infra.moving_clips import moving_clip
from tests.infra.ray_head import running_head

GATE = """
[[rules]]
score = "decode_hash_failures"
max = 0
[[rules]]
score = "bd_rate_vs_champion"
max = 0
against = "champion"
"""
QPS = "4,14,24,34,44,54"


@pytest.fixture(autouse=True)
def _home(mlflow_home: Path) -> None:
    Path("gate.toml").write_text(GATE)
    moving_clip(Path("clip.y4m"), 64, 64, 3)


def new_version(noise: float) -> int:
    """The built-in model, with its weights disturbed so that it wants more bits."""
    codec = load_codec(builtin_models()["innvc-small"])
    generator = torch.Generator().manual_seed(int(1000 * noise))
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if "prior" in name and parameter.dim() > 1:
                parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
    save_codec(codec, Path("checkpoint"))
    return register_version("cams", Path("checkpoint"), start_run("made").run_id)


def settings(address: str | None = None, video: str = "clip.y4m") -> AutopilotSettings:
    options = (f"--qps={QPS}", "--anchors=", "--frames=3", f"--videos={Path(video).absolute()}")
    return AutopilotSettings("cams", options, gate=str(Path("gate.toml").absolute()), address=address)


def look(said: list[str] | None = None, **how: str) -> dict[int, str]:
    return fly(settings(**how), (said if said is not None else []).append, once=True).outcomes


def aliases() -> dict[str, int]:
    return {alias: version.version for version in list_versions("cams") for alias in version.aliases}


def test_one_autopilot_a_folder_and_nothing_to_do() -> None:
    new_version(0.1)
    record_scores("cams", 1, {}, {"autopilot": "refused: a rule"})
    assert look() == {}
    with (
        only_writer(Path("runs/autopilot"), "busy"),
        pytest.raises(BitreelError, match="another autopilot works in 'runs/autopilot'"),
    ):
        look()
    with pytest.raises(UsageError, match="no model 'dogs'"):
        fly(AutopilotSettings("dogs", ()), print, once=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_better_is_promoted_worse_refused_and_nothing_done_twice() -> None:
    new_version(0.5)
    said: list[str] = []
    assert look(said) == {1: "promoted"} and aliases() == {"champion": 1}
    new_version(0.0)
    new_version(0.25)
    assert look(said) == {2: "promoted", 3: "refused: bd_rate_vs_champion"}, said
    assert aliases() == {"champion": 2, "previous": 1}
    better, worse = (get_version("cams", number).scores["bd_rate_vs_champion"] for number in "23")
    assert better < 0 < worse
    assert any("not promoted: bd_rate_vs_champion failed" in line for line in said)
    before = {path: path.stat().st_mtime_ns for path in Path("runs/autopilot").rglob("*") if path.is_file()}
    assert look() == {}
    after = {path: path.stat().st_mtime_ns for path in Path("runs/autopilot").rglob("*") if path.name != ".lock"}
    assert all(after[path] == stamp for path, stamp in before.items() if path.name != ".lock"), "nothing ran again"

    # One that was cut off after its evaluation and before the gate is judged without another evaluation.
    new_version(0.25)
    assert look() == {4: "refused: bd_rate_vs_champion"}
    record_scores("cams", 4, {}, {"autopilot": "evaluating"})
    said.clear()
    assert look(said) == {4: "refused: bd_rate_vs_champion"}
    assert not any("evaluating" in line for line in said)

    # A version whose evaluation loses a point has no score at all.
    broken = Path("broken.y4m")
    broken.write_bytes(Path("clip.y4m").read_bytes()[:5000])
    new_version(0.0)
    set_alias("cams", "challenger", 5)
    said.clear()
    assert look(said, video="broken.y4m") == {5: "failed: 3 evaluations came to nothing"}
    assert get_version("cams", "5").scores == {} and aliases() == {"champion": 2, "previous": 1}
    assert sum("the evaluation failed: bitreel:" in line for line in said) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_evaluations_as_jobs_of_a_cluster(tmp_path: Path) -> None:
    new_version(0.0)
    command = [
        sys.executable, "-m", "infra.cli", "autopilot", "--name", "cams", "--videos", "clip.y4m", "--qps", QPS,
        "--anchors", "", "--frames", "3", "--gate", str(Path("gate.toml").absolute()), "--once", "--json", "done.json",
    ]  # fmt: skip
    with running_head() as address:
        environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri()}
        done = subprocess.run([*command, "--address", address], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(Path("done.json").read_text())["outcomes"] == {"1": "promoted"}
        assert "submitted" in done.stdout
        again = subprocess.run([*command, "--address", address], env=environment, capture_output=True, text=True)
        assert "nothing new" in again.stdout
