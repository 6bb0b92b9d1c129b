"""The autopilot with real evaluations: better is promoted, worse refused with its reason, a lost point is no score."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from codec.api import load_codec, save_codec
from codec.builtin import builtin_models
from codec.errors import BitreelError, UsageError
from codec.folder_lock import only_writer
from infra import autopilot as autopilot_module
from infra.autopilot import AutopilotSettings, fly
from infra.promotion import promote, roll_back
from infra.promotion_journal import PromotionJournal
from infra.registry import ModelVersion, get_version, list_versions, record_scores, register_version, set_alias
from infra.tracking import EXPERIMENT, connect, start_run, tracking_uri
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
        only_writer(Path("runs/autopilot/cams"), "busy"),
        pytest.raises(BitreelError, match="another autopilot for cams works in 'runs/autopilot'"),
    ):
        look()
    # Another model's may work in the same folder.
    register_version("dogs", Path("checkpoint"), start_run("made").run_id)
    record_scores("dogs", 1, {}, {"autopilot": "refused: a rule"})
    with only_writer(Path("runs/autopilot/cams"), "busy"):
        assert fly(AutopilotSettings("dogs", ()), print, once=True).outcomes == {}
    with pytest.raises(UsageError, match="no model 'birds'"):
        fly(AutopilotSettings("birds", ()), print, once=True)


def evaluated(scores: dict[str, float], meanwhile: Callable[[int], object] = lambda number: None) -> Callable[..., str]:
    """In the place of an evaluation: these scores, against the champion it is told. Meanwhile somebody does that."""

    def evaluate(_: object, version: ModelVersion, champion: ModelVersion | None, *rest: object) -> str:
        meanwhile(version.version)
        against = {"compared_with": str(champion.version)} if champion else {}
        record_scores("cams", version.version, scores, against)
        return ""

    return evaluate


SCORES = {"decode_hash_failures": 0.0, "bd_rate_vs_champion": -1.0}


def test_what_was_rolled_back_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopilot_module, "_evaluate", evaluated(SCORES))
    new_version(0.1)
    assert look() == {1: "promoted"}
    new_version(0.2)
    with monkeypatch.context() as killed:  # after the promotion, before it is noted
        killed.setattr(autopilot_module, "_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            look()
    assert aliases() == {"champion": 2, "previous": 1, "challenger": 2}
    assert look() == {} and get_version("cams", "2").tags["autopilot"] == "promoted"
    roll_back("cams")
    assert look() == {} and aliases() == {"champion": 1, "previous": 2}

    new_version(0.3)  # promoted and rolled back by hand
    record_scores("cams", 3, SCORES, {"compared_with": "1"})
    assert promote("cams", "3", gate="gate.toml").moved
    roll_back("cams")
    assert look() == {} and aliases() == {"champion": 1, "previous": 3}


@pytest.mark.parametrize("which", ["2", "3"], ids=["the one that is evaluated", "one that waits"])
def test_what_is_rolled_back_during_a_look_stays_so(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopilot_module, "_evaluate", evaluated(SCORES))
    new_version(0.1)
    assert look() == {1: "promoted"}
    new_version(0.2)
    new_version(0.3)

    def promote_and_roll_back(number: int) -> None:
        if number == 2:
            record_scores("cams", int(which), SCORES, {"compared_with": "1"})
            assert promote("cams", which, gate="gate.toml").moved
            roll_back("cams")

    monkeypatch.setattr(autopilot_module, "_evaluate", evaluated(SCORES, promote_and_roll_back))
    said: list[str] = []
    assert look(said) == {2: "promoted", 3: "promoted"}
    assert aliases()["champion"] == (3 if which == "2" else 2), "the other one passed by itself"
    assert any("has been 'champion' before and was taken back" in line for line in said) is (which == "2")
    assert look() == {}


def test_an_alias_that_is_put_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopilot_module, "_evaluate", evaluated(SCORES))
    new_version(0.1)
    new_version(0.2)
    assert look() == {1: "promoted", 2: "promoted"}
    set_alias("cams", "champion", 1)
    said: list[str] = []
    look(said)
    assert said == ["put right: 'champion' pointed to version 1 and is back at version 2, as the journal says"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_evaluations_that_come_to_nothing_are_tried_again_at_later_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopilot_module, "_evaluate", lambda *_: "the evaluation failed: the folder is gone")
    new_version(0.1)
    assert look() == {1: "waiting: evaluation 1 of 3 came to nothing"}
    assert look() == {1: "waiting: evaluation 2 of 3 came to nothing"}
    why = "the last: the evaluation failed: the folder is gone"
    assert look() == {1: f"failed: 3 evaluations came to nothing; {why}"}
    assert look() == {}


def test_a_version_that_is_deleted_meanwhile_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    new_version(0.1)
    new_version(0.2)

    def delete(_: object, version: ModelVersion, *rest: object) -> str:
        if version.version == 1:
            connect().delete_model_version("cams", "1")
            return "the evaluation failed: no such version"
        raise KeyboardInterrupt  # what a person does in the end

    monkeypatch.setattr(autopilot_module, "_evaluate", delete)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        fly(settings(), said.append, once=False, interval=0.01)
    assert any("trying again" in line for line in said) and any("version 2: evaluating" in line for line in said)


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
    for number in (1, 2):
        assert look(said, video="broken.y4m") == {5: f"waiting: evaluation {number} of 3 came to nothing"}
    (ended,) = look(said, video="broken.y4m").values()
    assert ended.startswith("failed: 3 evaluations came to nothing; the last: ") and "broken.y4m: truncated" in ended
    assert get_version("cams", "5").scores == {} and aliases() == {"champion": 2, "previous": 1}
    assert sum(line.startswith("cams version 5: the evaluation failed: bitreel:") for line in said) == 3


@pytest.mark.slow
def test_where_ray_can_not_be_used_the_version_waits() -> None:
    new_version(0.0)
    nobody = AutopilotSettings("cams", (*settings().evaluate, "--address=127.0.0.1:9"), gate="gate.toml")
    with pytest.raises(BitreelError, match=r"Ray can't be used at 127\.0\.0\.1:9"):
        fly(nobody, print, once=True)
    tags = get_version("cams", "1").tags
    assert tags["autopilot"] == "evaluating" and "autopilot_failures" not in tags


def autopilot(address: str, *more: str) -> list[str]:
    """The command, for a process of its own. Two QPs give no BD-rate, which nothing here is judged by."""
    Path("gate.toml").write_text("[[rules]]\nscore = 'decode_hash_failures'\nmax = 0\n")
    return [
        sys.executable, "-m", "infra.cli", "autopilot", "--name", "cams", "--videos", "clip.y4m", "--qps", "20,44",
        "--anchors", "", "--frames", "3", "--gate", str(Path("gate.toml").absolute()), "--address", address, *more,
    ]  # fmt: skip


def run_once(address: str) -> str:
    """Look once and give what it said."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri()}
    command = autopilot(address, "--once", "--json", "done.json")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_evaluations_as_jobs_of_a_cluster() -> None:
    new_version(0.0)
    with running_head() as head:
        assert "submitted" in run_once(head.address)
        assert json.loads(Path("done.json").read_text())["outcomes"] == {"1": "promoted"}
        assert "nothing new" in run_once(head.address)


