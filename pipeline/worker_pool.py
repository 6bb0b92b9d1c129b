"""A pool of Ray actors with its own dispatch, so that an actor's death costs one call and nothing else.

Work goes only to actors that have said they are ready: one that waits for a node that never comes holds nothing up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

_STARTING = object()


@dataclass(frozen=True)
class Finished:
    """One call that ended. worker: free again, unless `died`; failure: an error raised in the worker or by Ray."""

    tag: Any
    worker: Any
    result: Any = None
    died: bool = False
    failure: str = ""


class WorkerPool:
    """`count` actors of a plain class that has a method `ready`. `start` a method on an idle worker, `wait` for
    whichever call ends next; a dead worker is replaced by a fresh one, idle as soon as it is ready."""

    def __init__(self, cls: type, arguments: tuple[Any, ...], count: int) -> None:
        cpus = float(ray.cluster_resources().get("CPU", 1)) or 1.0
        # More workers than CPUs share them, or the surplus would wait for ever.
        actor_class: Any = ray.remote(num_cpus=min(1.0, cpus / count), max_restarts=0)(cls)
        self._new: Callable[[], Any] = lambda: actor_class.remote(*arguments)
        self.idle: list[Any] = []
        self.failed_starts = 0  # in a row
        self.failure = ""  # what the last of them raised, if anything
        self._all: list[Any] = []
        self._running: dict[Any, tuple[Any, Any]] = {}  # result -> tag, worker
        for _ in range(count):
            self._add()

    def start(self, worker: Any, method: str, tag: Any, *arguments: Any) -> None:
        self._running[getattr(worker, method).remote(*arguments)] = (tag, worker)

    def wait(self) -> Finished | None:
        """Block until a call ends, or a worker is ready or failed to start (None)."""
        # Results first: a worker that is ready can wait a moment, finished work frees its worker.
        ready, _ = ray.wait(list(self._running), num_returns=1)
        tag, worker = self._running.pop(ready[0])
        starting = tag is _STARTING
        try:
            result = ray.get(ready[0])
        except ray.exceptions.RayActorError:
            self._replace(worker)
            self.failed_starts += starting
            return None if starting else Finished(tag, worker, died=True)
        except ray.exceptions.RayError as error:
            failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[-1]}"
            if not starting:
                return Finished(tag, worker, failure=failure)
            self.failure = failure
            self._replace(worker)
            self.failed_starts += 1
            return None
        if starting:
            self.failed_starts, self.failure = 0, ""
            self.idle.append(worker)
            return None
        return Finished(tag, worker, result=result)

    def close(self) -> None:
        for worker in self._all:
            ray.kill(worker)

    def _add(self) -> None:
        self._all.append(self._new())
        self.start(self._all[-1], "ready", _STARTING)

    def _replace(self, worker: Any) -> None:
        ray.kill(worker)  # out of reach is not dead: see to it that it ends
        self._all.remove(worker)
        self._add()
