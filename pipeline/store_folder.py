"""Where a store lies: a folder of this machine, or one behind fsspec (s3://, gs://, ...). Files appear whole or not.

Names are relative and have at most one slash: "store.json", "shards/….tar", "manifest/….parquet".
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.fs as pf

from codec.atomic_files import PART, unfinished_path, write_atomically
from codec.errors import UsageError

LOCK = ".lock"  # of a local store; see pipeline.store_lock

# An unfinished or uncommitted file of a remote store may belong to an ingest on another machine until it is this old.
_REMOTE_LEFTOVER_SECONDS = 24 * 3600


@dataclass(frozen=True)
class StoredFile:
    """size in bytes; age in seconds since it was written."""

    size: int
    age: float


class StoreFolder(ABC):
    """The files of a store. Raises OSError as the file system does."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return self.url

    @property
    def leftover_age(self) -> float:
        """How old, in seconds, a file without a commit must be to be nobody's."""
        return 0.0

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def listing(self, folder: str) -> dict[str, StoredFile]:
        """The files in a sub-folder ("" is the top), by name without the folder; unfinished ones are left out."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open for reading at any position."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, which replaces the one there in one step."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""

    @abstractmethod
    def scratch(self, name: str) -> Path:
        """A local path at which the file `name` can be written before `adopt` gives it its name."""

    @abstractmethod
    def adopt(self, scratch: Path, name: str) -> None:
        """Give a finished (and synced) scratch file its name."""

    @abstractmethod
    def discard(self, scratch: Path) -> None:
        """Remove a scratch file that is not wanted."""

    @abstractmethod
    def make(self, folders: tuple[str, ...]) -> None:
        """Make the store's folder and sub-folders. Raises UsageError where there is more than the beginning of a store
        in it."""

    @abstractmethod
    def arrow(self) -> tuple[pf.FileSystem, str]:
        """An Arrow file system, and the store's path in it."""

    def read(self, name: str) -> bytes:
        with self.open(name) as handle:
            return handle.read()


class LocalFolder(StoreFolder):
    """A folder that this machine (and each that works on the store) sees under the same path."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def listing(self, folder: str) -> dict[str, StoredFile]:
        found = {}
        now = time.time()
        if not (self.path / folder).is_dir():
            return {}
        with os.scandir(self.path / folder) as entries:
            for entry in entries:
                if not _is_unfinished(entry.name) and entry.is_file():
                    status = entry.stat()
                    found[entry.name] = StoredFile(status.st_size, now - status.st_mtime)
        return found

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def write(self, name: str, data: bytes) -> None:
        write_atomically(self.path / name, data)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def scratch(self, name: str) -> Path:
        return unfinished_path(self.path / name)

    def adopt(self, scratch: Path, name: str) -> None:
        scratch.replace(self.path / name)

    def discard(self, scratch: Path) -> None:
        scratch.unlink(missing_ok=True)

    def make(self, folders: tuple[str, ...]) -> None:
        # What a start that was cut off left, or another that is under way, is none of the other things.
        own = [self.path / name for name in folders]
        places = [place for place in (self.path, *own) if place.is_dir()]
        inside = {path for place in places for path in place.iterdir() if not _is_unfinished(path.name)}
        if inside - {*own, self.path / LOCK}:
            raise UsageError(f"'{self}' is a folder with other things in it; give --store a new or empty folder")
        for path in own:
            path.mkdir(parents=True, exist_ok=True)

    def arrow(self) -> tuple[pf.FileSystem, str]:
        return pf.LocalFileSystem(), str(self.path)

    def remove_unfinished(self, folders: tuple[str, ...]) -> None:
        """Remove what writers that are gone left without a name."""
        for folder in ("", *folders):
            for path in (self.path / folder).glob(f".*{PART}*"):
                path.unlink(missing_ok=True)


class RemoteFolder(StoreFolder):
    """A folder of an object store: an object appears when its upload is complete, and there are no folders to make."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UsageError(f"'{url}': can't be reached ({str(error).splitlines()[0]})") from error
        self._root = self._root.rstrip("/")

    @property
    def leftover_age(self) -> float:
        return _REMOTE_LEFTOVER_SECONDS

    def exists(self, name: str) -> bool:
        return bool(self._fs.isfile(f"{self._root}/{name}"))

    def listing(self, folder: str) -> dict[str, StoredFile]:
        where = f"{self._root}/{folder}".rstrip("/")
        try:
            entries = self._fs.ls(where, detail=True)
        except FileNotFoundError:
            return {}
        found, now = {}, time.time()
        for entry in entries:
            name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
            if entry["type"] == "file" and name and not name.startswith("."):
                found[name] = StoredFile(int(entry["size"]), now - _written(entry))
        return found

    def open(self, name: str) -> BinaryIO:
        handle: BinaryIO = self._fs.open(f"{self._root}/{name}", "rb")
        return handle

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", data)

    def remove(self, name: str) -> None:
        try:
            self._fs.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return

    def scratch(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix="bitreel-upload-")) / Path(name).name

    def adopt(self, scratch: Path, name: str) -> None:
        self._fs.put_file(str(scratch), f"{self._root}/{name}")
        self.discard(scratch)

    def discard(self, scratch: Path) -> None:
        shutil.rmtree(scratch.parent, ignore_errors=True)

    def make(self, folders: tuple[str, ...]) -> None:
        if self.listing(""):
            raise UsageError(f"'{self}' is a folder with other things in it; give --store a new or empty folder")

    def arrow(self) -> tuple[pf.FileSystem, str]:
        return pf.PyFileSystem(pf.FSSpecHandler(self._fs)), self._root


def open_store_folder(store: str | Path | StoreFolder) -> StoreFolder:
    """A path, or a URL as a string. Raises UsageError where a URL's protocol is unknown or its driver not installed."""
    if isinstance(store, StoreFolder):
        return store
    if isinstance(store, str) and "://" in store:
        return RemoteFolder(store)
    return LocalFolder(Path(store))


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and PART in name


def _written(entry: dict[str, Any]) -> float:
    """When an object was written, in Unix seconds; objects whose store does not say are taken for new."""
    for key in ("LastModified", "mtime", "updated", "created", "last_modified"):
        value = entry.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return time.time()
