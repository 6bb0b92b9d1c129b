"""Catalogues of standard test sequences: files that say what there is, how large it is, and where it is to be had.

A catalogue is a TOML file (those of the package lie in configs/test-sets/): `name`, `about`, `where` to get the files,
`licence`, and `sequences` with `name`, `width`, `height`, `fps`, `frames` and, only where it is known, `sha256` of the
file. Nothing is downloaded. A catalogue with `rendered = true` is drawn by the program itself.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

from codec.errors import UsageError


@dataclass(frozen=True)
class CatalogueSequence:
    """One sequence of a catalogue. sha256 (hex) of its file only where the catalogue's author knows it."""

    name: str
    width: int
    height: int
    fps: Fraction
    frames: int
    sha256: str | None = None


@dataclass(frozen=True)
class SequenceCatalogue:
    """A test set: what it is called, where its files are to be had and under which terms, and its sequences."""

    name: str
    about: str
    where: str
    licence: str
    sequences: tuple[CatalogueSequence, ...]
    rendered: bool = False


def catalogue_names() -> list[str]:
    """The catalogues of the package."""
    files = resources.files("configs").joinpath("test-sets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_catalogue(ref: str) -> SequenceCatalogue:
    """A catalogue by name (uvg, hevc-b, …) or by a TOML file's path. Raises UsageError for a missing or bad one."""
    path = Path(ref)
    named = ref.lower() in catalogue_names()
    if not named and path.suffix != ".toml":
        raise UsageError(f"unknown test set '{ref}'; known: {', '.join(catalogue_names())}, or the path of a .toml")
    source = resources.files("configs").joinpath("test-sets", f"{ref.lower()}.toml") if named else path
    try:
        return _catalogue(tomllib.loads(source.read_text()))
    except OSError as error:
        raise UsageError(f"test set '{ref}': can't be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:  # TOML's errors are ValueErrors
        raise UsageError(f"test set '{ref}': not a catalogue of sequences ({error})") from error


def _catalogue(data: dict[str, Any]) -> SequenceCatalogue:
    told = [(item, str(item.get("sha256", "")) or None) for item in data["sequences"]]
    sequences = tuple(
        CatalogueSequence(
            str(item["name"]), int(item["width"]), int(item["height"]), Fraction(item["fps"]), int(item["frames"]), hash
        )
        for item, hash in told
    )
    if not sequences:
        raise ValueError("it has no sequences")
    if any(min(s.width, s.height, s.frames) <= 0 or s.fps <= 0 or not s.name for s in sequences):
        raise ValueError("every sequence needs a name, and sizes, a rate and frames above 0")
    for sequence in sequences:  # names become those of folders
        if sequence.name.startswith(".") or any(c in "/\\" or not c.isprintable() for c in sequence.name):
            raise ValueError(f"a sequence can't be called {sequence.name!r}: no slashes, and no dot at its beginning")
    named = {key: str(data[key]) for key in ("name", "about", "where", "licence")}
    return SequenceCatalogue(**named, sequences=sequences, rendered=bool(data.get("rendered", False)))
