"""What a training says to MLflow lies on disk first, beside the run: nothing is lost while the server is away.

    training ─▶ Outbox.append (a line in a journal) ─▶ sender thread ─▶ MLflow ─▶ NAME.sent: how far it has come

Each process writes a journal of its own; what a process that died had not sent is sent by the next one of its kind.
An entry is sent again where nobody knows whether it arrived. It carries its own time, and MLflow keeps a metric of the
same key, step, time and value once, so every point is there exactly once.

Files are uploaded after all else and removed here then. One that is too large for the server, or that nobody has the
credentials for, is tried again and holds back nothing but itself.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.journal import Journal
from infra.tracking import connect, without_logins

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILES = "files"  # below the outbox: what waits to be uploaded
_DRIVER = "driver"  # the kind of process that says how a run stands
BATCH = 1000  # metrics in one call, MLflow's limit
_PATIENCE = 15.0  # seconds between two tries, at most
# What MLflow will answer again however often it is asked; anything else is tried until it works.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")

Entry = dict[str, Any]


class Outbox:
    """The way to one run in MLflow. Nothing but `drain` and `close` waits for the server, and nothing raises: where not
    even the disk takes an entry, a warning says so.

    folder: the run's outbox. writer: what kind of process this is ("worker", "driver"); "" sends what all kinds have
    left behind and writes nothing itself.
    """

    def __init__(self, uri: str, run_id: str, folder: Path, writer: str) -> None:
        self.uri, self.run_id, self.folder = uri, run_id, folder
        folder.mkdir(parents=True, exist_ok=True)
        # Drivers' last: they say how the run ended, which MLflow hears after all the rest.
        found = sorted(folder.glob(f"{writer or '*'}-*.jsonl"), key=lambda path: (path.name.startswith(_DRIVER), path))
        self._journals = [Journal(path) for path in found]
        self._own = None
        if writer:
            self._own = _new_journal(folder, writer)
        self._files = {entry["file"]: entry for journal in self._journals for entry in _held_back(folder, journal)}
        self._failed: Counter[str] = Counter()  # tries in vain, by file
        self._in_vain = 0  # how many tries since the last file that was uploaded
        self._files_due = 0.0  # when the next file may be tried, by the monotonic clock
        self._lock = threading.Lock()  # of the own journal
        self._news, self._over = threading.Event(), threading.Event()
        self._settled = threading.Condition()
        self._client: MlflowClient | None = None
        self._away = False
        self._thread = threading.Thread(target=self._work, name="mlflow-outbox", daemon=True)
        self._thread.start()

    def history(self) -> Iterator[Entry]:
        """What earlier processes of this kind wrote, oldest first."""
        for journal in self._journals:
            yield from (entry for entry, _ in journal.entries(0))

    def append(self, entry: Entry) -> None:
        """Write an entry down; it is sent soon."""
        assert self._own is not None
        try:
            with self._lock:
                self._own.append({"time": int(time.time() * 1000)} | entry)
        except OSError as error:
            self._warn("an entry for MLflow is lost: %s", error)
        self._news.set()

    def add_file(self, name: str, folder: str, write: Callable[[Path], object]) -> None:
        """Have `write` make a file here, and upload it as `folder/name`."""
        place = self.folder / FILES / secrets.token_hex(8)
        try:
            place.mkdir(parents=True)
            write(place / name)
        except OSError as error:
            self._warn("a file for MLflow is lost: %s", error)
            return
        self.append({"kind": "file", "file": f"{place.name}/{name}", "to": folder})

    def drain(self, seconds: float) -> bool:
        """Wait until everything is sent, at most so long; whether it is."""
        until = time.monotonic() + seconds
        self._news.set()
        with self._settled:
            while self._waiting():
                left = until - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return False
                self._settled.wait(min(left, 0.5))
        return True

    def close(self, seconds: float) -> bool:
        """`drain`, then stop sending. What is not sent stays on disk."""
        done = self.drain(seconds)
        self._over.set()
        self._news.set()
        return done

    @staticmethod
    def _warn(message: str, *facts: object) -> None:
        logging.getLogger(__name__).warning(message, *facts)

    def _all(self) -> list[Journal]:
        return [*self._journals, *([self._own] if self._own else [])]

    def _waiting(self) -> bool:
        return any(journal.has_unsent() for journal in self._all()) or bool(self._files)

    def _work(self) -> None:
        failures = 0
        while not self._over.is_set():
            try:
                for journal in self._all():
                    self._send(journal)
                failures = 0
                self._upload()
                if self._away and not self._files:
                    self._warn("MLflow is back; all that waited is sent")
                    self._away = False
                with self._settled:
                    self._settled.notify_all()
                self._news.wait(max(0.0, self._files_due - time.monotonic()) if self._files else None)
                self._news.clear()
            except Exception as error:  # whatever is wrong with MLflow, hours of training must not end by it
                if not self._away:
                    self._warn("training goes on, its figures wait on disk: %s", self._first_line(error))
                self._away, failures = True, failures + 1
                self._over.wait(_pause(failures))

    def _upload(self) -> None:
        """Upload the files that wait, those that failed least first, up to the first that fails; then not for a while.
        Raises nothing."""
        if time.monotonic() < self._files_due:
            return
        for name in sorted(self._files, key=lambda name: self._failed[name]):
            try:
                self._deliver([self._files[name]])
            except Exception as error:  # as in `_work`
                if not self._failed[name] and not self._away:
                    self._warn("a file for MLflow waits on disk, %s: %s", Path(name).name, self._first_line(error))
                self._failed[name] += 1
                self._in_vain += 1
                self._files_due = time.monotonic() + _pause(self._in_vain)
                return
            self._in_vain = 0
            shutil.rmtree((self.folder / FILES / name).parent, ignore_errors=True)
            del self._files[name]

    def _first_line(self, error: Exception) -> str:
        return (without_logins(str(error), self.uri).splitlines() or [type(error).__name__])[0]

    def _send(self, journal: Journal) -> None:
        """Send what of a journal is unsent, noting each success. Files are put on the list of those that wait."""
        journal.sync()
        batch: list[Entry] = []
        size, end = 0, 0
        for entry, after in journal.entries(journal.sent):
            if entry["kind"] == "file":
                self._files[entry["file"]], end = entry, after
                continue
            if entry["kind"] == "metrics" and size + len(entry["values"]) <= BATCH:
                batch, size, end = [*batch, entry], size + len(entry["values"]), after
                continue
            self._flush(journal, batch, end)
            if entry["kind"] == "metrics":
                batch, size, end = [entry], len(entry["values"]), after
                continue
            batch, size = [], 0
            if entry["kind"] == "status":
                self._upload()  # who sees that a run has ended finds its files there, where they can be uploaded at all
            self._deliver([entry])
            journal.note_sent(after)
        self._flush(journal, batch, end)

    def _flush(self, journal: Journal, batch: list[Entry], end: int) -> None:
        if batch:
            self._deliver(batch)
        if end > journal.sent:
            journal.note_sent(end)

    def _deliver(self, entries: list[Entry]) -> None:
        """Hand entries to MLflow. Those that it will never take are left out, with a warning; raises for any others."""
        from mlflow.exceptions import MlflowException

        self._client = self._client or connect(self.uri)
        try:
            self._call(self._client, entries)
        except MlflowException as error:
            if error.error_code not in _REFUSALS:
                raise
            if len(entries) > 1:
                for entry in entries:
                    self._deliver([entry])
                return
            what = {key: value for key, value in entries[0].items() if key != "values"}
            self._warn("MLflow refused %s: %s", what, without_logins(str(error), self.uri).splitlines()[0])

    def _call(self, client: MlflowClient, entries: list[Entry]) -> None:
        from mlflow.entities import Metric, RunTag

        first = entries[0]
        if first["kind"] == "metrics":
            points = [Metric(k, v, e["time"], e["step"]) for e in entries for k, v in e["values"].items()]
            client.log_batch(self.run_id, metrics=points, synchronous=True)
        elif first["kind"] == "tags":
            client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in first["values"].items()], synchronous=True)
        elif first["kind"] == "status" and first["status"] == "RUNNING":
            client.update_run(self.run_id, status="RUNNING")
        elif first["kind"] == "status":
            client.set_terminated(self.run_id, first["status"], first["time"])
        elif (path := self.folder / FILES / first["file"]).is_file():  # else it was sent before, and removed
            client.log_artifact(self.run_id, str(path), first["to"])


def _pause(failures: int) -> float:
    """Seconds until the next try."""
    return min(0.5 * 2 ** min(failures, 10), _PATIENCE)


def _held_back(folder: Path, journal: Journal) -> Iterator[Entry]:
    """The files that still wait though all else up to the mark is sent."""
    if not any((folder / FILES).glob("*/*")):
        return
    for entry, after in journal.entries(0):
        if after > journal.sent:
            return
        if entry["kind"] == "file" and (folder / FILES / entry["file"]).is_file():
            yield entry


def _new_journal(folder: Path, writer: str) -> Journal:
    return Journal(folder / f"{writer}-{time.time_ns():020d}-{secrets.token_hex(3)}.jsonl")


def note_status(folder: Path, status: str) -> None:
    """Write down how a run ended, for whoever sends what its outbox holds; a warning where the disk takes nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entry = {"time": int(time.time() * 1000), "kind": "status", "status": status}
        _new_journal(folder, _DRIVER).append(entry)
    except OSError as error:
        logging.getLogger(__name__).warning("an entry for MLflow is lost: %s", error)


def left_behind(folder: Path) -> bool:
    """Whether an outbox holds entries that were not sent."""
    journals = [Journal(path) for path in folder.glob("*-*.jsonl")]
    return any(journal.has_unsent() or any(_held_back(folder, journal)) for journal in journals)


def last_status(folder: Path) -> str | None:
    """The status that a driver wrote down last; None where none did."""
    found = None
    for path in sorted(folder.glob(f"{_DRIVER}-*.jsonl")):
        for entry, _ in Journal(path).entries(0):
            found = entry["status"] if entry["kind"] == "status" else found
    return found
