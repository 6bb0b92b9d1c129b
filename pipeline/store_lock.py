"""Who writes to a store: one process at a time to a local one; a remote one has no lock."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from codec.folder_lock import only_writer
from pipeline.shards import blaming_store
from pipeline.store_folder import LOCK, LocalFolder, StoreFolder


@contextmanager
def sole_writer(store: StoreFolder) -> Iterator[None]:
    """Hold the store's lock. Raises BitreelError where another process has it, StoreWriteError where there can be none.

    Two writers at once would take each other's unfinished files for leftovers. A remote store is the caller's to keep
    quiet; what an ingest elsewhere is writing there is known by its age.
    """
    with ExitStack() as held:
        if isinstance(store, LocalFolder):
            refusal = f"another process is writing to store '{store}'; wait for it or stop it"
            with blaming_store(store):
                held.enter_context(only_writer(store.path, refusal))
        yield


def has_writer(store: StoreFolder) -> bool:
    """Whether a process holds the lock of a local store."""
    if not isinstance(store, LocalFolder) or not store.exists(LOCK):
        return False
    with store.open(LOCK) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
