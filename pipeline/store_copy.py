"""A store from one place to another, file by file; what is there already with the same size is not copied again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from codec.errors import UsageError
from pipeline.manifest import (
    PARTS_FILE,
    QUARANTINE,
    SHARDS,
    Store,
    committed_names,
    create_or_check_store,
    manifest_files,
    read_store_settings,
)
from pipeline.shards import blaming_store
from pipeline.store_folder import open_store_folder
from pipeline.store_lock import sole_writer

_COPIED_AT_ONCE = 1 << 22


def copy_store(source: Store, target: Store, on_file: Callable[[int, int], None] | None = None) -> tuple[int, int]:
    """Copy what `target` lacks; gives the files and bytes copied. on_file gets (files done, files in all).

    Shards come first, so the copy is a whole store of fewer clips if it is stopped. Fragments and tables are always
    copied: they may have changed at the same size. Raises UsageError where `target` is a store with other settings or
    has sources that `source` has not, BitreelError where somebody is writing to it.
    """
    origin, copy = open_store_folder(source), open_store_folder(target)
    settings = read_store_settings(origin)
    with blaming_store(copy):
        create_or_check_store(copy, {key: value for key, value in settings.items() if key != "format"})
    # An ingest into the copy would have what it commits meanwhile taken for stale.
    with sole_writer(copy), blaming_store(copy):
        if own := committed_names(copy) - committed_names(origin):
            raise UsageError(
                f"store '{copy}' has sources that '{origin}' has not ({len(own)}); copy to a new folder, or ingest "
                f"them into '{origin}' first"
            )
        # The manifest before the shards: while an ingest goes on, what it names is then among them.
        parts, fragments = manifest_files(origin)
        there = copy.listing(SHARDS)
        shards = origin.listing(SHARDS)
        missing = [name for name, file in shards.items() if name not in there or there[name].size != file.size]
        stale = [name for name in manifest_files(copy)[1] if name not in fragments]
        quarantine = [f"{QUARANTINE}/{name}" for name in origin.listing(QUARANTINE)]
        index = [PARTS_FILE] if parts else []
        names = [*(f"{SHARDS}/{name}" for name in sorted(missing)), *parts, *index, *fragments, *quarantine]
        size = 0
        for done, name in enumerate(names, start=1):
            scratch = copy.scratch(name)
            try:
                with origin.open(name) as reader, scratch.open("xb") as writer:
                    shutil.copyfileobj(reader, writer, _COPIED_AT_ONCE)
                    size += writer.tell()
                    writer.flush()
                    os.fsync(writer.fileno())
                copy.adopt(scratch, name)
            except BaseException:
                copy.discard(scratch)
                raise
            if on_file is not None:
                on_file(done, len(names))
        for name in stale:  # merged into the origin's parts meanwhile
            copy.remove(name)
    return len(names), size
