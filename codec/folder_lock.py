"""A folder that one process at a time writes to."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codec.errors import BitreelError


@contextmanager
def only_writer(folder: Path, refusal: str) -> Iterator[None]:
    """Hold the folder's lock; raises BitreelError, saying `refusal`, where another process has it."""
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BitreelError(refusal) from error
        yield
