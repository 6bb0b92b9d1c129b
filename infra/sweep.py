"""Sweeps: several short trainings that differ in a few settings, ranked by what their real files cost.

    grid ─▶ trials ─▶ a Ray task each, which trains on workers of its own ─▶ validation of the last step ─▶ ranking

A sweep lives in runs/sweeps/NAME. A trial is known by its recipe and store: doing a sweep again, or a larger one of the
same name, trains only what has not been trained, and goes on with what was cut off.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError, UsageError
from infra.provenance import manifest_hash
from infra.run_lifetime import followed_run, settle_runs
from infra.stop_signals import stops_held_back
from infra.sweep_ranking import RankedTrial, ranked
from infra.sweep_trial import TrialJob, run_trial, trial_result
from infra.tracking import RUNS_FOLDER, TrackedRun, note_run, noted_run, start_run
from infra.training_tracker import TrainingTracker
from pipeline.ray_session import ray_session
from trainers.phase_batches import PhaseBatches
from trainers.ray_worker import PROGRESS_FILE
from trainers.ray_workers import choose_resources
from trainers.recipe import Recipe, load_recipe
from trainers.starting_codec import starting_codec
from trainers.validation import check_held_out

SWEEPS, TRIALS = "sweeps", "trials"
SWEEP_TAG = "bitreel.sweep"  # on the parent run: the sweep's name
RANKING_FILE = "ranking.json"
MAX_TRIALS = 256
_TRIES = 3  # processes of a trial's driver; its workers have tries of their own
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Trial:
    """One point of the grid: its number from 1, its settings as `key=value`, and the recipe they make."""

    number: int
    settings: tuple[str, ...]
    recipe: Recipe
    key: str


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: the best trial first; `ranked_by` says by what. failed: trial number → reason."""

    name: str
    run_id: str
    ranked_by: str
    trials: list[RankedTrial]
    failed: dict[int, str]


