"""Shards: WebDataset tars (`<key>.npy` beside `<key>.json`), plain USTAR, that get their names only when whole.

A clip is put together right where it goes to the disk from: `room` gives the memory, `add` puts the headers around it.
The array comes before the JSON, so that its place is known before there are facts.
"""

from __future__ import annotations

import errno
import io
import json
import math
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
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
_HASHED_AT_ONCE = 1 << 17  # bytes; BLAKE3 is quickest on whole ones of these, from the first byte hashed
_as_json = json.JSONEncoder(sort_keys=True).encode
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EROFS, errno.EACCES, errno.EPERM}


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
        mend = ""
        if error.errno in _NO_PERMISSION:
            mend = "; make it writable, or use a store where you may write"
        raise StoreWriteError(f"can't write to store '{store}': {error.strerror or error}{mend}") from error


class ShardWriter:
    """Writes the clips of one source into shards `<name>-0000.tar`, `<name>-0001.tar`, ...

    `add` or `leave_out` as often as needed, then `commit`, which gives the rows; or `abort`.
    Where the disk fails, raises StoreWriteError.
    """

    def __init__(self, folder: StoreFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._parts: list[tuple[Path, str]] = []  # temporary, final name
        self._handle: DirectFile | None = None
        self._rows: list[dict[str, Any]] = []
        self._room, self._body = np.empty(0, np.uint8), memoryview(b"")  # the same memory
        self._digest, self._hashed = blake3(), 0  # of the array's header and the room, so many bytes

    def room(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for the next clip, uint8 of this shape. `add` takes it, or its first frames, without a copy.

        It is the writer's: void after `add` and `commit`. Raises MemoryError where there is none.
        """
        size = math.prod(shape)
        with blaming_store(self._folder):
            view = self._open_for(size).room(_LEAD + size)
        self._room = np.frombuffer(view, np.uint8, size, _LEAD).reshape(shape)
        self._body = view[_LEAD:]
        self._digest, self._hashed = blake3(_npy_header(shape)), _HEADER
        return self._room

    def settle(self, frames: int) -> None:
        """The first frames of the room are made: they are hashed now, out of the processor's caches."""
        end = _HEADER + frames * (self._room.nbytes // len(self._room))
        if frames < len(self._room):
            end -= end % _HASHED_AT_ONCE
        if end > self._hashed:
            self._digest.update(self._body[self._hashed - _HEADER : end - _HEADER])
            self._hashed = end

    def add(self, key: str, array: NDArray[np.uint8], facts: dict[str, Any]) -> dict[str, Any]:
        """Append a sample: uint8 array of any shape, and facts for its JSON. Gives the growing manifest row."""
        with blaming_store(self._folder):
            return self._add(key, array, facts)

    def _add(self, key: str, array: NDArray[np.uint8], facts: dict[str, Any]) -> dict[str, Any]:
        handle = self._open_for(array.nbytes)
        header, body = _npy_header(array.shape), np.ascontiguousarray(array).reshape(-1)
        settled = array.shape == self._room.shape and self._hashed == len(header) + array.nbytes
        if not settled or body.ctypes.data != self._room.ctypes.data:
            self._digest = blake3(header).update(body.data)
        row = {"clip_id": self._digest.hexdigest(), "key": key, **facts}
        length = len(header) + len(body)
        head = _tar_header(f"{key}.npy", length) + header
        member = np.frombuffer(handle.room(len(head) + len(body)), np.uint8)
        if member[len(head) :].ctypes.data != body.ctypes.data:
            member[len(head) :] = body
        member[: len(head)] = np.frombuffer(head, np.uint8)
        offset = handle.tell() + tarfile.BLOCKSIZE
        handle.advance(len(member))
        text = _as_json(row).encode()
        handle.write(_padding(length) + _tar_header(f"{key}.json", len(text)) + text + _padding(len(text)))
        row |= {"shard": self._parts[-1][1], "offset": offset, "length": length}
        self._rows.append(row)
        return row

    def leave_out(self, key: str, facts: dict[str, Any]) -> None:
        """Keep a clip's row, in its place among the others, without its pixels."""
        self._rows.append({"clip_id": "", "key": key, **facts, "shard": "", "offset": 0, "length": 0})

    def commit(self) -> list[dict[str, Any]]:
        """Finish and sync all shards and give them their names; gives the rows."""
        with blaming_store(self._folder):
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

    def _open_for(self, size: int) -> DirectFile:
        """The shard that has place for an array of `size` bytes."""
        if self._handle is None or self._handle.tell() + size > SHARD_BYTES:
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
            if handle.tell() == 0:  # there was a room, but no clip in the end
                self._folder.discard(self._parts.pop()[0])
                return
            blocks = handle.tell() + 2 * tarfile.BLOCKSIZE
            handle.write(b"\0" * (2 * tarfile.BLOCKSIZE + -blocks % tarfile.RECORDSIZE))
            handle.finish()
        finally:
            handle.close()


@lru_cache(64)
def _npy_header(shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return head.getvalue()


_HEADER = len(_npy_header((16, 360, 426)))  # in fact always as long
_LEAD = tarfile.BLOCKSIZE + _HEADER  # the headers before an array


_MEMBER = tarfile.TarInfo()
_MEMBER.mode = 0o444
_BARE_HEADER = _MEMBER.tobuf(tarfile.USTAR_FORMAT)


def _tar_header(name: str, size: int) -> bytes:
    """The header that `tarfile` makes, from a filled-in form. name: ASCII, less than 100 characters."""
    header = bytearray(_BARE_HEADER)
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % size
    header[148:155] = b" " * 7
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % tarfile.BLOCKSIZE)
