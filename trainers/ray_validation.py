"""Validations beside a training: Ray tasks of low priority that take no CPU from the workers' share.

    rank 0 ─▶ weights put aside in the run's folder ─▶ a thread of the driver ─▶ task on any node ─▶ result file

The driver owns the tasks, so they outlive every worker. What waits when the driver dies is done when the run goes on.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codec.errors import BitreelError
from trainers.recipe import Recipe, recipe_from_dict
from trainers.validation import (
    ValidationResult,
    keep_result,
    validate,
    validation_results,
    waiting_validations,
)

_NICE = 19  # Ray workers, those that train too, are at 15
_TRIES = 3
_LOOK_SECONDS = 0.5

OnResult = Callable[[ValidationResult], None]


@contextmanager
def validations_beside(
    recipe: Recipe, store: Path, folder: Path, on_result: OnResult | None, stopped: threading.Event
) -> Iterator[None]:
    """Validate what is put aside in a run's folder while the block runs, and wait for the rest when it ends well and
    `stopped` is not set: what waits then is done when the run goes on.

    `on_result` gets every result from a thread, those of an earlier session of the run too. A validation that fails is
    told in the log and left out: it never ends a training. Ray must be connected.
    """
    if not recipe.validate_every:
        yield
        return
    queue = _Queue(recipe, store, folder, on_result or (lambda result: None))
    thread = threading.Thread(target=queue.work, name="validations", daemon=True)
    thread.start()
    try:
        yield
        queue.finish()
        while thread.is_alive() and not stopped.is_set():
            thread.join(_LOOK_SECONDS)
    finally:
        queue.stop()
        thread.join()


class _Queue:
    """One validation at a time, the oldest first."""

    def __init__(self, recipe: Recipe, store: Path, folder: Path, on_result: OnResult) -> None:
        self.recipe, self.store, self.folder, self.on_result = recipe, store, folder, on_result
        self._ending, self._stopped = threading.Event(), threading.Event()

    def finish(self) -> None:
        """Let `work` return when nothing waits any more."""
        self._ending.set()

    def stop(self) -> None:
        """Let `work` return at once."""
        self._stopped.set()
        self._ending.set()

    def work(self) -> None:
        for result in validation_results(self.folder):
            self.on_result(result)
        while not self._stopped.is_set():
            waiting = waiting_validations(self.folder)
            if waiting:
                self._do(*waiting[0])
            elif self._ending.is_set():
                return
            else:
                self._ending.wait(_LOOK_SECONDS)

    def _do(self, step: int, weights: Path) -> None:
        try:
            result = self._run(step, weights)
            if result is not None:
                keep_result(self.folder, result)
                self.on_result(result)
        except Exception as error:  # a codec that can't code yet, a full disk: the training is worth more
            shutil.rmtree(weights, ignore_errors=True)
            first = (str(error).splitlines() or [type(error).__name__])[0]
            logging.getLogger(__name__).warning("step %d could not be validated: %s", step, first)

    def _run(self, step: int, weights: Path) -> ValidationResult | None:
        """The result of a task, None where it was stopped."""
        import ray

        # No CPU is asked for: the workers hold them all, and would keep it waiting for ever.
        # One call a process: it could never get back the priority that it gave up.
        remote = ray.remote(num_cpus=0, max_retries=_TRIES, max_calls=1, scheduling_strategy="SPREAD")(_task)
        task = remote.remote(str(weights), str(self.store.resolve()), self.recipe.to_dict(), step)
        while not self._stopped.is_set():
            ready, _ = ray.wait([task], timeout=_LOOK_SECONDS)
            if ready:
                return _answer(ray, task)
        ray.cancel(task, force=True)
        return None


def _answer(ray: Any, task: Any) -> ValidationResult:
    try:
        result: ValidationResult = ray.get(task)
        return result
    except ray.exceptions.RayTaskError as error:
        raise BitreelError(str(error.cause)) from error


def _task(weights: str, store: str, recipe: dict[str, Any], step: int) -> ValidationResult:
    """What a Ray worker does; it gives way to whoever trains on the same cores."""
    import torch

    torch.set_num_threads(1)
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    return validate(Path(weights), Path(store), recipe_from_dict(recipe), step)
