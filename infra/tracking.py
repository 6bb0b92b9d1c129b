"""MLflow: where it is, how to reach it, and how runs are started, found and ended."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError
from trainers.recipe import Recipe
from trainers.schedule import plan_table

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from infra.training_tracker import TrainingTracker

# A dead server must be told in seconds, not after MLflow's many patient tries. Read by MLflow at each request.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results

EXPERIMENT = "bitreel"
RUN_TAG = "bitreel.training"  # on training runs: the name that --resume takes
OUTBOX = "tracking"  # below a training's folder
RUN_NOTE = "tracking.json"  # in a training's folder: which run in MLflow is its own
RUNS_FOLDER = Path("runs")  # below the current folder: the default database, its artifacts, training runs

_RUN_REF = re.compile(r"[A-Za-z0-9._-]+")
_LOGIN = re.compile(r"(?<=://)[^/\s'\"]*@")  # in any URI of a text
_SECRET_KEY = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)  # in a URI's query
_T = TypeVar("_T")


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI where set, else an SQLite file at runs/mlflow.db below the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(Path.cwd() / RUNS_FOLDER / 'mlflow.db').resolve()}"


def without_login(uri: str) -> str:
    """A URI without what lets one in, for all that is shown or written down."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # what can't be taken apart is shown without anything that looks like a login
        return _LOGIN.sub("", uri)
    shown = uri
    if parts.password is not None or (parts.scheme.startswith("http") and parts.username):
        shown = shown.replace(f"//{parts.netloc}", f"//{parts.netloc.rpartition('@')[2]}", 1)
    pairs = parts.query.split("&")
    kept = [pair for pair in pairs if not _SECRET_KEY.search(pair.partition("=")[0])]
    if len(kept) < len(pairs):
        shown = shown.replace(f"?{parts.query}", f"?{'&'.join(kept)}" if kept else "", 1)
    return shown


def without_logins(text: str, uri: str) -> str:
    """What MLflow or the network said of the store at `uri`, without what lets one in there."""
    text = _LOGIN.sub("", text.replace(uri, without_login(uri)))
    for pair in re.split("[?&#]", uri)[1:]:  # a path may be named alone
        key, _, value = pair.partition("=")
        if value and _SECRET_KEY.search(key):
            text = text.replace(pair, f"{key}=…")
    return text


def connect(uri: str | None = None) -> MlflowClient:
    """A client for tracking and registry; makes the default database where there is none yet.

    Raises BitreelError where a server does not answer or the database can't be opened.
    """
    uri = uri or tracking_uri()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic"):  # after the import, which sets MLflow's own level
            logging.getLogger(noisy).setLevel(logging.ERROR)
        return ask(uri, lambda: _checked(MlflowClient(tracking_uri=uri, registry_uri=uri)))


def ask(uri: str, question: Callable[[], _T]) -> _T:
    """The answer of a call to MLflow. A store that can't be reached becomes a BitreelError that says so; MLflow's own
    refusals (RestException and the like, which have an error code) pass through."""
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return question()
    except RestException:
        raise
    except (RequestException, SQLAlchemyError, MlflowException) as error:
        said = without_logins(str(error), uri)  # before it is cut, which could leave half a login
        first = said.splitlines()[0][:200] if said else type(error).__name__
        if isinstance(error, MlflowException) and "API request to" not in first and "database" not in first.lower():
            raise
        raise BitreelError(
            f"MLflow at '{without_login(uri)}' does not answer; start it or set MLFLOW_TRACKING_URI to one that runs "
            f"({first})"
        ) from error


def _checked(client: MlflowClient) -> MlflowClient:
    client.search_experiments(max_results=1)
    return client


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow. Can be pickled; `open` gives what rank 0 of a training logs through, by way of the outbox in
    `folder`, the training's own."""

    uri: str
    run_id: str
    folder: Path | None = None

    def open(self) -> TrainingTracker:
        return self.open_as("worker", sample_system=True)

    def open_as(self, writer: str, sample_system: bool = False) -> TrainingTracker:
        """The same for another kind of process; see `infra.outbox`."""
        from infra.outbox import Outbox
        from infra.training_tracker import TrainingTracker

        if self.folder is None:
            raise ValueError("a run without a folder has no outbox")
        return TrainingTracker(Outbox(self.uri, self.run_id, self.folder / OUTBOX, writer), sample_system)


