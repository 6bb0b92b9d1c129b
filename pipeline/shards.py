"""Shards: WebDataset tars (`<key>.npy` beside `<key>.json`), plain USTAR, that get their names only when whole.

Members are written straight from the clip's buffer with headers by `tarfile`, without the copies that `addfile` makes.
"""

from __future__ import annotations

import errno
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from codec.errors import BitreelError
from pipeline.direct_file import DirectFile
from pipeline.store_folder import StoreFolder

_FOLDER = "shards"
SHARD_BYTES = 1 << 30  # a source that needs more gets several shards
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoreWriteError(BitreelError):
    """The store can't be written: full disk, no permission, I/O error. The videos are not to blame."""


@contextmanager
def blaming_store(store: Path | StoreFolder) -> Iterator[None]:
    """Turn an OSError inside into a StoreWriteError that names the store and the mend."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StoreWriteError(
                f"no space left for store '{store}'; make room and run the same command again, finished videos are kept"
            ) from error
        raise StoreWriteError(f"can't write to store '{store}': {error.strerror or error}") from error


class ShardWriter:
    """Writes the clips of one source into shards `<name>-0000.tar`, `<name>-0001.tar`, ...

    `add` or `leave_out` as often as needed, then `commit`, which gives the rows; or `abort`.
    Raises OSError as the disk does.
    """

    def __init__(self, folder: StoreFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._parts: list[tuple[Path, str]] = []  # temporary, final name
        self._handle: DirectFile | None = None
        self._rows: list[dict[str, Any]] = []

    def add(self, key: str, array: NDArray[np.uint8], facts: dict[str, Any]) -> dict[str, Any]:
        """Append a sample: uint8 array of any shape, and facts for its JSON. Gives the growing manifest row."""
        handle = self._handle
        if handle is None or handle.tell() + array.nbytes > SHARD_BYTES:
            handle = self._next()
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
        header = head.getvalue()
        body = np.ascontiguousarray(array).data.cast("B")
        row = {"clip_id": blake3(header).update(body).hexdigest(), "key": key, **facts}
        _write_member(handle, f"{key}.json", json.dumps(row, sort_keys=True).encode())
        offset = _write_member(handle, f"{key}.npy", header, body)
        row |= {"shard": self._parts[-1][1], "offset": offset, "length": len(header) + len(body)}
        self._rows.append(row)
        return row

    def leave_out(self, key: str, facts: dict[str, Any]) -> None:
        """Keep a clip's row, in its place among the others, without its pixels."""
        self._rows.append({"clip_id": "", "key": key, **facts, "shard": "", "offset": 0, "length": 0})

    def commit(self) -> list[dict[str, Any]]:
        """Finish and sync all shards and give them their names; gives the rows."""
        self._finish()
        for temporary, final in self._parts:
            self._folder.adopt(temporary, f"{_FOLDER}/{final}")
        return self._rows

    def abort(self) -> None:
        """Remove everything that was written."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        for temporary, _ in self._parts:
            self._folder.discard(temporary)

    def _next(self) -> DirectFile:
        self._finish()
        final = f"{self._name}-{len(self._parts):04d}.tar"
        self._parts.append((self._folder.scratch(f"{_FOLDER}/{final}"), final))
        self._handle = DirectFile(self._parts[-1][0])
        return self._handle

    def _finish(self) -> None:
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        try:
            blocks = handle.tell() + 2 * tarfile.BLOCKSIZE
            handle.write(b"\0" * (2 * tarfile.BLOCKSIZE + -blocks % tarfile.RECORDSIZE))
            handle.finish()
        finally:
            handle.close()


def _write_member(handle: DirectFile, name: str, *pieces: bytes | memoryview) -> int:
    """Append a member; gives the place of its first byte."""
    info = tarfile.TarInfo(name)
    info.size = sum(len(piece) for piece in pieces)
    info.mode = 0o444
    place = handle.tell() + tarfile.BLOCKSIZE
    for piece in (info.tobuf(tarfile.USTAR_FORMAT), *pieces, b"\0" * (-info.size % tarfile.BLOCKSIZE)):
        handle.write(piece)
    return place
