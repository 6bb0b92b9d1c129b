"""Which videos an evaluation is on: those of test sets found in a user's folders, and any others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from codec.errors import BitreelError, UsageError, VideoError
from infra.evaluation_source import EvaluationSource
from infra.sequence_catalogue import CatalogueSequence, SequenceCatalogue, load_catalogue
from pipeline.raw_names import RawForm, raw_form
from pipeline.sources import VIDEO_SUFFIXES

_SUFFIXES = (".yuv", ".y4m", *sorted(VIDEO_SUFFIXES - {".y4m"}))  # exact ones first
_SIZE = re.compile(r"(?<![0-9])([0-9]{2,5})x([0-9]{2,5})(?![0-9])")


@dataclass(frozen=True)
class EvaluationVideo:
    """A video to evaluate on. name: as results call it, by default the file's. raw: how to read a raw .yuv whose name
    does not tell. expected: what a catalogue says of it, checked when it is read."""

    path: Path
    name: str | None = None
    raw: RawForm | None = None
    expected: CatalogueSequence | None = None


def find_test_sets(
    refs: Sequence[str], folders: Sequence[Path], cache: Path, *, allow_missing: bool = False
) -> tuple[list[EvaluationVideo], list[str]]:
    """The videos of several test sets, and notes for those who read the results.

    folders: none, one for all sets, or one for each. Raises UsageError where they do not fit, and as `load_catalogue`
    and `find_videos` do.
    """
    if len(folders) > 1 and len(folders) != len(refs):
        raise UsageError(f"{len(refs)} test sets and {len(folders)} folders: give one folder for all, or one each")
    videos, notes = [], []
    for index, ref in enumerate(refs):
        catalogue = load_catalogue(ref)
        folder = folders[min(index, len(folders) - 1)] if folders else None
        found, missing = find_videos(catalogue, folder, cache, allow_missing=allow_missing)
        videos += found
        if missing:
            notes.append(
                f"{catalogue.name}: {len(missing)} of {len(catalogue.sequences)} sequences are missing "
                f"({', '.join(missing)}), so means are not those of {catalogue.name}"
            )
        if catalogue.rendered:
            notes.append(f"{catalogue.name}: {catalogue.about}")
    return videos, notes


def with_raw_form(paths: Sequence[Path], size: str | None, fps: str | None) -> list[EvaluationVideo]:
    """Videos to be read; raw .yuv files with this size ("416x240") and frame rate ("50", "30000/1001") where given.

    Raises UsageError for a size or rate that is none.
    """
    wanted = _parse_size(size) if size else None
    rate = _parse_rate(fps) if fps else None
    videos = []
    for path in paths:
        form = None
        if path.suffix.lower() == ".yuv" and (wanted or rate):
            named = raw_form(path)
            shape = wanted or (named.size if named else None)
            if shape is None:
                raise UsageError(f"{path}: a raw .yuv file does not say its size; give --size WxH")
            form = RawForm(shape, rate or (named.fps if named else None))
        videos.append(EvaluationVideo(path, raw=form))
    return videos


def find_videos(
    catalogue: SequenceCatalogue, folder: Path | None, cache: Path, *, allow_missing: bool = False
) -> tuple[list[EvaluationVideo], list[str]]:
    """The catalogue's videos in `folder` (searched through), in its order, and the names of those that are missing.

    A file counts where its name begins with the sequence's name and names no other size: Jockey.y4m,
    Jockey_1920x1080_120fps_420_8bit_YUV.yuv, jockey_1080p.mp4. Where several do, a .yuv goes before a .y4m and that
    before others. Rendered sets go into a folder of `cache` and take no folder.

    Raises UsageError where any is missing (unless `allow_missing`, and then where all are) or ambiguous, or where the
    folder is missing; BitreelError where a file has another hash than the catalogue says.
    """
    if catalogue.rendered:
        return _rendered(catalogue, cache), []
    if folder is None or not folder.is_dir():
        said = "give --test-set-folder DIR" if folder is None else f"'{folder}' is no folder"
        raise UsageError(f"test set {catalogue.name}: {said}; its files are to be had at {catalogue.where}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    found, missing = [], []
    for sequence in catalogue.sequences:
        path = _file_of(sequence, files)
        if path is None:
            missing.append(sequence.name)
            continue
        _check_hash(path, sequence)
        raw = RawForm((sequence.width, sequence.height), sequence.fps) if path.suffix.lower() == ".yuv" else None
        found.append(EvaluationVideo(path, sequence.name, raw, sequence))
    if missing and (not found or not allow_missing):
        mend = "" if not found else "; --allow-missing evaluates the others"
        raise UsageError(
            f"test set {catalogue.name}: {len(missing)} of {len(catalogue.sequences)} sequences are not in '{folder}': "
            f"{', '.join(missing)}; to be had at {catalogue.where}{mend}"
        )
    return found, missing


def as_catalogued(source: EvaluationSource, video: EvaluationVideo) -> EvaluationSource:
    """The source, with a note where it is not quite what its catalogue says. Raises VideoError for another size."""
    expected = video.expected
    if expected is None:
        return source
    size = source.original_width, source.original_height
    if size != (expected.width, expected.height):
        raise VideoError(
            f"{video.path}: {size[0]}x{size[1]}, and {expected.name} is {expected.width}x{expected.height} in its "
            "catalogue; this is another version of it"
        )
    if Fraction(source.fps) != expected.fps:
        told = f"{float(Fraction(source.fps)):g} frames a second, {float(expected.fps):g} in its catalogue"
        return replace(source, notes=[*source.notes, told])
    return source


def _file_of(sequence: CatalogueSequence, files: Sequence[Path]) -> Path | None:
    fitting = [file for file in files if _fits(file.stem, sequence)]
    for suffix in _SUFFIXES:
        candidates = [file for file in fitting if file.suffix.lower() == suffix]
        if len(candidates) > 1:
            raise UsageError(
                f"{sequence.name}: both '{candidates[0]}' and '{candidates[1]}' may be it; leave one in the folder"
            )
        if candidates:
            return candidates[0]
    return None


def _fits(stem: str, sequence: CatalogueSequence) -> bool:
    name, rest = stem[: len(sequence.name)], stem[len(sequence.name) :]
    if name.lower() != sequence.name.lower() or (rest and rest[0] not in "_-. "):
        return False
    size = _SIZE.search(rest)
    return size is None or (int(size[1]), int(size[2])) == (sequence.width, sequence.height)


def _check_hash(path: Path, sequence: CatalogueSequence) -> None:
    if sequence.sha256 is None:
        return
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != sequence.sha256.lower():
        raise BitreelError(
            f"{path}: SHA-256 is {found}, and the catalogue says {sequence.sha256} for {sequence.name}; get it anew"
        )


def _rendered(catalogue: SequenceCatalogue, cache: Path) -> list[EvaluationVideo]:
    from pipeline.rendered import render_demo_videos

    first = catalogue.sequences[0]
    folder = cache / f"rendered-{first.width}x{first.height}-{first.frames}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{sequence.name}.mkv" for sequence in catalogue.sequences]
    if not all(path.is_file() for path in paths):
        paths = render_demo_videos(folder, len(paths), first.frames, (first.width, first.height))
    return [
        EvaluationVideo(path, sequence.name, None, sequence)
        for path, sequence in zip(paths, catalogue.sequences, strict=True)
    ]


def _parse_size(text: str) -> tuple[int, int]:
    size = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.lower())
    if size is None:
        raise UsageError(f"--size '{text}': expected WIDTHxHEIGHT, as 416x240")
    return int(size[1]), int(size[2])


def _parse_rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(f"--fps '{text}': expected frames a second, as 50 or 30000/1001")
    return rate
