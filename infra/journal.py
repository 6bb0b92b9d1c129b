"""A file that one process appends JSON lines to, and a mark of how far they were passed on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """The lines of `path`; the mark lies beside it as `NAME.sent`. Opening one that is not there makes nothing yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = path.with_suffix(".sent")
        self._descriptor = -1
        try:
            self.sent = int(self._mark.read_text())
        except (OSError, ValueError):
            self.sent = 0

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line, in one write: a process killed in the middle leaves at most one broken line, the last.

        Raises OSError where the disk does not take it; then nothing of it is there.
        """
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        before = os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, line) < len(line):  # how a disk that fills up midway shows itself
            os.ftruncate(self._descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Make what was appended here durable."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def entries(self, first: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Whole lines from byte `first` on, each with the place after it. A line that is no JSON is left out."""
        try:
            handle = self.path.open("rb")
        except FileNotFoundError:
            return
        with handle:
            handle.seek(first)
            place = first
            for line in handle:
                if not line.endswith(b"\n"):
                    return
                place += len(line)
                with contextlib.suppress(ValueError):
                    yield json.loads(line), place

    def has_unsent(self) -> bool:
        """Whether there is a whole line after the mark."""
        return next(self.entries(self.sent), None) is not None

    def note_sent(self, place: int) -> None:
        """Everything before `place` is passed on. Should the note be lost, it is passed on again."""
        self.sent = place
        temporary = self._mark.with_suffix(".sent.part")
        temporary.write_text(str(place))
        temporary.replace(self._mark)
