"""Checkpoints written beside the training, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from codec.errors import BitreelError
from trainers.checkpoint import Snapshot
from trainers.checkpoint_folder import CheckpointFolder


class CheckpointWriter:
    """Writes snapshots from a thread of its own, at most one at a time: the next one waits until the last is written.

    A checkpoint that can't be written (full disk) is told through `on_failure` and passed over: training goes on, the
    next one is tried as usual. `on_written` gets each finished step and folder, in the writing thread.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        on_written: Callable[[int, Path], None],
        on_failure: Callable[[int, str], None],
    ) -> None:
        self.folder, self._on_written, self._on_failure = folder, on_written, on_failure
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._failure: str | None = None

    def submit(self, snapshot: Snapshot) -> None:
        """Write a snapshot soon; waits for the one before."""
        self.wait()
        self._pending = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Return once nothing is being written. Raises what `on_written` raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread. Raises BitreelError where the last checkpoint could not be written."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
        if self._failure is not None:
            raise BitreelError(self._failure)

    def _write(self, snapshot: Snapshot) -> None:
        try:
            path = self.folder.write(snapshot)
        except (OSError, BitreelError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            where = self.folder.path(snapshot.step)
            self._failure = f"can't write checkpoint '{where}': {reason}; make room or mend the folder"
            self._on_failure(snapshot.step, self._failure)
            return
        self._failure = None
        self._on_written(snapshot.step, path)
