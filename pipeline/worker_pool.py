"""A pool of Ray actors with its own dispatch, so that an actor's death costs one call and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True)
class Finished:
    """One call that ended. worker: free again, unless `died`; failure: an error raised in the worker or by Ray."""

    tag: Any
    worker: Any
    result: Any = None
    died: bool = False
    failure: str = ""


class WorkerPool:
    """`count` actors of a plain class. `start` a method on an idle worker, `wait` for whichever call ends next."""

    def __init__(self, cls: type, arguments: tuple[Any, ...], count: int) -> None:
        cpus = float(ray.cluster_resources().get("CPU", 1)) or 1.0
        # More workers than CPUs share them, or the surplus would wait for ever.
        actor_class: Any = ray.remote(num_cpus=min(1.0, cpus / count), max_restarts=0)(cls)
        self._new: Callable[[], Any] = lambda: actor_class.remote(*arguments)
        self._all = [self._new() for _ in range(count)]
        self.idle = list(self._all)
        self._running: dict[Any, tuple[Any, Any]] = {}  # result -> tag, worker

    def start(self, worker: Any, method: str, tag: Any, *arguments: Any) -> None:
        self._running[getattr(worker, method).remote(*arguments)] = (tag, worker)

    def busy(self) -> bool:
        return bool(self._running)

    def wait(self) -> Finished:
        """Block until a call ends. A dead worker has been replaced by a fresh idle one when this returns."""
        ready, _ = ray.wait(list(self._running), num_returns=1)
        tag, worker = self._running.pop(ready[0])
        try:
            return Finished(tag, worker, result=ray.get(ready[0]))
        except ray.exceptions.RayActorError:
            self._all.remove(worker)
            self._all.append(self._new())
            self.idle.append(self._all[-1])
            return Finished(tag, worker, died=True)
        except ray.exceptions.RayError as error:
            return Finished(tag, worker, failure=f"{type(error).__name__}: {(str(error).splitlines() or [''])[-1]}")

    def close(self) -> None:
        for worker in self._all:
            ray.kill(worker)
