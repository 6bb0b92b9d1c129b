"""One trial of a sweep: a training under the sweep's run in MLflow, in a Ray task that drives workers of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.run_lifetime import followed_run
from infra.tracking import TrackedRun, noted_run, start_training_run
from trainers.ray_train import RUN_FILE, train_on_ray
from trainers.recipe import recipe_from_dict
from trainers.validation import ValidationResult, validation_results

_PATIENCE = 20.0  # the sweep's own end waits longer


@dataclass(frozen=True)
class TrialJob:
    """What a trial's task is told. folder: where it lives; parallel: trials that train at once, this one too."""

    sweep: str
    number: int
    settings: tuple[str, ...]
    recipe: dict[str, Any]
    store: str
    folder: str
    parent: TrackedRun
    workers: int
    parallel: int

    @property
    def total_steps(self) -> int:
        return sum(phase["steps"] for phase in self.recipe["phases"])


def run_trial(job: TrialJob) -> None:
    """Train the trial to its end and validate it. Done again after its process died, it goes on where it was."""
    recipe, folder, store = recipe_from_dict(job.recipe), Path(job.folder), Path(job.store)
    run = noted_run(folder)
    if run is None:
        name = f"{job.sweep}-{job.number:02d}" + "".join(f" {setting}" for setting in job.settings)
        facts = {"store": store, "sweep": job.sweep, "grid": " ".join(job.settings)}
        run = start_training_run(recipe, name, facts, folder, job.parent)
    run = replace(run, uri=job.parent.uri)  # with the login, which no folder holds and a worker may not know
    with followed_run(run, _PATIENCE) as tracker:
        train_on_ray(
            recipe,
            store,
            folder.name,
            storage=folder.parent,
            workers=job.workers,
            tracking=run,
            on_validation=tracker.validation,
            on_stop=tracker.stopping,
            beside=job.parallel,
        )


def trial_result(folder: Path) -> ValidationResult | None:
    """The validation of a trial's last step; None where it has not come so far."""
    run_file = folder / RUN_FILE
    if not run_file.is_file():
        return None
    recipe = recipe_from_dict(json.loads(run_file.read_text())["recipe"])
    return next((r for r in validation_results(folder) if r.step == recipe.total_steps), None)
