"""x265 anchors: the settings really take effect, files are video only, results repeat and are cached."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from codec.errors import BitreelError, UsageError
from codec.frames import frames_digest
from infra.anchors import ANCHORS, anchor_point, check_anchors, next_qps
from infra.x265_anchor import X265_ANCHORS, X265_LADDER, encoder_version
from infra.x265_stream import split_info
from tests.infra.moving_clips import moving_frames, moving_source


@pytest.mark.parametrize("name", [anchor.name for anchor in X265_ANCHORS])
def test_settings_took_effect(name: str, tmp_path: Path) -> None:
    source = moving_source(tmp_path, 96, 64, 9)
    point, picture = anchor_point(source, name, 30, tmp_path / "cache")
    options = dict(o.partition("=")[::2] for o in point.details["options"].split())
    assert options["rc"] == "cqp" and options["qp"] == "30" and options["bitdepth"] == "8"
    types = "".join(f.type for f in point.frames)
    assert len(types) == 9 and types[0] == "I" and types.count("I") == 1
    low_delay = name.startswith("x265-ldp")
    assert ("B" in types) is not low_delay
    assert options["rd"] == ("3" if name == "x265-medium" else "6")
    if name == "x265-ldp-psnr":
        assert (options["psy-rd"], options["psy-rdoq"], options["aq-mode"]) == ("0.00", "0.00", "0")
    if name == "x265-ldp":
        assert (options["psy-rd"], options["psy-rdoq"]) == ("2.00", "1.00")
    if name != "x265-medium":
        assert options["scenecut"] == "0" and int(options["keyint"]) > 1_000_000
    assert point.details["encoder"] == encoder_version()
    (stream,) = (tmp_path / "cache").glob("*.hevc")
    assert point.bytes == stream.stat().st_size == sum(f.bytes for f in point.frames)
    assert b"x265" not in stream.read_bytes()  # no self-description is counted
    assert point.bpp == pytest.approx(8 * point.bytes / (96 * 64 * 9))
    assert picture.read_bytes()[8:12] == b"WEBP"


def test_quality_falls_and_bits_shrink_with_x265s_qp(tmp_path: Path) -> None:
    source = moving_source(tmp_path, 96, 64, 4)
    points = [anchor_point(source, "x265-medium", qp, tmp_path)[0] for qp in (12, 22, 32, 42)]
    assert [p.psnr_yuv for p in points] == sorted((p.psnr_yuv for p in points), reverse=True)
    assert [p.bytes for p in points] == sorted((p.bytes for p in points), reverse=True)
    assert points[0].psnr_yuv > points[-1].psnr_yuv + 10


def test_cached_by_frames_command_and_version(tmp_path: Path) -> None:
    source = moving_source(tmp_path, 64, 64, 3)
    first, _ = anchor_point(source, "x265-medium", 32, tmp_path / "cache")
    (entry,) = (tmp_path / "cache").glob("*.json")
    marked = json.loads(entry.read_text())
    marked["point"]["encode_fps"] = 12345.0
    entry.write_text(json.dumps(marked))
    assert anchor_point(source, "x265-medium", 32, tmp_path / "cache")[0].encode_fps == 12345.0
    assert anchor_point(source, "x265-medium", 33, tmp_path / "cache")[0].encode_fps != 12345.0
    frames = moving_frames(64, 64, 3, seed=1)
    (tmp_path / "other.yuv").write_bytes(b"".join(frame.to_bytes() for frame in frames))
    other = dataclasses.replace(source, path=str(tmp_path / "other.yuv"), digest=frames_digest(frames))
    assert anchor_point(other, "x265-medium", 32, tmp_path / "cache")[0].encode_fps != 12345.0
    entry.write_text("{")  # damaged: measured anew, to the same figures
    again, _ = anchor_point(source, "x265-medium", 32, tmp_path / "cache")
    assert (again.bytes, again.frames) == (first.bytes, first.frames)


def test_low_delay_does_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tune zerolatency x265 keeps one frame in flight whatever it is asked."""
    source = moving_source(tmp_path, 192, 144, 4)
    one, _ = anchor_point(source, "x265-ldp", 30, tmp_path / "one")
    threads = (("wpp", "0"), ("pools", "4"), ("frame-threads", "3"), ("log-level", "error"))
    monkeypatch.setitem(ANCHORS, "x265-ldp", dataclasses.replace(X265_ANCHORS[1], threads=threads))
    many, _ = anchor_point(source, "x265-ldp", 30, tmp_path / "many")
    streams = [next((tmp_path / d).glob("*.hevc")).read_bytes() for d in ("one", "many")]
    assert streams[0] == streams[1]
    assert one.frames == many.frames


def test_a_setting_that_did_not_take_effect_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(X265_ANCHORS[-1], params=(("psy-rd", "1"),), expected=(("psy-rd", "0.00"),))
    monkeypatch.setitem(ANCHORS, "x265-medium", wrong)
    with pytest.raises(BitreelError, match=r"psy-rd=1.00 \(asked 0.00\)"):
        anchor_point(moving_source(tmp_path, 64, 64, 1), "x265-medium", 30, tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_odd_sizes_are_padded_and_measured_on_their_own_pixels(tmp_path: Path) -> None:
    source = moving_source(tmp_path, 67, 51, 2)
    point, _ = anchor_point(source, "x265-medium", 8, tmp_path)
    assert point.bpp == pytest.approx(8 * point.bytes / (67 * 51 * 2))
    assert min(f.psnr_u for f in point.frames) > 40 and point.psnr_yuv > 45


def test_intra_period(tmp_path: Path) -> None:
    point, _ = anchor_point(moving_source(tmp_path, 64, 64, 6), "x265-ldp", 32, tmp_path, intra_period=3)
    assert "".join(f.type for f in point.frames) == "IPPIPP"


def test_only_the_description_is_taken_out() -> None:
    text = b"x265 (build 1) - 9.9:[Linux] - options: qp=27 no-wpp keyint=-1\x00"
    body = b"\x2c\xa2\xde\x09\xb5\x17\x47\xdb\xbb\x55\xa4\xfe\x7f\xc2\xfc\x4e" + text
    sei = b"\x00\x00\x01\x4e\x01\x05" + bytes([len(body)]) + body + b"\x80"
    before, after = b"\x00\x00\x00\x01\x40\x01\x0c\x01", b"\x00\x00\x01\x26\x01\xaf\x05\x33"
    rest, info = split_info(before + sei + after)
    assert rest == before + after
    assert info is not None and info.version == "x265 (build 1) - 9.9"
    assert info.options == {"qp": "27", "no-wpp": "", "keyint": "-1"}
    assert split_info(before + after) == (before + after, None)


def test_next_qps_cover_the_range_and_then_fill_it() -> None:
    measured = {22: 44.0, 27: 41.0, 32: 38.0, 37: 35.0}
    assert next_qps(measured, 30.0, 46.0, X265_LADDER) == [17, 42]
    assert next_qps(measured, 35.0, 44.0, X265_LADDER) == []
    assert next_qps(measured, 36.0, 43.0, X265_LADDER) == [29]  # only two points inside so far
    assert next_qps({4: 55.0, 51: 25.0}, 20.0, 99.0, X265_LADDER) == [27]  # can't go further out


def test_unknown_anchor_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown anchor 'x266'.*x265-ldp"):
        check_anchors(["x265-ldp", "x266"])