def start_run(name: str, uri: str | None = None, tags: dict[str, str] | None = None) -> TrackedRun:
    """Start a run in Bitreel's experiment. Raises BitreelError where MLflow can't be reached."""
    uri = uri or tracking_uri()
    client = connect(uri)

    def create() -> str:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=_artifact_location(uri))
        return str(client.create_run(experiment_id, run_name=name, tags=tags or {}).info.run_id)

    return TrackedRun(uri, ask(uri, create))


def start_training_run(
    recipe: Recipe, name: str, facts: dict[str, Any], folder: Path, parent: TrackedRun | None = None
) -> TrackedRun:
    """Start a run for a training: parameters, the plan as text and JSON. `facts` are further parameters, `folder` is
    where the training lives; below `parent` and where that is, if given.

    Raises BitreelError where MLflow can't be reached.
    """
    uri, above = (parent.uri, parent.run_id) if parent else (None, None)
    run = start_run(name, uri, {RUN_TAG: name} | nested_in(above))
    client = connect(run.uri)
    params = _parameters(recipe) | {key: str(value) for key, value in facts.items()}

    def log() -> None:
        from mlflow.entities import Param

        entries = [Param(key, value[:6000]) for key, value in sorted(params.items())]
        for first in range(0, len(entries), 100):  # MLflow's limit for one call
            client.log_batch(run.run_id, params=entries[first : first + 100])
        client.log_text(run.run_id, plan_table(recipe) + "\n", "plan.txt")
        client.log_text(run.run_id, json.dumps(recipe.to_dict(), indent=2) + "\n", "plan.json")

    ask(run.uri, log)
    return note_run(run, folder)


def nested_in(parent: str | None) -> dict[str, str]:
    """Tags of a run that MLflow shows below another."""
    return {"mlflow.parentRunId": parent} if parent else {}


def note_run(run: TrackedRun, folder: Path) -> TrackedRun:
    """Write down in `folder` which run is its own, without a login; the run, with that folder."""
    write_json_atomically(folder / RUN_NOTE, {"uri": without_login(run.uri), "run_id": run.run_id})
    return TrackedRun(run.uri, run.run_id, folder)


def noted_run(folder: Path) -> TrackedRun | None:
    """The run of the training in `folder`, without asking MLflow; None where nothing there says.

    MLFLOW_TRACKING_URI, where set, goes before the place that the training began with: servers move, and a login is
    not written down.
    """
    try:
        note = json.loads((folder / RUN_NOTE).read_text())
        return TrackedRun(os.environ.get("MLFLOW_TRACKING_URI") or note["uri"], note["run_id"], folder)
    except (OSError, ValueError, KeyError):
        return None


def find_training_run(ref: str) -> tuple[TrackedRun, str] | None:
    """The newest training run of that name, or with that id, and its name; None where there is none."""
    uri = tracking_uri()
    client = connect(uri)
    experiment = ask(uri, lambda: client.get_experiment_by_name(EXPERIMENT))
    if experiment is None or not _RUN_REF.fullmatch(ref):
        return None
    for where in (f"tags.`{RUN_TAG}` = '{ref}'", f"attributes.run_id = '{ref}'"):
        found = client.search_runs([experiment.experiment_id], where, max_results=1)
        if found and RUN_TAG in found[0].data.tags:
            return TrackedRun(uri, found[0].info.run_id), found[0].data.tags[RUN_TAG]
    return None


def end_run(run: TrackedRun, status: str = "FINISHED") -> None:
    """Close a run that is no training: FINISHED, FAILED or KILLED. Those end by `infra.run_lifetime`."""
    ask(run.uri, lambda: connect(run.uri).set_terminated(run.run_id, status))


def _artifact_location(uri: str) -> str | None:
    """Beside an SQLite file; a server decides by itself."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").resolve().as_uri()


def _parameters(recipe: Recipe) -> dict[str, str]:
    """The recipe as flat parameters: `batch_size`, `codec.config.width`, `phases.0.steps`, …"""
    flat: dict[str, str] = {}

    def walk(value: Any, place: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{place}.{key}" if place else key)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                walk(item, f"{place}.{index}")
        else:
            flat[place] = str(value)

    walk(recipe.to_dict(), "")
    return flat
