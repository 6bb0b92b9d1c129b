"""What may never happen: foreign code run, foreign paths followed, secrets told, doors opened."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

import infra.ray_jobs
from codec.api import CONFIG_FILE, WEIGHTS_FILE, create_codec, load_codec, save_codec
from codec.errors import BitreelError
from infra.outbox import Outbox
from infra.ray_jobs import RayJobs
from infra.registry import ModelVersion, cache_folder, fetch_version, get_version, register_version
from infra.tracking import TrackedRun, connect, note_run, noted_run, start_run, without_logins

ROOT = Path(__file__).parents[2]
PACKAGES = ("codec", "pipeline", "trainers", "infra", "benchmarks")
# Modules whose loading runs what a file says, and calls that do, or that follow the paths of an archive.
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = {
    "eval", "exec", "compile", "os.system", "os.popen", "torch.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "pandas.read_pickle", "shutil.unpack_archive", "mlflow.pytorch.load_model",
    "mlflow.pyfunc.load_model",
}  # fmt: skip
UNSAFE_METHODS = {"extractall", "extract"}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Everything in the product's code, with the place where it is."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        inner = _name(node.value)
        return f"{inner}.{node.attr}" if inner else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def test_nothing_loads_code_from_data() -> None:
    wrong = []
    for where, node in nodes():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            wrong += [f"{where}: imports {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = _name(node.func)
        options = {o.arg: o.value.value if isinstance(o.value, ast.Constant) else ... for o in node.keywords}
        if name in UNSAFE_CALLS or name.rpartition(".")[2] in UNSAFE_METHODS:
            wrong.append(f"{where}: {name}")
        if name in ("np.load", "numpy.load") and options.get("allow_pickle") is not False:
            wrong.append(f"{where}: {name} without allow_pickle=False")
        if options.get("shell", False) is not False:
            wrong.append(f"{where}: a shell")
    assert wrong == []


def test_no_command_opens_more_than_loopback() -> None:
    """Cluster files may, within a pod's or a container's own network, and say so; code never does."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert "0.0.0.0" not in path.read_text(), path
    for path in [ROOT / "Makefile", ROOT / "ray_cluster.yaml", *(ROOT / "docs").glob("*.md")]:
        assert "--host 0.0.0.0" not in path.read_text() and "dashboard-host=0.0.0.0" not in path.read_text(), path


