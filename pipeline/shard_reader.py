"""Reading pieces of shards by place, from disks that now and then fail.

Reads are plain `pread`s, not a memory map: where a network disk fails, a map kills the process with SIGBUS, and a read
says what is wrong and can be tried again.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.errors import BitreelError

_OPEN_SHARDS = 256
_STATED = 4096  # shards whose sizes are looked at before the first read; the rest when they are opened
_PASSING = {
    errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.EREMOTEIO,
}  # fmt: skip
RETRY_DELAYS = (0.1, 0.5, 2.0, 8.0, 20.0, 30.0)  # seconds; a server that restarts is back in about a minute


class ShardReader:
    """Fills arrays from shards of a folder; keeps the files it used last open. May be used by several threads.

    retries: how often a read was tried again after an error that passed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self.retries = 0

    def check(self, shards: list[str], ends: NDArray[np.int64]) -> None:
        """Raise BitreelError where a shard is missing or ends before its last clip does.

        All names are looked for in one listing. Sizes are asked for file by file, so of many shards only some are.
        """
        try:
            present = {entry.name for entry in os.scandir(self._folder)}
        except OSError as error:
            raise BitreelError(f"'{self._folder}' can't be listed: {error.strerror}") from error
        for name in shards:
            if name not in present:
                raise self._damaged(name, "is missing")
        for index in np.unique(np.linspace(0, len(shards) - 1, min(len(shards), _STATED)).astype(int)):
            if (self._folder / shards[index]).stat().st_size < ends[index]:
                raise self._damaged(shards[index], "is shorter than the manifest says")

    def read(self, shard: str, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill `out`, C-contiguous uint8, with the shard's bytes from `offset`.

        Errors that may pass are waited out for about a minute. Raises BitreelError for those that don't, and where the
        shard is missing or too short.
        """
        view = out.reshape(-1).data
        for delay in (*RETRY_DELAYS, None):
            try:
                done = 0
                file = self._file(shard)
                while done < len(view):
                    count = os.preadv(file.descriptor, [view[done:]], offset + done)
                    if count == 0:
                        raise self._damaged(shard, "is shorter than the manifest says")
                    done += count
                return
            except OSError as error:
                self._forget(shard)  # a stale handle stays stale; the next try opens the file anew
                if error.errno == errno.ENOENT:
                    raise self._damaged(shard, "is missing") from error
                if error.errno not in _PASSING or delay is None:
                    raise self._damaged(shard, f"can't be read ({error.strerror})") from error
                self.retries += 1
                time.sleep(delay)

    def announce(self, shard: str, offset: int, length: int) -> None:
        """Let the kernel begin to read what is asked for soon. Errors are left for `read` to find."""
        if not hasattr(os, "posix_fadvise"):
            return
        try:
            os.posix_fadvise(self._file(shard).descriptor, offset, length, os.POSIX_FADV_WILLNEED)
        except OSError:
            self._forget(shard)

    def _file(self, shard: str) -> _OpenFile:
        with self._lock:
            file = self._open.pop(shard, None)
            if file is None:
                file = _OpenFile(self._folder / shard)
                while len(self._open) >= _OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open[shard] = file
            return file

    def _forget(self, shard: str) -> None:
        with self._lock:
            self._open.pop(shard, None)

    def _damaged(self, shard: str, what: str) -> BitreelError:
        return BitreelError(f"'{self._folder / shard}' {what}; run `bitreel store verify {self._folder.parent}`")


class _OpenFile:
    """A descriptor that is closed when the last thread that uses it has let go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
