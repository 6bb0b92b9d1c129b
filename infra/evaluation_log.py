"""Evaluations in MLflow: a run with scores, tables, pictures and the report, tied to the model version it judges."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codec.errors import BitreelError, UsageError
from infra.evaluation_results import RESULTS_FILE, TABLE_FILE, Evaluation
from infra.promotion import COMPARED_WITH
from infra.registry import ModelVersion, get_version, record_scores, split_ref
from infra.tracking import ask, connect, end_run, nested_in, start_run, tracking_uri

EVALUATION_TAG = "bitreel.evaluation"  # on evaluation runs: what was evaluated
RUN_NOTE = "evaluation_run"  # on versions: the run of their newest evaluation
_FOLDER = "evaluation"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def log_evaluation(
    evaluation: Evaluation, report: Path, version: ModelVersion | None = None, champion: ModelVersion | None = None
) -> str:
    """Log an evaluation and give the run's id. `version` gets the scores as tags and the run's id; the run
    is shown below the training that made it.

    champion: the version that scores against the champion were measured with. Raises BitreelError where MLflow can't
    be reached.
    """
    label = f"{version.name}@{version.version}" if version else str(evaluation.model["name"])
    tags = {EVALUATION_TAG: label, "model_hash": evaluation.model["hash"]}
    run = start_run(f"evaluate-{label}", tags=tags | nested_in(version.run_id if version else None))
    client = connect(run.uri)

    def write() -> None:
        for key, value in evaluation.settings.items():
            client.log_param(run.run_id, key, str(value)[:6000])
        for key, value in evaluation.scores.items():
            client.log_metric(run.run_id, key, value)
        for file in (evaluation.folder / RESULTS_FILE, evaluation.folder / TABLE_FILE, report):
            client.log_artifact(run.run_id, str(file), _FOLDER)
        client.log_artifacts(run.run_id, str(evaluation.folder / "pictures"), f"{_FOLDER}/pictures")

    try:
        ask(run.uri, write)
        if version is not None:
            notes = {RUN_NOTE: run.run_id, **({COMPARED_WITH: str(champion.version)} if champion else {})}
            record_scores(version.name, version.version, evaluation.scores, notes)
    except BaseException:
        end_run(run, "FAILED")
        raise
    end_run(run)
    return run.run_id


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
        reason = str(error).splitlines()[0]
        raise BitreelError(f"run '{run_id}' holds no evaluation that can be fetched: {reason}") from error
