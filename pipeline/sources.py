"""What to ingest: files, folders, globs, lists (text, CSV, Parquet) and fsspec URLs become one list of locations."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from codec.errors import UsageError

VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".3gp",
    ".ogv", ".y4m", ".264", ".h264", ".265", ".h265", ".hevc", ".ivf", ".vob", ".mxf",
}  # fmt: skip
_LISTS = {".txt", ".csv", ".parquet"}
_CHANGE_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime", "updated", "last_modified")
_LIST_COLUMNS = ("source", "path", "video", "url", "file")


def is_remote(location: str) -> bool:
    return "://" in location


def printable(text: str) -> str:
    """A location, or words with one in them, as tables and messages hold it: Python's stand-ins for bytes of a file
    name that are not UTF-8 are spelled out (`\\udce9`)."""
    return text.encode(errors="backslashreplace").decode()


def find_sources(given: Iterable[str | Path], also: frozenset[str] = frozenset()) -> list[str]:
    """Locations of all videos, each once, in the order given (folders and globs sorted).

    Files named directly are taken whatever their ending; in folders (searched through) and behind globs only video
    endings count, and those of `also` in local ones. Raises UsageError for what does not exist, and where no video is
    found.
    """
    found: dict[str, None] = {}
    names = [str(item) for item in given]
    for item in names:
        for location in _expand(item, VIDEO_SUFFIXES | also):
            found[location] = None
    if not found:
        raise UsageError(f"no videos in {', '.join(names) or 'an empty list'}; known endings: {_endings()}")
    return list(found)


def _expand(item: str, suffixes: set[str]) -> list[str]:
    if is_remote(item):
        return _expand_remote(item)
    path = Path(item)
    if path.is_dir():
        return _in_folder(path, suffixes)
    if path.is_file():
        return _from_list(path) if path.suffix.lower() in _LISTS else [str(path.resolve())]
    if glob.has_magic(item):
        matches = [Path(match) for match in sorted(glob.glob(item, recursive=True))]  # noqa: PTH207
        return [str(m.resolve()) for m in matches if m.is_file() and m.suffix.lower() in suffixes]
    raise UsageError(f"'{item}': no such file or folder")


def _in_folder(folder: Path, suffixes: set[str]) -> list[str]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root) / name
            if path.suffix.lower() in suffixes and not name.startswith("."):
                found.append(str(path.resolve()))
    return found


def _from_list(path: Path) -> list[str]:
    """Entries of a list; relative ones are relative to the list. A missing one is found out when its turn comes."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".txt":
            lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
            entries = [line for line in lines if line and not line.startswith("#")]
        elif suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as handle:
                rows = [row for row in csv.reader(handle) if row]
            head = [name.strip().lower() for name in rows[0]] if rows else []
            column = next((head.index(name) for name in _LIST_COLUMNS if name in head), None)
            entries = [row[column or 0].strip() for row in (rows if column is None else rows[1:])]
        else:
            table = pq.read_table(path)
            name = next((n for n in _LIST_COLUMNS if n in table.column_names), table.column_names[0])
            entries = [str(value) for value in table[name].to_pylist()]
    except (ValueError, IndexError, OSError) as error:
        raise UsageError(f"'{path}': not a readable list of videos ({str(error).splitlines()[0]})") from error
    return [entry if is_remote(entry) else str((path.resolve().parent / entry).resolve()) for entry in entries]


def _expand_remote(item: str) -> list[str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(item)
        if glob.has_magic(path):
            names = [name for name in filesystem.glob(path) if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        elif filesystem.isdir(path):
            names = [name for name in filesystem.find(path) if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        elif filesystem.exists(path):
            return [item]
        else:
            raise UsageError(f"'{item}': no such file or folder")
        return [str(filesystem.unstrip_protocol(name)) for name in sorted(names)]
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"'{item}': can't be reached ({str(error).splitlines()[0]})") from error


def stamp_of(location: str) -> str:
    """Size and time of a source, or the remote system's fingerprint: equal means unchanged. Empty: unknown."""
    try:
        if not is_remote(location):
            status = Path(location).stat()
            return f"{status.st_size}:{status.st_mtime_ns}"
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(location)
        facts = filesystem.info(path)
        # Not the file system's own `ukey`: it covers whatever a listing or a look at the file happened to tell.
        marks = (facts.get(name) for name in _CHANGE_MARKS)
        return f"{facts['size']}:{next((str(mark) for mark in marks if mark), None) or filesystem.ukey(path)}"
    except Exception:  # a fingerprint is only a shortcut; reading the source itself will say what is wrong
        return ""


def _endings() -> str:
    return ", ".join(sorted(suffix.lstrip(".") for suffix in VIDEO_SUFFIXES))
