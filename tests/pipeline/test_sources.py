"""Lists of videos as other programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.sources import find_sources, printable


@pytest.mark.parametrize(("name", "head"), [("list.txt", ""), ("list.csv", "path,id\n")])
def test_a_byte_order_mark_is_no_part_of_a_list(tmp_path: Path, name: str, head: str) -> None:
    (tmp_path / name).write_text(f"{head}v/é.mp4\nv/b.mp4\n", encoding="utf-8-sig")
    assert find_sources([tmp_path / name]) == [str(tmp_path / "v" / "é.mp4"), str(tmp_path / "v" / "b.mp4")]


def test_names_can_be_printed(tmp_path: Path) -> None:
    assert printable("é caf\udce9.mp4") == "é caf\\udce9.mp4"
