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
    """The sources to move to "val" so that `least` are there, though never more than a third of all.

    splits: source checksum -> split. Small stores would else often have nothing to validate on. Sources are taken from
    "train", or from "test" where more than a third would be held out altogether.
    """
    held_out = sum(split != "train" for split in splits.values())
    most = len(splits) // 3
    missing = max(min(least, most) - sum(split == "val" for split in splits.values()), 0)
    beyond = max(held_out + missing - most, 0)

    def of(split: str) -> list[str]:
        return sorted((checksum for checksum, own in splits.items() if own == split), key=split_place)

    from_test = of("test")[: min(missing, beyond)]
    return from_test + of("train")[: missing - len(from_test)]
