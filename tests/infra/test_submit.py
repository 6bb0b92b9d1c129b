"""Commands as Ray jobs: run once, shown again, run again where they failed; clear words where there is no cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from ray.job_submission import JobDetails

from codec.errors import BitreelError, UsageError
from infra.commands import submit
from infra.ray_jobs import RayJobs, dashboard_address, job_id_of
from tests.infra.moving_clips import moving_clip
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
    there = job_id_of(["bitreel", "train", "innvc-small"], Path("/shared"))
    assert (
        there
        != job_id_of(["bitreel", "train", "innvc-small"])
        == job_id_of(["bitreel", "train", "innvc-small"], tmp_path)
    )


class _Jobs:
    """Ray's client for a cluster to which somebody else may hand in the same job a moment before."""

    def __init__(self, raced: bool) -> None:
        self.raced, self.sent = raced, dict[str, str]()

    def get_job_info(self, job_id: str) -> JobDetails:
        if job_id not in self.sent:
            raise RuntimeError(f"Job {job_id} does not exist")
        return JobDetails(type="SUBMISSION", submission_id=job_id, entrypoint="", status="RUNNING")

    def submit_job(self, entrypoint: str, submission_id: str, **_: object) -> None:
        self.sent[submission_id] = entrypoint
        if self.raced:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists. Please use another one.")


def test_the_folder_is_the_heads(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = _Jobs(raced=False)
    monkeypatch.setattr(RayJobs, "_connect", lambda self: jobs)
    app(["submit", "--detach", "--folder", "/shared/our runs", "--", "doctor"], standalone_mode=False)
    job_id = job_id_of(["bitreel", "doctor"], Path("/shared/our runs"))
    assert jobs.sent == {job_id: "cd '/shared/our runs' && exec bitreel doctor"}
    with pytest.raises(UsageError, match="whole path"):
        app(["submit", "--folder", "runs", "--", "doctor"], standalone_mode=False)


@pytest.mark.parametrize("raced", [False, True])
def test_who_came_second_did_not_start_the_job(raced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayJobs, "_connect", lambda self: _Jobs(raced))
    job = RayJobs("http://head:8265").submit(["bitreel", "doctor"])
    assert job.status == "RUNNING" and job.started is not raced


def test_addresses() -> None:
    assert dashboard_address("ray://head:10001") == "http://head:8265"
    assert dashboard_address("http://head:8265/") == "http://head:8265"
    with pytest.raises(UsageError, match="jobs want the dashboard's"):
        dashboard_address("head:6379")


def test_a_login_in_the_address_is_not_told() -> None:
    for address, error in (("http://jane:s3cret@127.0.0.1:9", BitreelError), ("tcp://jane:s3cret@h:1", UsageError)):
        with pytest.raises(error) as told:
            RayJobs(address)
        assert "s3cret" not in str(told.value)


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


# What a job writes is shown while it runs: this job only ends once its first line has been seen here. The quotes tell
# that line from Ray's own, which shows the command.
_FOLLOWS = """
import sys
from pathlib import Path
from infra.ray_jobs import RayJobs

jobs, folder = RayJobs(sys.argv[1]), Path(sys.argv[2])
waits = "echo fir''st; while [ ! -e seen ]; do sleep 0.2; done; echo second"
job = jobs.submit(["bash", "-c", waits], "waits", folder)
text = ""

def tell(more):
    global text
    text += more
    if "first" in text:
        (folder / "seen").touch()

over = jobs.follow("waits", tell)
print(text.split()[-2:], over.status)
"""


@pytest.mark.slow
def test_output_streams_ctrl_c_detaches_and_stop_ends(
    mlflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_home}/runs/mlflow.db")
    video = moving_clip(tmp_path / "a.y4m", 64, 64, 2)
    watch = ["autopilot", "--name", "cams", "--videos", str(video), "--interval", "1"]  # has no end of its own

    def submit(*options: str) -> list[str]:
        return [sys.executable, "-m", "infra.cli", "submit", "--address", head.address, *options, "--", *watch]

    with running_head() as head:
        shown = subprocess.run(
            [sys.executable, "-c", _FOLLOWS, head.address, str(tmp_path)], capture_output=True, text=True, timeout=120
        )
        assert shown.stdout.splitlines()[-1] == "['first', 'second'] SUCCEEDED", shown.stderr

        with subprocess.Popen(submit(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as person:
            assert person.stderr is not None
            assert "submitted" in person.stderr.readline()
            person.send_signal(signal.SIGINT)
            assert "detached; job bitreel-autopilot-" in person.stderr.read()
            assert person.wait(60) == 0
        again = subprocess.run(submit("--detach"), capture_output=True, text=True, timeout=120)
        assert "is there already, running" in again.stderr or "is there already, pending" in again.stderr
        stopped = subprocess.run(submit("--stop"), capture_output=True, text=True, timeout=120)
        assert stopped.returncode == 0 and "to stop" in stopped.stderr
        after = subprocess.run(
            [sys.executable, "-c", _ENDS, head.address, job_id_of(["bitreel", *watch])],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert after.stdout.splitlines()[-1] == "STOPPED", after.stderr


_ENDS = """
import sys, time
from infra.ray_jobs import RayJobs

jobs = RayJobs(sys.argv[1])
until = time.monotonic() + 60
while not jobs.find(sys.argv[2]).is_over and time.monotonic() < until:
    time.sleep(0.5)
print(jobs.find(sys.argv[2]).status)
"""
