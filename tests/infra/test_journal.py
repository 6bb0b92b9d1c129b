"""The journal of what waits to be sent, on a disk that fills up."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.journal import Journal
from trainers.run_events import note_event, read_events


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may become, in bytes; a write across that is cut short as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_an_entry_that_does_not_fit_leaves_no_trace(tmp_path: Path, limit: Callable[[int], None]) -> None:
    journal = Journal(tmp_path / "worker-1.jsonl")
    journal.append({"step": 1})
    limit(journal.path.stat().st_size + 5)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            journal.append({"step": 2})
    limit(-1)
    journal.append({"step": 3})
    assert [entry["step"] for entry, _ in journal.entries(0)] == [1, 3]
    assert journal.path.read_text().count("\n") == 2


def test_an_event_that_does_not_fit_takes_no_other_with_it(
    tmp_path: Path, limit: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    note_event(tmp_path, "one", "fits")
    limit((tmp_path / "events.jsonl").stat().st_size + 20)
    note_event(tmp_path, "two", "is cut off")
    limit(-1)
    note_event(tmp_path, "three", "fits")
    assert [event["event"] for event in read_events(tmp_path)[0]] == ["one", "three"]
    assert "No space left on device): is cut off" in caplog.text
