"""A file written past the page cache: what is written once and read much later has no place there.

Filling fresh pages costs the processor more than decoding small videos does (benchmarks/ingest_throughput.py). Data is
gathered in one aligned buffer while a thread hands the other one to the disk. Where the file system can't do that, the
same calls go through the cache.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_BUFFER = 4 << 20
_ALIGNMENT = 4096  # of memory, places and lengths; no disk asks for more
_DIRECT: int = getattr(os, "O_DIRECT", 0)


# Buffers of files that are closed: filling new pages costs more than writing them out.
_spare: list[memoryview] = []


def _aligned_buffer() -> memoryview:
    pages = mmap.mmap(-1, _BUFFER)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # only a matter of speed
            pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


class DirectFile:
    """A new file at `path`, written from its start to its end. Raises OSError, a write late perhaps."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            self._descriptor = os.open(path, flags | _DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)  # some file systems make the file before they refuse
            self._descriptor = os.open(path, flags, 0o644)
        self._buffers = [_spare.pop() if _spare else _aligned_buffer() for _ in range(2)]
        self._filled = 0
        self._length = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def tell(self) -> int:
        """How many bytes were written."""
        return self._length

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; `data` may be changed once this returns."""
        view = memoryview(data)
        self._length += len(view)
        while view:
            taken = min(len(view), _BUFFER - self._filled)
            self._buffers[0][self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]
            if self._filled == _BUFFER:
                self._hand_over(_BUFFER)

    def finish(self) -> None:
        """Write what is left, sync and close."""
        try:
            self._hand_over(-(-self._filled // _ALIGNMENT) * _ALIGNMENT)
            self._wait()
            os.ftruncate(self._descriptor, self._length)  # the last block was written whole
            os.fsync(self._descriptor)
        finally:
            self.close()

    def close(self) -> None:
        """Close, whatever is written so far; again does nothing."""
        self._thread.shutdown(wait=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            _spare.extend(self._buffers[: max(0, 2 - len(_spare))])
            self._buffers = []

    def _hand_over(self, length: int) -> None:
        self._wait()
        self._buffers.reverse()
        self._filled = 0
        if length:
            self._writing = self._thread.submit(self._write_out, self._buffers[1][:length])

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write_out(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except OSError as error:
                flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & _DIRECT:
                    raise
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
