"""The autopilot: new versions of a model are evaluated and, where the gate holds, promoted, with nobody watching.

    new version ─▶ challenger ─▶ `bitreel evaluate` against the champion of now ─▶ gate ─▶ champion, or refused

All it remembers is in MLflow, as tags of the versions, so it may be stopped and started anywhere, and clusters may
forget their jobs: a version is done when its tag `autopilot` says promoted, refused or failed. Evaluations run as Ray
jobs of one id a version and champion, or here where no cluster is given; what they measured is kept in a folder of that
name, so one that was cut off goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from codec.errors import BitreelError
from codec.folder_lock import only_writer
from infra.evaluation_results import Evaluation
from infra.promotion import DEFAULT_GATE, promote
from infra.promotion_journal import PromotionJournal
from infra.promotion_table import sentence
from infra.ray_jobs import Job, RayJobs
from infra.registry import (
    CHALLENGER,
    CHAMPION,
    COMPARED_WITH,
    ModelVersion,
    drop_alias,
    list_versions,
    record_scores,
    replace_scores,
    set_alias,
)

STATE = "autopilot"  # tag: evaluating, promoted, refused: RULES, failed: REASON
_FAILURES = "autopilot_failures"  # tag: evaluations that failed, against the same champion
_MEASURED = "autopilot_evaluation"  # tag: the evaluation that the scores are of
_FINAL = ("promoted", "refused", "failed")
MOST_FAILURES = 3

Tell = Callable[[str], None]


@dataclass(frozen=True)
class AutopilotSettings:
    """name: the model. evaluate: options of `bitreel evaluate` but --model, --out and --address. out: folder that all
    evaluations lie in. address: of the cluster that evaluations run on as jobs; None: this machine, one at a time."""

    name: str
    evaluate: tuple[str, ...]
    gate: str = DEFAULT_GATE
    out: Path = Path("runs") / "autopilot"
    address: str | None = None


@dataclass
class Round:
    """What one look at the registry did: version → promoted, refused: …, failed: …, or waiting: …"""

    outcomes: dict[int, str] = field(default_factory=dict)


def fly(
    settings: AutopilotSettings, tell: Tell, *, once: bool, interval: float = 60.0, wake: threading.Event | None = None
) -> Round:
    """Judge what is new, oldest first; `once`, or again every `interval` seconds, or when `wake` is set, until
    interrupted.

    What MLflow or the cluster can't do now is told and tried again; with `once` it is raised. Raises UsageError for an
    unknown gate or address, BitreelError where another autopilot of the model and `out` folder is at work.
    """
    from mlflow.exceptions import MlflowException

    own = settings.out / settings.name  # so that each model may have an autopilot in one folder
    own.mkdir(parents=True, exist_ok=True)
    wake = wake or threading.Event()
    told = f"another autopilot for {settings.name} works in '{settings.out}'; stop it, or give another --out"
    with only_writer(own, told):
        while True:
            try:
                done = look_once(settings, tell)
                if once:
                    return done
            except (BitreelError, MlflowException, OSError) as error:
                if once and isinstance(error, MlflowException):
                    raise BitreelError(f"MLflow: {error}") from error
                if once or (isinstance(error, BitreelError) and error.exit_status == 2):
                    raise
                tell(f"{error}; trying again in {interval:g} s")
            wake.wait(interval)
            wake.clear()


def look_once(settings: AutopilotSettings, tell: Tell) -> Round:
    """Judge every version that is newer than the champion and not done."""
    done = Round()
    for version in _waiting(settings.name, tell):
        outcome = _judge(settings, version, tell)
        done.outcomes[version] = outcome
        tell(f"{settings.name} version {version}: {outcome}")
    return done


def _waiting(name: str, tell: Tell) -> list[int]:
    """Versions to be judged; what was begun with others is ended."""
    waiting = []
    over = _over(name, tell)
    for item in list_versions(name):
        state, outcome = item.tags.get(STATE, ""), over(item.version)
        if outcome is None:
            if not state.startswith(_FINAL):
                waiting.append(item.version)
        elif state == "evaluating":
            _end(name, item.version, outcome)
    return waiting


def _over(name: str, tell: Tell) -> Callable[[int], str | None]:
    """What became of a version that is not to be judged any more, as things stand.

    What was champion once was judged, whatever became of it: one that a person has rolled back stays so, also where an
    autopilot was stopped before it could note what it had done. Neither is what is older than the champion.
    """
    journal = PromotionJournal(name)
    standing = journal.settle()
    for line in standing.repaired:
        tell(f"put right: {line}")
    champion = standing.aliases.get(CHAMPION, standing.lost.get(CHAMPION, 0))
    been = {entry.aliases.get(CHAMPION) for entry in journal.counting()}

    def over(number: int) -> str | None:
        if number in been or number == champion:
            return "promoted"
        return f"refused: {champion} is champion" if number < champion else None

    return over


def _judge(settings: AutopilotSettings, number: int, tell: Tell) -> str:
    """Evaluate and promote one version; against a newer champion again, where one comes up meanwhile."""
    name = settings.name
    set_alias(name, CHALLENGER, number)
    problem = ""
    while True:
        # Evaluations take hours: a person may have promoted this one, or another, and rolled it back meanwhile.
        outcome = _over(name, tell)(number)
        if outcome is not None:
            return _end(name, number, outcome)
        version, champion = _version(name, number), _champion(name)
        key = _key(settings, version, champion)
        if version.tags.get(_MEASURED) != key:
            failures = _failures(version, key)
            if failures >= MOST_FAILURES:
                last = f"; the last: {problem[:300]}" if problem else ""
                return _end(name, number, f"failed: {MOST_FAILURES} evaluations came to nothing{last}")
            record_scores(name, number, {}, {STATE: "evaluating"})
            against = f" against version {champion.version}" if champion else ""
            tell(f"{name} version {number}: evaluating{against} ({failures + 1} of {MOST_FAILURES})")
            problem = _evaluate(settings, version, champion, key, tell)
            if problem:
                tell(f"{name} version {number}: {problem}")
                record_scores(name, number, {}, {_FAILURES: f"{key} {failures + 1}"})
                if failures + 1 < MOST_FAILURES:  # what was wrong may be over by the next look
                    return f"waiting: evaluation {failures + 1} of {MOST_FAILURES} came to nothing"
                continue
            record_scores(name, number, {}, {_MEASURED: key})
        _record_again(settings, _version(name, number), champion, key)
        result = promote(name, str(number), gate=settings.gate, again=False)
        for line in result.repaired:
            tell(f"put right: {line}")
        tell(sentence(result))
        if result.passed:
            return _end(name, number, "promoted")
        now = _champion(name)
        if (now.version if now else 0) == (champion.version if champion else 0):
            failed = ", ".join(verdict.score for verdict in result.verdicts if verdict.holds is False)
            return _end(name, number, f"refused: {failed}")


def _record_again(settings: AutopilotSettings, version: ModelVersion, champion: ModelVersion | None, key: str) -> None:
    """Another evaluation of the version, by hand, may have left other scores since; the gate judges by our own."""
    try:
        scores = Evaluation.load(settings.out / key).scores
    except BitreelError:  # the folder is not to be seen from here, or was cleared away
        return
    against = str(champion.version) if champion else None
    if version.scores != scores or version.tags.get(COMPARED_WITH) != against:
        replace_scores(version.name, version.version, scores, {COMPARED_WITH: against} if against else {})


def _end(name: str, number: int, outcome: str) -> str:
    version = _version(name, number)
    # Where a person deletes the outcome to have it judged again, it has all its tries again.
    forgiven = {_FAILURES: ""} if _FAILURES in version.tags else {}
    record_scores(name, number, {}, {STATE: outcome, **forgiven})
    if CHALLENGER in version.aliases:
        drop_alias(name, CHALLENGER)
    return outcome


def _evaluate(
    settings: AutopilotSettings, version: ModelVersion, champion: ModelVersion | None, key: str, tell: Tell
) -> str:
    """Run the evaluation to its end: "" where it wrote its scores, else what went wrong. It is told which champion to
    measure against, for there may be another when its turn comes.

    Raises BitreelError where the cluster, or Ray of this machine, did not answer.
    """
    from pipeline.ray_session import NO_RAY  # which imports Ray

    out = (settings.out / key).absolute()
    out.mkdir(parents=True, exist_ok=True)
    against = f"{version.name}@{champion.version}" if champion else "none"
    command = ["evaluate", "--model", f"{version.name}@{version.version}", "--against", against, "--out", str(out)]
    command += settings.evaluate
    if settings.address is None:
        words = [sys.executable, "-m", "infra.cli", *command]
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})
        (out / "evaluate.log").write_text(done.stdout + done.stderr)
        if done.returncode == 0:
            return ""
        said = [line for line in done.stderr.splitlines() if line.startswith("bitreel:")]
        if said and NO_RAY in said[-1]:  # that is this machine's fault, so it does not count against the version
            raise BitreelError(said[-1].removeprefix("bitreel:").strip())
        return f"the evaluation failed: {said[-1] if said else f'exit status {done.returncode}'}"
    job = _run_job(RayJobs(settings.address), ["bitreel", *command], f"bitreel-{key}", tell)
    return "" if job.status == "SUCCEEDED" else f"the evaluation's job {job.job_id} {job.status.lower()}: {job.message}"


def _run_job(jobs: RayJobs, command: list[str], job_id: str, tell: Tell) -> Job:
    """The job when it is over. One that is there already is waited for; one that had succeeded, but whose scores did
    not come to be noted here, has nothing to do again. A cluster whose head starts anew has forgotten it: that is no
    failure of the evaluation."""
    while True:
        submitted = jobs.submit(command, job_id)
        tell(f"job {job_id}: " + ("submitted" if submitted.started else submitted.status.lower()))
        job: Job | None = submitted
        while job is not None and not job.is_over:
            time.sleep(1.0)
            job = jobs.find(job_id)
        if job is not None:
            return job
        tell(f"the cluster has forgotten the job {job_id}, as its head started anew; submitting it again")


def _key(settings: AutopilotSettings, version: ModelVersion, champion: ModelVersion | None) -> str:
    """Names one evaluation: the same for the same version, champion and options."""
    told = json.dumps([version.model_hash, champion.model_hash if champion else "", settings.evaluate])
    against = f"-vs-{champion.version}" if champion else ""
    return f"{version.name}-{version.version}{against}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _failures(version: ModelVersion, key: str) -> int:
    noted, _, count = version.tags.get(_FAILURES, "").rpartition(" ")
    return int(count) if noted == key and count.isdecimal() else 0


def _champion(name: str) -> ModelVersion | None:
    return next((item for item in list_versions(name) if CHAMPION in item.aliases), None)


def _version(name: str, number: int) -> ModelVersion:
    found = next((item for item in list_versions(name) if item.version == number), None)
    if found is None:
        raise BitreelError(f"{name} version {number} is gone from the registry: it was deleted meanwhile")
    return found