@pytest.fixture
def version(mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> ModelVersion:
    monkeypatch.setenv("XDG_CACHE_HOME", str(mlflow_home / "cache"))
    save_codec(create_codec("innvc", {"width": 16, "trunk_blocks": 1}), mlflow_home / "model")
    number = register_version("cams", mlflow_home / "model", start_run("made").run_id)
    return get_version("cams", str(number))


def test_a_registry_can_not_name_folders(version: ModelVersion) -> None:
    """The hash is a tag, which whoever may write to the registry can change; it becomes part of a folder's name."""
    precious = cache_folder().parent / "precious"
    precious.mkdir(parents=True)
    (precious / CONFIG_FILE).write_text("{}")
    (cache_folder() / "cams-").mkdir(parents=True)
    for told in ("/../../precious", "../precious", "ABC", "a" * 63, ""):
        connect().set_model_version_tag("cams", "1", "model_hash", told)
        with pytest.raises(BitreelError, match="no proper model_hash"):
            fetch_version(get_version("cams", "1"))
    with pytest.raises(BitreelError, match="no proper model_hash"):
        fetch_version(replace(version, name="../cams"))
    assert (precious / CONFIG_FILE).is_file(), "nothing was taken away"
    assert [path.name for path in cache_folder().iterdir()] == ["cams-"]


def test_files_of_another_model_are_refused(version: ModelVersion, mlflow_home: Path) -> None:
    other = create_codec("innvc", {"width": 24, "trunk_blocks": 1})
    save_codec(other, mlflow_home / "other")
    (stored,) = mlflow_home.rglob(f"versions/*/{WEIGHTS_FILE}")
    for name in (WEIGHTS_FILE, CONFIG_FILE):  # sound by itself: only the registry knows that it is another
        (stored.parent / name).write_bytes((mlflow_home / "other" / name).read_bytes())
    with pytest.raises(BitreelError, match="are not the registered model"):
        fetch_version(version)
    assert not any(path.is_dir() for path in cache_folder().iterdir()), "none of it is kept"


def test_a_config_names_no_code(mlflow_home: Path) -> None:
    save_codec(create_codec("innvc", {"width": 16, "trunk_blocks": 1}), mlflow_home / "model")
    config = json.loads((mlflow_home / "model" / CONFIG_FILE).read_text())
    (mlflow_home / "model" / CONFIG_FILE).write_text(json.dumps(config | {"family": "os:system"}))
    with pytest.raises(BitreelError, match="os:system"):
        load_codec(mlflow_home / "model")


class _Client:
    """Takes what would be sent to Ray's jobs."""

    def __init__(self, address: str) -> None:
        self.sent: dict[str, object] = {}

    def get_job_info(self, job_id: str) -> object:
        raise RuntimeError(f"Job {job_id} does not exist")

    def submit_job(self, **given: object) -> None:
        self.sent = given


@pytest.mark.parametrize(
    ("uri", "sent"),
    [
        ("https://me:secret@mlflow.example:5000/x", "https://mlflow.example:5000/x"),
        ("https://secret@mlflow.example", "https://mlflow.example"),
        ("postgresql://me:secret@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://me@db/mlflow", "postgresql://me@db/mlflow"),
        (
            "postgresql://db/mlflow?user=me&password=secret&sslmode=require",
            "postgresql://db/mlflow?user=me&sslmode=require",
        ),
        ("https://mlflow.example/x?token=secret#a", "https://mlflow.example/x#a"),
        ("https://me:secret@[mlflow", "https://[mlflow"),
        ("sqlite:////shared/runs/mlflow.db", "sqlite:////shared/runs/mlflow.db"),
    ],
)
def test_jobs_are_told_no_login(uri: str, sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray shows a job's environment to whoever looks at its dashboard."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    client = _Client("")
    monkeypatch.setattr(infra.ray_jobs.RayJobs, "_connect", lambda self: client)
    with pytest.raises(BitreelError, match="submit again"):  # this client forgets at once
        RayJobs("http://127.0.0.1:8265").submit(["bitreel", "models"])
    assert client.sent["runtime_env"] == {"env_vars": {"MLFLOW_TRACKING_URI": sent}}
    assert "secret" not in str(client.sent)


def test_a_server_that_does_not_answer_is_named_without_the_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = "http://me:s3cret@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(BitreelError, match=r"MLflow at 'http://127\.0\.0\.1:9' does not answer") as refused:
        connect()
    assert "s3cret" not in str(refused.value) and "me:" not in str(refused.value)
    outbox = Outbox(uri, "a run", tmp_path / "outbox", "worker")
    outbox._client = MlflowClient(uri, uri)  # one that has answered before
    outbox.append({"kind": "tags", "values": {"a": "b"}})
    outbox.close(3)
    assert "wait on disk" in caplog.text and "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "said", ["no answer from {}", "no answer from {}/api", "no answer at 'db', /x?password=s3cret/api"]
)
def test_what_others_say_of_a_store_tells_no_login(said: str) -> None:
    uri = "postgresql://db/x?password=s3cret"
    told = without_logins(said.format(uri), uri)
    assert told.startswith("no answer") and "s3cret" not in told and "db" in told


def test_a_runs_note_holds_no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies beside checkpoints, on storage that many can read; the login comes back from the environment."""
    uri = "https://me:s3cret@mlflow.example"
    assert note_run(TrackedRun(uri, "a run"), tmp_path).uri == uri
    assert "s3cret" not in (tmp_path / "tracking.json").read_text()
    assert noted_run(tmp_path) == TrackedRun("https://mlflow.example", "a run", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert noted_run(tmp_path) == TrackedRun(uri, "a run", tmp_path)
