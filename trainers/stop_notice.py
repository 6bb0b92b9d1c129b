"""How somebody outside asks a running training for a checkpoint: a file in the run's folder, or a signal to a worker.

A scheduler sends SIGTERM before it takes a machine away; Ray tells of nodes that are drained. The worker that hears of
it ends with a checkpoint, and the run goes on without that machine. The driver asks through the file, for a checkpoint
to go on after or for one to stop at.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import Any

from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError
from trainers.step_requests import Request

# A file each: who asks for a checkpoint must not take back that another asked for the end.
REQUEST_FILES = {Request.CHECKPOINT: "checkpoint-request.json", Request.STOP: "stop-request.json"}
_LOOK_EVERY = 0.25  # seconds; on a file system that many machines share each look costs something
_terminated = threading.Event()


class MachineLeaving(BitreelError):
    """This worker's machine is about to be taken away; the run goes on elsewhere."""


def heed_sigterm() -> None:
    """From now on SIGTERM asks this process for a checkpoint and its end; a second one ends it at once.

    To be called in the process's main thread.
    """
    _terminated.clear()

    def leave(number: int, frame: Any) -> None:
        if _terminated.is_set():
            os._exit(128 + signal.SIGTERM)
        _terminated.set()

    signal.signal(signal.SIGTERM, leave)


def ask(folder: Path, request: Request) -> None:
    """Put a request to the training in `folder`."""
    write_json_atomically(folder / REQUEST_FILES[request], {"id": secrets.token_hex(8)})


def withdraw(folder: Path) -> None:
    """Take back what was asked."""
    for name in REQUEST_FILES.values():
        (folder / name).unlink(missing_ok=True)


class Notices:
    """What has been asked of this rank. Rank 0 alone looks at the file."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self._looked, self._answered = 0.0, self._read(Request.CHECKPOINT)
        self.leaving = False

    def request(self) -> Request:
        """The greatest request that has not been answered; a checkpoint is asked for once only."""
        if _terminated.is_set() or _drained(self.rank):
            self.leaving = True
            return Request.STOP
        if self.rank == 0 and time.monotonic() - self._looked >= _LOOK_EVERY:
            self._looked = time.monotonic()
            if self._read(Request.STOP):
                return Request.STOP
            if (asked := self._read(Request.CHECKPOINT)) and asked != self._answered:
                self._answered = asked
                return Request.CHECKPOINT
        return Request.NOTHING

    def _read(self, request: Request) -> str:
        """What tells this request from others of its kind; "" where there is none."""
        try:
            return str(json.loads((self.folder / REQUEST_FILES[request]).read_text())["id"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _drained(rank: int) -> bool:
    """Whether Ray said that this rank's node is being drained. `ray.train.get_preemption_info` would do, but it waits
    for all ranks at each call."""
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        info = get_train_context().preemption_context.preemption_info
    except (ImportError, AttributeError, RuntimeError):
        return False
    return info is not None and rank in info.preempted_ranks
