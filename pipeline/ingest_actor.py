"""The Ray actor of ingest: keeps one decoding process, and survives whatever a video does to it."""

from __future__ import annotations

from typing import Any

from pipeline.guarded_process import GuardedProcess, ProcessFailed
from pipeline.ingest_calls import MEBIBYTE, IngestSettings, Outcome


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
        return self._guarded("identify", location)

    def ingest(self, location: str, checksum: str, stamp: str) -> Outcome:
        return self._guarded("ingest", location, checksum, stamp)

    def forget(self) -> None:
        self._guarded("forget")

    def _guarded(self, method: str, *arguments: str) -> Outcome:
        # No limit on the whole: a file has an end, and how long it takes to get there does not follow from its size.
        try:
            outcome = self._process.call(method, *arguments, stall=self._settings.stall)
        except ProcessFailed as failure:
            return Outcome(crash=str(failure), killed=failure.killed, silent=failure.silent)
        return outcome if isinstance(outcome, Outcome) else Outcome()
