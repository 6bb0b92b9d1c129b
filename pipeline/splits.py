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


def missing_held_out(splits: Mapping[str, str], least: int) -> list[str]:
    """The sources to move to "val" so that `least` are held out, though never more than a third of all.

    splits: source checksum -> split. Small stores would else often have nothing to validate on.
    """
    training = sorted((checksum for checksum, split in splits.items() if split == "train"), key=split_place)
    missing = min(least, len(splits) // 3) - (len(splits) - len(training))
    return training[: max(missing, 0)]
