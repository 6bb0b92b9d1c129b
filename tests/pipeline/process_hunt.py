"""Signals to the ingest processes that this very process started, at moments that hurt."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARKS = {"actor": b"ray::IngestActor", "decoder": b"pipeline.guarded_process"}


def own_processes(kind: str) -> list[int]:
    """Ids of the "actor" or "decoder" processes of ingest that descend from this process."""
    parents, found = {}, []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal():
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if _MARKS[kind] in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        except OSError:  # ended meanwhile
            continue

    def is_own(process: int) -> bool:
        while process > 1 and process != os.getpid():
            process = parents.get(process, 0)
        return process == os.getpid()

    return [process for process in found if is_own(process)]


@contextmanager
def hunting(target: str | Path, count: int, sent: signal.Signals) -> Iterator[list[int]]:
    """In the background, send a signal to the first `count` processes: of a kind ("actor"), or decoders that have a
    file open (its path). Gives the growing list of their ids."""
    hit: list[int] = []
    earlier = own_processes(target) if isinstance(target, str) else []  # of a run before, still on their way out
    over = threading.Event()

    def prey() -> list[int]:
        if isinstance(target, str):
            return own_processes(target)
        return [process for process in own_processes("decoder") if _has_open(process, target)]

    def hunt() -> None:
        while len(hit) < count and not over.is_set():
            for process in prey():
                if process not in [*hit, *earlier] and len(hit) < count:
                    os.kill(process, sent)
                    hit.append(process)
            time.sleep(0.002)

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield hit
    finally:
        over.set()
        thread.join()


def _has_open(process: int, path: Path) -> bool:
    try:
        return any(entry.readlink() == path for entry in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False
