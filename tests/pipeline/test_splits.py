"""Splits: a source's own checksum decides, and small stores get something to validate on."""

from __future__ import annotations

from pipeline.splits import missing_held_out, split_of


def _sources(**counts: int) -> dict[str, str]:
    names = [(split, number) for split, count in counts.items() for number in range(count)]
    return {f"{index:012x}{split}": split for index, (split, _) in enumerate(names)}


def test_fractions_are_met_over_many_sources() -> None:
    splits = [split_of(f"{(7919 * n * n + n) % 65521:04x}00000000", 0.1, 0.1) for n in range(5000)]
    assert 400 < splits.count("val") < 600 and 400 < splits.count("test") < 600


def test_sources_move_to_val_where_there_are_too_few() -> None:
    assert missing_held_out(_sources(train=9, val=1), 1) == []
    assert len(missing_held_out(_sources(train=3), 1)) == 1
    assert missing_held_out(_sources(train=2), 1) == [], "no more than a third"
    chosen = missing_held_out(_sources(train=11, test=3), 1)
    assert [each[12:] for each in chosen] == ["train"], "sources of the test split do not validate"
    chosen = missing_held_out(_sources(train=2, test=1), 1)
    assert [each[12:] for each in chosen] == ["test"], "most stay for training"
