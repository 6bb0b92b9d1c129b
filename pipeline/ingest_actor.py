"""The Ray actor of ingest: keeps one decoding process, and survives whatever a video does to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.guarded_process import GuardedProcess, ProcessFailed
from pipeline.ingest_calls import MEBIBYTE, IngestSettings, Outcome
from pipeline.sources import is_remote

_REMOTE_BYTES = 1 << 30  # what a source is taken for whose size is not known before it is fetched


def _make_worker(settings: IngestSettings, beat: Any) -> Any:
    from pipeline.ingest_worker import IngestWorker  # in the child alone: decoders have no place in the actor

    return IngestWorker(settings, beat)


class IngestActor:
    """The methods of `IngestWorker`, guarded: a crash, a hang or too much memory becomes an Outcome with `crash`."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._process = GuardedProcess(_make_worker, (settings,), settings.worker_memory * MEBIBYTE)

    def ready(self) -> None:
        """Return once the decoding process runs."""
        self._process.start()

    def identify(self, location: str) -> Outcome:
        return self._guarded("identify", location, location)

    def ingest(self, location: str, checksum: str, stamp: str) -> Outcome:
        return self._guarded("ingest", location, location, checksum, stamp)

    def forget(self) -> None:
        self._guarded("forget", "")

    def _guarded(self, method: str, location: str, *arguments: str) -> Outcome:
        path = Path(location)
        size = _REMOTE_BYTES if is_remote(location) else path.stat().st_size if location and path.is_file() else 0
        stall, limit = self._settings.stall, self._settings.time_limit(size)
        try:
            outcome = self._process.call(method, *arguments, stall=stall, limit=limit)
        except ProcessFailed as failure:
            return Outcome(crash=str(failure), killed=failure.killed)
        return outcome if isinstance(outcome, Outcome) else Outcome()
