"""An object in a process of its own, so that what kills, hangs or bloats it costs one call and is known by its cause.

The owner asks with `call`; the child answers, and shows life meanwhile by the `beat` that its object is given. The
child is bounded in memory, is the first that the kernel kills where memory runs out, and ends when its owner does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_BEAT_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 300


class ProcessFailed(Exception):
    """The child could not finish a call; it is gone, and the next call begins with a fresh one.

    killed: by SIGKILL, which nobody inside sends, so that the machine rather than the work may be to blame. silent: by
    its owner, for it showed no life.
    """

    def __init__(self, reason: str, killed: bool = False, silent: bool = False) -> None:
        super().__init__(reason)
        self.killed, self.silent = killed, silent


class GuardedProcess:
    """`make(*arguments, beat)` made in a child process. memory: bytes of private memory that the child may take."""

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...], memory: int) -> None:
        self._make, self._arguments, self._memory = make, arguments, memory
        self._child: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None

    def start(self) -> None:
        """Start the child where none runs. Raises ProcessFailed where it does not come up."""
        if self._child is not None and self._child.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # Arrow's own pool would take a GiB of the memory at once, whatever it needs.
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
        with theirs:
            command = [sys.executable, "-m", "pipeline.guarded_process", str(theirs.fileno())]
            self._child = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        self._link = Connection(ours.detach())
        self._send((self._make, self._arguments, self._memory))
        self._answer(_START_SECONDS)

    def call(self, method: str, *arguments: Any, stall: float) -> Any:
        """What the method gives. Raises ProcessFailed where the child dies or shows no life for `stall` seconds, and
        where the method itself raises (which workers do not)."""
        self.start()
        self._send((method, arguments))
        return self._answer(stall)

    def close(self) -> None:
        """End the child at once."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
        if self._link is not None:
            self._link.close()
            self._link = None

    def _send(self, message: Any) -> None:
        assert self._link is not None
        with contextlib.suppress(OSError):  # already dead: the wait for its answer says how
            self._link.send(message)

    def _answer(self, stall: float) -> Any:
        assert self._link is not None
        while True:
            try:
                alive = self._link.poll(stall + _BEAT_SECONDS)  # so long ago the last beat may have been kept back
                kind, value = self._link.recv() if alive else ("silent", None)
            except (EOFError, OSError):
                raise self._death() from None
            if kind == "result":
                return value
            if kind == "raised":
                raise ProcessFailed(str(value))
            if kind == "silent":
                self.close()
                raise ProcessFailed(f"showed no life for {stall:g} s", silent=True)

    def _death(self) -> ProcessFailed:
        """Collect the dead child and say how it ended."""
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(10)
        status = self._child.poll()
        self.close()
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            hint = " (out of memory?)" if -status == signal.SIGKILL else ""
            return ProcessFailed(f"killed its process: {name}{hint}", killed=-status == signal.SIGKILL)
        return ProcessFailed(f"ended its process with status {status}")


def _serve(link: Connection) -> None:
    """The child: make the object, then answer calls until the owner is gone."""
    make, arguments, memory = link.recv()
    _bind_to_owner()
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    last = 0.0

    def beat() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _BEAT_SECONDS:
            last = now
            link.send(("beat", None))

    served = make(*arguments, beat)
    link.send(("result", None))
    while True:
        method, call_arguments = link.recv()
        try:
            answer = ("result", getattr(served, method)(*call_arguments))
        except Exception as error:
            answer = ("raised", f"{type(error).__name__}: {error}")
        link.send(answer)


def _bind_to_owner() -> None:
    """Die with the owner, and before it where memory runs out; only Linux knows how."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        _serve(Connection(int(sys.argv[1])))