def grid_points(grids: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of `key=v1,v2` options, the last one changing fastest. Commas within brackets belong to a value.

    Raises UsageError for an option that is none, or too many combinations.
    """
    axes: list[list[str]] = []
    for grid in grids:
        key, equals, text = grid.partition("=")
        values = _values(text)
        if not equals or not key.strip() or not all(values):
            raise UsageError(f"--grid '{grid}': expected key=value1,value2, as in phases.0.grad_clip=0.5,1")
        axes.append([f"{key.strip()}={value}" for value in dict.fromkeys(values)])
    points = list(itertools.product(*axes))
    if len(points) > MAX_TRIALS:
        raise UsageError(f"--grid: {len(points)} combinations; a sweep has at most {MAX_TRIALS}")
    return points


def _values(text: str) -> list[str]:
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def make_trials(recipe: str, store: Path, changes: Sequence[str], grids: Sequence[str]) -> list[Trial]:
    """The trials of a grid over a recipe. Each is validated at its end, with the recipe's own validation settings.

    Raises UsageError as `load_recipe` and `check_settings` do, and where the store can't serve a trial or holds nothing
    out.
    """
    trials, data = [], manifest_hash(store)
    for number, settings in enumerate(grid_points(grids), start=1):
        plan = load_recipe(recipe, [*changes, *settings])
        if not plan.validate_every:
            plan = replace(plan, validate_every=-(-plan.total_steps // plan.checkpoint_every) * plan.checkpoint_every)
        PhaseBatches(store, plan)
        check_held_out(store, plan)
        starting_codec(plan, None)
        described = json.dumps([plan.to_dict(), data], sort_keys=True)
        trials.append(Trial(number, settings, plan, hashlib.sha256(described.encode()).hexdigest()[:12]))
    return trials


def run_sweep(
    name: str,
    trials: Sequence[Trial],
    store: Path,
    *,
    workers: int = 1,
    parallel: int | None = None,
    address: str | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Sweep:
    """Train what of `trials` is not trained yet, `parallel` at once with `workers` each, and rank all of them.

    parallel None: as many as find room. `on_progress` gets steps done, steps in all, and what is going on. The first
    trial is what BD-rates are measured against. Raises BitreelError where every trial failed, or the first.
    """
    folder = (Path.cwd() / RUNS_FOLDER / SWEEPS / name).resolve()
    settle_runs(folder.parent)
    settle_runs(folder / TRIALS)
    with ExitStack() as stack:
        with stops_held_back():  # a run that MLflow has is followed, or it would stay RUNNING for ever
            parent = noted_run(folder) or note_run(start_run(f"sweep-{name}", tags={SWEEP_TAG: name}), folder)
            tracker = stack.enter_context(followed_run(parent))
        try:
            with ray_session(address):
                room = parallel or _room(trials, workers)
                jobs = [
                    TrialJob(name, t.number, t.settings, t.recipe.to_dict(), str(store.resolve()),
                             str(folder / TRIALS / t.key), parent, workers, room)
                    for t in trials
                ]  # fmt: skip
                failed = _run_all(jobs, room, on_progress or (lambda done, total, what: None))
        finally:
            settle_runs(folder / TRIALS)  # those whose driver was cut off
        done = {t.number: trial_result(folder / TRIALS / t.key) for t in trials}
        for number in (number for number, result in done.items() if result is None):
            failed.setdefault(number, "trained, but its validation failed")
        first = done[trials[0].number]
        if first is None:
            raise BitreelError(f"trial 1, which the others are measured against, failed: {failed[trials[0].number]}")
        ranked_by, ranking = ranked(trials[0].recipe, {t.number: (t.settings, done[t.number]) for t in trials})
        sweep = Sweep(name, parent.run_id, ranked_by, ranking, failed)
        _show(sweep, folder, trials, tracker)
    return sweep


def _room(trials: Sequence[Trial], workers: int) -> int:
    """How many trials the cluster can train at once."""
    room = 0
    for count in range(1, len(trials) + 1):
        try:
            choose_resources(workers, trials[0].recipe.batch_size, count)
        except UsageError:
            break
        room = count
    return max(room, 1)  # too little for even one: training says so


def _run_all(jobs: list[TrialJob], room: int, report: Callable[[int, int, str], None]) -> dict[int, str]:
    """Do all jobs, `room` at once; what failed, and why."""
    import ray

    waiting = [job for job in jobs if trial_result(Path(job.folder)) is None]
    task = ray.remote(num_cpus=0, max_retries=_TRIES, max_calls=1)(run_trial)
    running: dict[Any, TrialJob] = {}
    failed: dict[int, str] = {}
    total = sum(job.total_steps for job in jobs)
    try:
        while waiting or running:
            while waiting and len(running) < room:
                job = waiting.pop(0)
                running[task.remote(job)] = job
            ready, _ = ray.wait(list(running), timeout=_LOOK_SECONDS)
            for reference in ready:
                job = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    failed[job.number] = (str(error.cause).splitlines() or [type(error.cause).__name__])[0]
                except ray.exceptions.RayError as error:
                    failed[job.number] = str(error).splitlines()[0]
            numbers = ", ".join(str(job.number) for job in running.values())
            report(sum(_steps(job) for job in jobs), total, f"trials {numbers}" if numbers else "ranking")
    except BaseException:
        for reference in running:
            ray.cancel(reference, force=True)
        raise
    return failed


def _steps(job: TrialJob) -> int:
    try:
        return int(json.loads((Path(job.folder) / PROGRESS_FILE).read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0


def _show(sweep: Sweep, folder: Path, trials: Sequence[Trial], tracker: TrainingTracker) -> None:
    """The ranking: as a file of the parent run, and as figures of each trial's own."""
    data = [trial.to_json() for trial in sweep.trials]
    write_json_atomically(folder / RANKING_FILE, data)
    tracker.outbox.add_file(RANKING_FILE, "sweep", lambda path: write_json_atomically(path, data))
    best = sweep.trials[0]
    tracker.tags({"bitreel.best_trial": str(best.number), "bitreel.best_settings": " ".join(best.settings)})
    keys = {trial.number: trial.key for trial in trials}
    for trial in sweep.trials:
        run: TrackedRun | None = noted_run(folder / TRIALS / keys[trial.number])
        if run is not None:
            own = run.open_as("driver")
            own.place(trial.figures())
            own.close()
