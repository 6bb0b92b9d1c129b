"""A pool of Ray actors with its own dispatch, so that an actor's death costs one call and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from codec.errors import BitreelError


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


@contextmanager
def ray_session(address: str | None) -> Iterator[int]:
    """Ray connected to `address`, or started on this machine; one already connected is used and left alone.

    Gives the number of CPUs. Raises BitreelError where the cluster can't be reached.
    """
    started_here = not ray.is_initialized()
    if started_here:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # The next release's default, chosen now: without it Ray prints a warning about accelerators at each start.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
            if address is None:
                ray.init(address="local", include_dashboard=False, **options)
            else:
                ray.init(address=address, **options)
        except Exception as error:  # whatever the client or the launcher raises, the person needs the address
            where = address or "this machine"
            raise BitreelError(f"Ray can't be used at {where}: {(str(error).splitlines() or [''])[0]}") from error
    try:
        yield int(ray.cluster_resources().get("CPU", 1)) or 1
    finally:
        if started_here:
            ray.shutdown()
