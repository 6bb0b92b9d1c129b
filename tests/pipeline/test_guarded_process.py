"""A guarded process tells how its child ended, and ends with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.guarded_process import GuardedProcess, ProcessFailed

MEMORY = 400 << 20


class Victim:
    """Does what it is told."""

    def __init__(self, greeting: str, beat: Callable[[], None]) -> None:
        self.greeting, self.beat = greeting, beat

    def greet(self, name: str) -> str:
        return f"{self.greeting} {name} from {os.getpid()}"

    def end(self, sent: int) -> None:
        os.kill(os.getpid(), sent)

    def leave(self) -> None:
        os._exit(7)

    def sleep(self, seconds: float, beating: bool) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.05)
            if beating:
                self.beat()
        return "awake"

    def take(self, size: int) -> str:
        try:
            return f"{np.ones(size, np.uint8).sum()}"
        except MemoryError:
            return "no memory"

    def fail(self) -> None:
        raise ValueError("it went wrong")


@pytest.fixture
def guarded() -> Iterator[GuardedProcess]:
    process = GuardedProcess(Victim, ("hello",), MEMORY)
    yield process
    process.close()


def test_calls_are_answered_by_one_process_until_it_ends(guarded: GuardedProcess) -> None:
    first = guarded.call("greet", "you", stall=60)
    assert first.startswith("hello you from ")
    assert guarded.call("greet", "you", stall=60) == first
    with pytest.raises(ProcessFailed, match="SIGSEGV") as segmentation:
        guarded.call("end", signal.SIGSEGV, stall=60)
    assert not segmentation.value.killed
    with pytest.raises(ProcessFailed, match=r"SIGKILL \(out of memory") as kill:
        guarded.call("end", signal.SIGKILL, stall=60)
    assert kill.value.killed
    with pytest.raises(ProcessFailed, match="status 7"):
        guarded.call("leave", stall=60)
    with pytest.raises(ProcessFailed, match="ValueError: it went wrong"):
        guarded.call("fail", stall=60)
    assert guarded.call("greet", "you", stall=60) != first


def test_silence_ends_a_call_and_slowness_does_not(guarded: GuardedProcess) -> None:
    guarded.start()
    with pytest.raises(ProcessFailed, match="no life for 1 s") as silence:
        guarded.call("sleep", 60.0, False, stall=1)
    assert silence.value.silent
    guarded.start()
    assert guarded.call("sleep", 3.0, True, stall=0.2) == "awake"  # beats come every half second


def test_memory_is_bounded(guarded: GuardedProcess) -> None:
    assert guarded.call("take", MEMORY // 8, stall=60) == str(MEMORY // 8)
    assert guarded.call("take", MEMORY, stall=60) == "no memory"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux binds a process to its owner")
def test_the_child_dies_with_its_owner(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pipeline.guarded_process import GuardedProcess\n"
        "from tests.pipeline.test_guarded_process import Victim\n"
        "process = GuardedProcess(Victim, ('hello',), 1 << 30)\n"
        "print(process.call('greet', 'you', stall=60), flush=True)\n"
        "process.call('sleep', 600.0, True, stall=600)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout is not None
    child = int(owner.stdout.readline().rsplit(" ", 1)[1])
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until = time.monotonic() + 20
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