class Flying:
    """An autopilot that goes on until it is killed, and what it says."""

    def __init__(self, address: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                autopilot(address, "--interval", "2"), stdout=out, stderr=out,
                env=os.environ | {"MLFLOW_TRACKING_URI": tracking_uri()},
            )  # fmt: skip

    def __enter__(self) -> Flying:
        return self

    def __exit__(self, *_: object) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait(20)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 900  # on a machine that others fill
        while not until():
            assert self._process.poll() is None, self.said
            assert time.monotonic() < deadline, f"{what}: still not; {self.said}"
            time.sleep(0.1)


def kept_points() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path("runs/cache/points").glob("[!.]*/point.json")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cluster_and_autopilot_are_lost_and_nothing_is_done_twice() -> None:
    """First the head dies while its job runs, and forgets it; then autopilots die while they wait for the next job."""
    new_version(0.5)
    set_alias("cams", "champion", 1)
    new_version(0.0)
    with running_head(cpus=1) as head:
        with Flying(head.address, Path("first.log")) as first:
            first.wait("a point", lambda: bool(kept_points()))
            head.kill()
            before = kept_points()
            first.wait("it is told", lambda: "can't be reached" in first.said)
            assert get_version("cams", "2").scores == {} and get_version("cams", "2").tags["autopilot"] == "evaluating"
            head.start()
            first.wait("a second job", lambda: first.said.count(": submitted") == 2)
        for number in range(2):  # more often than an evaluation may fail
            with Flying(head.address, Path(f"lost{number}.log")) as lost:
                lost.wait("it found the job", lambda: ": evaluating" in lost.said and "job bitreel-" in lost.said)
                assert ": submitted" not in lost.said
        with Flying(head.address, Path("last.log")) as last:
            last.wait("it is promoted", lambda: "version 2: promoted" in last.said)
            assert ": submitted" not in last.said
        assert "nothing new" in run_once(head.address)
    assert aliases() == {"champion": 2, "previous": 1}
    assert [entry.what for entry in PromotionJournal("cams").entries()] == ["'champion': version 1 → version 2"]
    after = kept_points()
    assert len(after) == 2 * 2, "two models at two QPs"
    assert before and all(after[path] == stamp for path, stamp in before.items()), "what was measured was taken again"
    experiment = connect().get_experiment_by_name(EXPERIMENT).experiment_id
    assert len(connect().search_runs([experiment], "tags.`bitreel.evaluation` = 'cams@2'")) == 1
