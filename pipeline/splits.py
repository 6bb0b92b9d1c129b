"""Which split a source belongs to. All clips of a source share it, so nothing seen in training is ever tested on."""

from __future__ import annotations

from collections.abc import Mapping


def split_of(checksum: str, val_fraction: float, test_fraction: float) -> str:
    """ "train", "val" or "test" from the source's checksum (hex) alone."""
    place = split_place(checksum)
    if place < val_fraction:
        return "val"
    return "test" if place < val_fraction + test_fraction else "train"


def split_place(checksum: str) -> float:
    """A number in [0, 1) that follows from the checksum."""
    return int(checksum[:12], 16) / 16**12


def missing_held_out(splits: Mapping[str, str]) -> str | None:
    """The source to move to "val" where three or more sources are all in "train"; None where that is not so.

    splits: source checksum -> split. Small stores would else often have nothing to validate on.
    """
    if len(splits) < 3 or any(split != "train" for split in splits.values()):
        return None
    return min(splits, key=split_place)
