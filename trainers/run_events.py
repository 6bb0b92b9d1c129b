"""What happened to a run, one line of JSON each: attempts, checkpoints that failed, notices. Survives every worker.

{"time": 1760000000.0, "event": "started", "text": "2 workers go on from step 400", …}
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.jsonl"


def note_event(folder: Path, event: str, text: str, **details: Any) -> None:
    """Append one line; lines of several processes don't mix. What can't be written (full disk) is let go,
    with a warning."""
    line = json.dumps({"time": time.time(), "event": event, "text": text} | details).encode() + b"\n"
    try:
        descriptor = os.open(folder / EVENTS_FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a full disk cut the last line off
                line = b"\n" + line
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        logging.getLogger(__name__).warning("an event of the run is not written down (%s): %s", error, text)


def read_events(folder: Path, from_byte: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from a place in the file on, and the place after them."""
    try:
        with (folder / EVENTS_FILE).open("rb") as handle:
            handle.seek(from_byte)
            data = handle.read()
    except OSError:
        return [], from_byte
    whole = data[: data.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # a line that a full disk cut off, or an empty one after it
    return events, from_byte + len(whole)
