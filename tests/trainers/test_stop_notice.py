"""How a running training is asked for a checkpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainers.synthetic import tiny_recipe
from trainers.ray_worker import PROGRESS_FILE, _RayHooks
from trainers.run_events import note_event, read_events
from trainers.step_requests import Request
from trainers.stop_notice import REQUEST_FILES, Notices, ask, withdraw


def test_the_file_is_heeded_by_rank_0_a_checkpoint_once_a_stop_until_it_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.stop_notice._LOOK_EVERY", 0.0)
    ask(tmp_path, Request.CHECKPOINT)  # before these workers were there: not for them
    first, second = Notices(tmp_path, 0), Notices(tmp_path, 1)
    assert first.request() == Request.NOTHING
    ask(tmp_path, Request.CHECKPOINT)
    assert [first.request(), first.request(), second.request()] == [Request.CHECKPOINT, *[Request.NOTHING] * 2]
    ask(tmp_path, Request.CHECKPOINT)
    assert first.request() == Request.CHECKPOINT
    ask(tmp_path, Request.STOP)
    assert [first.request(), first.request()] == [Request.STOP] * 2 and not first.leaving
    ask(tmp_path, Request.CHECKPOINT)  # a change of the number of workers does not undo it
    assert first.request() == Request.STOP
    withdraw(tmp_path)
    assert first.request() == Request.NOTHING
    for name in REQUEST_FILES.values():
        (tmp_path / name).write_text("{")
    assert first.request() == Request.NOTHING


def test_sigterm_asks_first_and_ends_the_process_the_second_time() -> None:
    code = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from trainers.stop_notice import Notices, heed_sigterm\n"
        "heed_sigterm()\n"
        "notices = Notices(Path(sys.argv[1]), 1)\n"
        "print(notices.request().name, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(notices.request().name, notices.leaving, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "."], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["NOTHING", "STOP", "True"]
    assert done.returncode == 128 + signal.SIGTERM


def test_a_log_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(_: int) -> None:
        raise AssertionError

    monkeypatch.setattr("os.fsync", wait)
    _RayHooks(tmp_path, 0, tiny_recipe(), None, Notices(tmp_path, 0)).on_log(4, {"loss": 1.0})
    assert json.loads((tmp_path / PROGRESS_FILE).read_text()) == {"step": 4, "metrics": {"loss": 1.0}}
    assert len(list(tmp_path.iterdir())) == 1


def test_events_are_read_on_from_where_one_was_and_only_whole(tmp_path: Path) -> None:
    assert read_events(tmp_path) == ([], 0)
    note_event(tmp_path, "started", "2 workers begin", workers=2)
    events, place = read_events(tmp_path)
    assert [(e["event"], e["text"], e["workers"]) for e in events] == [("started", "2 workers begin", 2)]
    with (tmp_path / "events.jsonl").open("a") as handle:
        handle.write('{"event": "half')
    assert read_events(tmp_path, place) == ([], place)
    note_event(tmp_path, "next", "begins a line of its own")
    assert [event["event"] for event in read_events(tmp_path, place)[0]] == ["next"]
    note_event(tmp_path / "nowhere", "lost", "a folder that is not there ends nothing")
