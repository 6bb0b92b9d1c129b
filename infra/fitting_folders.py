"""Where the results of fitted videos lie: one folder a video, found again by what is in the video, not by its name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from codec.atomic_files import PART, write_json_atomically
from infra.fitting_results import ONE_PASS_FOLDER

_VIDEO_FILE = "video.json"


@dataclass(frozen=True)
class ChosenVideo:
    """A video, the name of its folder, and the BLAKE3 checksum of its bytes."""

    video: Path
    name: str
    checksum: str


@dataclass
class ChosenVideos:
    """Videos with a folder each. duplicates: video -> the one with the same content; unreadable: video -> reason."""

    items: list[ChosenVideo] = field(default_factory=list)
    duplicates: dict[Path, Path] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)


def choose_folders(out: Path, videos: Sequence[Path], on_read: Callable[[Path], None]) -> ChosenVideos:
    """Give each video a folder below `out`: the one that its content had in an earlier run, or else a new one.

    A new one is named for the file, with a number where that name is taken, so that no video's streams ever replace
    those of another. on_read is told of each video whose checksum is known.
    """
    names = _known(out)
    chosen = ChosenVideos()
    first: dict[str, Path] = {}
    for video in videos:
        try:
            checksum = blake3(max_threads=blake3.AUTO).update_mmap(video).hexdigest()
        except OSError as error:
            chosen.unreadable[video] = f"'{video}' can't be read: {error.strerror or error}"
            continue
        on_read(video)
        if checksum in first:
            chosen.duplicates[video] = first[checksum]
            continue
        first[checksum] = video
        name = names.get(checksum) or _free_name(out, video)
        note = {"video": str(video), "checksum": checksum}
        write_json_atomically(out / name / _VIDEO_FILE, note)
        chosen.items.append(ChosenVideo(video, name, checksum))
    return chosen


def remove_leftovers(folder: Path) -> None:
    """Remove what tasks that were stopped left half written in a video's folder. The lock must be held."""
    for place in (folder, folder / ONE_PASS_FOLDER):
        for path in place.glob(f".*{PART}*"):
            path.unlink(missing_ok=True)
    for path in folder.glob(".decode-*"):
        shutil.rmtree(path, ignore_errors=True)


def _known(out: Path) -> dict[str, str]:
    """Checksum -> folder's name, of earlier runs."""
    names = {}
    for path in sorted(out.glob(f"*/{_VIDEO_FILE}")):
        try:
            names[str(json.loads(path.read_text())["checksum"])] = path.parent.name
        except (ValueError, KeyError, TypeError):
            continue  # not ours; its name is taken all the same
    return names


def _free_name(out: Path, video: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", video.stem).lstrip(".") or "video"
    name, number = stem, 1
    while (out / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name
