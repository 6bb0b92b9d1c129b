"""Files that are either whole under their name or not there: temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codec.errors import BitreelError

PART = ".part"  # in the name of every unfinished file, which also begins with a dot


def unfinished_path(path: Path) -> Path:
    """A name in the same folder that no finished file has."""
    return path.with_name(f".{path.name}{PART}{secrets.token_hex(4)}")


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn an OSError of writing (full disk, no permission) into one that names the file the user asked for."""
    try:
        yield
    except OSError as error:
        raise BitreelError(f"can't write '{path}': {error.strerror or error}") from error


def commit(temporary: Path, path: Path) -> None:
    """Make a written file durable and give it its name."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a whole file; makes its folder where it is missing. On any failure nothing is left behind. Not `durable`,
    it does not wait for the disk, and may be empty after the machine went down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished_path(path)
    try:
        temporary.write_bytes(data)
        if durable:
            commit(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomically(path: Path, data: Any, durable: bool = True) -> None:
    """Write plain data as JSON; what JSON does not know goes through str."""
    write_atomically(path, (json.dumps(data, indent=2, default=str) + "\n").encode(), durable)
