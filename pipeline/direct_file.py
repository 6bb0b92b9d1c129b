"""A file written past the page cache: what is written once and read much later has no place there.

Filling fresh pages costs the processor more than decoding small videos does (benchmarks/ingest_throughput.py). Data is
gathered in one aligned buffer, or made right there (`room`), while a thread hands the other one to the disk. Where the
file system can't do that, the same calls go through the cache.
"""

from __future__ import annotations

import errno
import fcntl
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

_BUFFER = 8 << 20
_ALIGNMENT = 4096  # of memory, places and lengths; no disk asks for more
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_MOST_FOR_BOTH = 512 << 20  # larger rooms get one buffer, which waits for the disk
_KEPT = 64 << 20
_SLACK = 1 << 20  # beyond a large room: what lies before and after it

# Buffers of files that are closed: filling new pages costs more than writing them out.
_spare: list[memoryview] = []


def _aligned_buffer(size: int) -> memoryview:
    """Of at least `size` bytes. By NumPy, which asks for huge pages and raises MemoryError."""
    pages = np.empty(-(-size // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT, np.uint8)
    first = -pages.ctypes.data % _ALIGNMENT
    return pages[first : first + len(pages) - _ALIGNMENT].data


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
        self._buffers = [_spare.pop() if _spare else _aligned_buffer(_BUFFER) for _ in range(2)]  # filled, written
        self._filled = 0
        self._length = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def tell(self) -> int:
        """How many bytes were written."""
        return self._length

    def room(self, size: int) -> memoryview:
        """Memory for the next `size` bytes of the file, to be filled and then appended by `advance`.

        Asked for again, it is the same memory. Raises MemoryError where there is none.
        """
        if self._filled + size > len(self._buffers[0]):
            self._hand_over()
            if self._filled + size > len(self._buffers[0]):
                self._enlarge(self._filled + size + _SLACK)
        return self._buffers[0][self._filled : self._filled + size]

    def advance(self, size: int) -> None:
        """Append the first `size` bytes of the room asked for last."""
        self._filled += size
        self._length += size

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; `data` may be changed once this returns."""
        view = memoryview(data)
        while view:
            if self._filled == len(self._buffers[0]):
                self._hand_over()
            taken = min(len(view), len(self._buffers[0]) - self._filled)
            self._buffers[0][self._filled : self._filled + taken] = view[:taken]
            self.advance(taken)
            view = view[taken:]

    def finish(self) -> None:
        """Write what is left, sync and close."""
        try:
            self._wait()
            self._write_out(self._buffers[0][: -(-self._filled // _ALIGNMENT) * _ALIGNMENT])
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
            kept = [buffer for buffer in (*_spare, *self._buffers) if len(buffer) <= _KEPT]
            _spare[:] = sorted(kept, key=len)[-2:]
            self._buffers = []

    def _hand_over(self) -> None:
        """Give the whole blocks to the disk. What is left begins the other buffer."""
        whole = self._filled // _ALIGNMENT * _ALIGNMENT
        rest = bytes(self._buffers[0][whole : self._filled])
        self._wait()
        if whole:
            self._writing = self._thread.submit(self._write_out, self._buffers[0][:whole])
        self._buffers.reverse()
        if len(self._buffers) == 1:
            self._wait()
        self._buffers[0][: len(rest)] = rest
        self._filled = len(rest)

    def _enlarge(self, size: int) -> None:
        """Get buffers of `size` bytes, and keep the few that are in the first one."""
        self._wait()
        rest = bytes(self._buffers[0][: self._filled])
        self._buffers = []
        self._buffers = [_aligned_buffer(size) for _ in range(2 if 2 * size <= _MOST_FOR_BOTH else 1)]
        self._buffers[0][: len(rest)] = rest

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
