"""Evaluations in MLflow: a run with scores, tables, pictures and the report, tied to the model version it judges."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import BitreelError, UsageError
from infra.evaluation_artifacts import evaluation_figures, evaluation_tables
from infra.evaluation_results import RESULTS_FILE, TABLE_FILE, Evaluation
from infra.registry import COMPARED_WITH, ModelVersion, get_version, replace_scores, split_ref
from infra.tracking import ask, connect, end_run, nested_in, start_run, tracking_uri, without_logins

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

EVALUATION_TAG = "bitreel.evaluation"  # on evaluation runs: what was evaluated
SCORES_TAG = "bitreel.scores"  # on the one run of a model that has all its versions' scores
RUN_NOTE = "evaluation_run"  # on versions: the run of their newest evaluation
LOGGED_MODEL = "logged_model"  # on versions: MLflow's logged model that stands for them
_EVALUATED = "Evaluated"
_FOLDER = "evaluation"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def log_evaluation(
    evaluation: Evaluation, report: Path, version: ModelVersion | None = None, champion: ModelVersion | None = None
) -> str:
    """Log an evaluation and give the run's id. `version` gets the scores as tags and the run's id; the run
    is shown below the training that made it.

    The run has the scores as metrics, their step the version's number; tables, figures, the report and the results as
    artifacts; the sequences as datasets, by the hash of their frames; and tags to filter by. Scores of a registered
    version stand in two more places where MLflow compares versions: on its logged model (the experiment's Models page),
    and on one run a model that has a line for each score, a point a version.

    champion: the version that scores against the champion were measured with. Raises BitreelError where MLflow can't
    be reached.
    """
    label = f"{version.name}@{version.version}" if version else str(evaluation.model["name"])
    tags = _tags(evaluation, label, version, champion)
    run = start_run(f"evaluate-{label}", tags=tags | nested_in(version.run_id if version else None))
    client = connect(run.uri)

    def write() -> None:
        for key, value in evaluation.settings.items():
            client.log_param(run.run_id, key, str(value)[:6000])
        client.log_inputs(run.run_id, datasets=_datasets(evaluation))
        model_id = _logged_model(client, run.run_id, version) if version else None
        _log_scores(client, run.run_id, evaluation, version.version if version else 0, model_id)
        for name, columns in evaluation_tables(evaluation).items():
            client.log_table(run.run_id, columns, f"tables/{name}.json")
        for name, svg in evaluation_figures(evaluation).items():
            client.log_text(run.run_id, svg, f"figures/{name}.svg")
        for file in (evaluation.folder / RESULTS_FILE, evaluation.folder / TABLE_FILE, report):
            client.log_artifact(run.run_id, str(file), _FOLDER)
        client.log_artifacts(run.run_id, str(evaluation.folder / "pictures"), f"{_FOLDER}/pictures")

    try:
        ask(run.uri, write)
        if version is not None:
            # Of another model's version the number alone would say that it is this model's champion.
            rival = champion if champion is not None and champion.name == version.name else None
            notes = {RUN_NOTE: run.run_id, **({COMPARED_WITH: str(rival.version)} if rival else {})}
            replace_scores(version.name, version.version, evaluation.scores, notes)
            ask(run.uri, lambda: _show_with_model(client, run.run_id, evaluation, version))
    except BaseException:
        end_run(run, "FAILED")
        raise
    end_run(run)
    return run.run_id


def _tags(
    evaluation: Evaluation, label: str, version: ModelVersion | None, champion: ModelVersion | None
) -> dict[str, str]:
    """Text that MLflow filters runs by (tags.model = 'street-cams'), and the run's description."""
    settings = evaluation.settings
    tags = {
        EVALUATION_TAG: label,
        "model": version.name if version else label,
        "model_hash": evaluation.model["hash"],
        "family": evaluation.model["family"],
        "anchors": ",".join(settings["anchors"]),
        "test_sets": ",".join(settings.get("test_sets", [])),
        "sequences": ",".join(s.source.name for s in evaluation.sequences)[:5000],
    }
    if version is not None:
        tags["model_version"] = str(version.version)
    if champion is not None:
        tags[COMPARED_WITH] = str(champion.version)
    link = f"[{label}](#/models/{version.name}/versions/{version.version})" if version else label
    rivals = {name: f"bd_rate.{name}" for name in settings["anchors"]}
    if champion is not None:
        rivals = {f"the champion, {champion.name}@{champion.version}": "bd_rate_vs_champion", **rivals}
    scores = evaluation.scores
    figures = [
        f"- BD-rate over {rival}: {scores[score]:+.1f} %" if score in scores else f"- BD-rate over {rival}: refused"
        for rival, score in rivals.items()
    ]
    told = {key: text for key, text in tags.items() if text}  # one that says nothing is a blank line on the run's page
    return told | {"mlflow.note.content": "\n".join([f"Evaluation of {link}.", "", *figures])}


def _datasets(evaluation: Evaluation) -> list[DatasetInput]:
    from mlflow.entities import Dataset, DatasetInput

    found = []
    for sequence in evaluation.sequences:
        s = sequence.source
        profile = {
            "width": s.width,
            "height": s.height,
            "frames": s.frame_count,
            "fps": s.fps,
            "downscale": s.downscale,
        }
        source = json.dumps({"uri": s.video})
        found.append(DatasetInput(Dataset(s.name, s.digest[:32], "local", source, profile=json.dumps(profile))))
    return found


def _log_scores(
    client: MlflowClient, run_id: str, evaluation: Evaluation, step: int, model_id: str | None = None
) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    entries = [Metric(key, value, now, step, model_id=model_id) for key, value in evaluation.scores.items()]
    for first in range(0, len(entries), 1000):  # MLflow's limit for one call
        client.log_batch(run_id, metrics=entries[first : first + 1000])


def _logged_model(client: MlflowClient, run_id: str, version: ModelVersion) -> str:
    """The version's logged model, made where there is none yet; the run is noted as one that used it."""
    from mlflow.entities import LoggedModelInput

    model_id = version.tags.get(LOGGED_MODEL, "")
    if not model_id:
        experiment = client.get_run(run_id).info.experiment_id
        tags = {"model": version.name, "model_version": str(version.version), "model_hash": version.model_hash}
        name = f"{version.name}-{version.version}".replace(".", "_")  # MLflow takes no dots there
        made = client.create_logged_model(experiment, name, version.run_id or None, tags, model_type="bitreel")
        client.finalize_logged_model(made.model_id, "READY")
        model_id = str(made.model_id)
        client.set_model_version_tag(version.name, str(version.version), LOGGED_MODEL, model_id)
    client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    return model_id


def _show_with_model(client: MlflowClient, run_id: str, evaluation: Evaluation, version: ModelVersion) -> None:
    """The score by version on the model's own run, and a link to the evaluation on the version's page."""
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`{SCORES_TAG}` = '{version.name}'", order_by=["start_time ASC"])
    if found:
        by_version = found[0].info.run_id
    else:
        tags = {SCORES_TAG: version.name, "model": version.name}
        by_version = client.create_run(experiment, run_name=f"scores-{version.name}", tags=tags).info.run_id
        client.set_terminated(by_version)
    _log_scores(client, by_version, evaluation, version.version)
    said = client.get_model_version(version.name, str(version.version)).description or ""
    if not said or said.startswith(_EVALUATED):  # a person's own words stay
        text = f"{_EVALUATED} [here](#/experiments/{experiment}/runs/{run_id})."
        client.update_model_version(version.name, str(version.version), text)


@contextmanager
def find_evaluation(ref: str) -> Iterator[Evaluation]:
    """An evaluation by folder, MLflow run id, or model version (`name@7`; a bare name is the newest version).

    Fetched files go when the context ends. Raises UsageError where there is none.
    """
    if Path(ref).is_dir():
        yield Evaluation.load(Path(ref))
        return
    if _RUN_ID.fullmatch(ref):
        run_id = ref
    else:
        if ref.startswith((".", "/", "~")) or ref.endswith("/"):
            raise UsageError(
                f"no evaluation at '{ref}': expected a folder with {RESULTS_FILE}, a run id or NAME@VERSION"
            )
        version = get_version(*split_ref(ref))
        run_id = version.tags.get(RUN_NOTE, "")
        if not run_id:
            name = f"{version.name}@{version.version}"
            raise UsageError(f"{name} was not evaluated yet; do `bitreel evaluate --model {name} --videos …`")
    with tempfile.TemporaryDirectory(prefix="bitreel-evaluation-") as scratch:
        yield Evaluation.load(_download(run_id, Path(scratch)))


def _download(run_id: str, target: Path) -> Path:
    from mlflow.exceptions import MlflowException

    client = connect()
    try:
        return Path(ask(tracking_uri(), lambda: client.download_artifacts(run_id, _FOLDER, str(target))))
    except (MlflowException, OSError) as error:
        reason = without_logins(str(error), tracking_uri()).splitlines()[0]
        raise BitreelError(f"run '{run_id}' holds no evaluation that can be fetched: {reason}") from error
