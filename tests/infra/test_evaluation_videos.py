"""Test sets: catalogues as they are, files found by name, missing and wrong ones named."""

from __future__ import annotations

import dataclasses
import hashlib
from fractions import Fraction
from pathlib import Path

import pytest

from codec.errors import BitreelError, UsageError, VideoError
from infra.evaluation_source import prepare_source
from infra.evaluation_videos import EvaluationVideo, as_catalogued, find_test_sets, with_raw_form
from infra.sequence_catalogue import catalogue_names, load_catalogue
from pipeline.raw_names import RawForm
from tests.infra.moving_clips import moving_clip, moving_frames

CATALOGUE = """
name = "tiny"
about = "two"
where = "https://example.org/tiny"
licence = "none"
sequences = [
  { name = "Run", width = 64, height = 48, fps = "50", frames = 4 },
  { name = "Walk", width = 64, height = 48, fps = "25", frames = 3 },
]
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(CATALOGUE)
    return str(path)


def raw(path: Path, count: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(frame.to_bytes() for frame in moving_frames(64, 48, count)))
    return path


def test_catalogues_of_the_package() -> None:
    assert catalogue_names() == ["hevc-b", "hevc-c", "hevc-d", "hevc-e", "mcl-jcv", "smoke", "uvg"]
    counts = {name: len(load_catalogue(name).sequences) for name in catalogue_names()}
    assert counts == {"hevc-b": 5, "hevc-c": 4, "hevc-d": 4, "hevc-e": 3, "mcl-jcv": 30, "smoke": 2, "uvg": 7}
    for name in catalogue_names():
        found = load_catalogue(name)
        assert found.where and found.licence and all(s.sha256 is None for s in found.sequences)
        assert len({(s.width, s.height) for s in found.sequences}) == 1
    uvg = {s.name: s for s in load_catalogue("UVG").sequences}
    assert (uvg["ShakeNDry"].frames, uvg["Jockey"].frames, uvg["Jockey"].fps) == (300, 600, 120)


def test_files_are_found_by_name_size_and_kind(catalogue: str, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    chosen = raw(folder / "deep" / "run_64x48_50_420_8bit.yuv")
    moving_clip(folder / "Run.y4m", 64, 48, 4)  # raw goes before it
    raw(folder / "Run_32x24_50.yuv")  # another size
    raw(folder / "Runner_64x48_50.yuv")  # another sequence
    walk = moving_clip(folder / "Walk-64x48.y4m", 64, 48, 3)
    videos, notes = find_test_sets([catalogue], [folder], tmp_path)
    assert [(v.path, v.name) for v in videos] == [(chosen, "Run"), (walk, "Walk")]
    assert videos[0].raw == RawForm((64, 48), Fraction(50)) and videos[1].raw is None and notes == []
    again = raw(folder / "Run_64x48.yuv")
    with pytest.raises(UsageError, match=r"both '.*Run_64x48.yuv' and '.*' may be it"):
        find_test_sets([catalogue], [folder], tmp_path)
    again.unlink()


def test_missing_ones_are_named_and_only_left_out_when_allowed(catalogue: str, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"2 of 2 sequences are not in .*: Run, Walk; .*example\.org") as error:
        find_test_sets([catalogue], [folder], tmp_path, allow_missing=True)
    assert "--allow-missing" not in str(error.value)
    raw(folder / "Walk.yuv", 3)  # the catalogue knows its size
    with pytest.raises(UsageError, match=r"1 of 2 .*: Run; .*--allow-missing"):
        find_test_sets([catalogue], [folder], tmp_path)
    videos, notes = find_test_sets([catalogue], [folder], tmp_path, allow_missing=True)
    assert [v.name for v in videos] == ["Walk"] and "1 of 2 sequences are missing (Run)" in notes[0]
    assert prepare_source(videos[0].path, tmp_path, 9, None, videos[0].raw).frame_count == 3
    with pytest.raises(UsageError, match=r"give --test-set-folder DIR; .*example\.org"):
        find_test_sets([catalogue], [], tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        find_test_sets([catalogue], [tmp_path / "nowhere"], tmp_path)
    with pytest.raises(UsageError, match="2 folders"):
        find_test_sets([catalogue], [folder, folder], tmp_path)


def test_a_hash_that_a_catalogue_knows_is_checked(catalogue: str, tmp_path: Path) -> None:
    path = raw(tmp_path / "videos" / "Run.yuv")
    raw(tmp_path / "videos" / "Walk.yuv", 3)
    known = hashlib.sha256(path.read_bytes()).hexdigest()
    Path(catalogue).write_text(CATALOGUE.replace("frames = 4", f'frames = 4, sha256 = "{known}"'))
    assert len(find_test_sets([catalogue], [tmp_path / "videos"], tmp_path)[0]) == 2
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(BitreelError, match=rf"Run\.yuv: SHA-256 is .* and the catalogue says {known} for Run"):
        find_test_sets([catalogue], [tmp_path / "videos"], tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("name =", "not a catalogue"), ('name = "x"', "'sequences'"), (CATALOGUE.replace("64", "-4"), "sizes"),
     (CATALOGUE.replace("name = \"Run\", ", ""), "'name'"), (CATALOGUE.replace('"50"', '"fast"'), "fast"),
     *((CATALOGUE.replace('"Run"', f"'{name}'"), "no slashes") for name in ("../../x", "/x", "..", "a/../x", "..\\x"))],
)  # fmt: skip
def test_a_bad_catalogue_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_catalogue(str(path))
    with pytest.raises(UsageError, match=r"unknown test set 'uvgg'; known: hevc-b, .*uvg"):
        load_catalogue("uvgg")


def test_the_smoke_set_is_rendered_once_and_the_same(tmp_path: Path) -> None:
    videos, notes = find_test_sets(["smoke"], [], tmp_path / "a")
    assert [v.name for v in videos] == ["rendered-00", "rendered-01"] and "say nothing of a codec" in notes[0]
    written = videos[0].path.stat().st_mtime_ns
    assert find_test_sets(["smoke"], [], tmp_path / "a")[0][0].path.stat().st_mtime_ns == written
    sources = [prepare_source(v.path, tmp_path / "s", 96) for v in videos]
    assert [(s.width, s.height, s.frame_count) for s in sources] == [(96, 64, 8)] * 2
    other, _ = find_test_sets(["smoke"], [], tmp_path / "b")
    assert prepare_source(other[0].path, tmp_path / "t", 96).digest == sources[0].digest != sources[1].digest


def test_size_and_rate_told_for_raw_files(tmp_path: Path) -> None:
    plain, named = raw(tmp_path / "plain.yuv"), raw(tmp_path / "named_64x48_50.yuv")
    other = moving_clip(tmp_path / "c.y4m", 64, 48, 2)
    assert with_raw_form([plain, other], None, None) == [EvaluationVideo(plain), EvaluationVideo(other)]
    told = with_raw_form([plain, named, other], "64x48", "30000/1001")
    assert [v.raw for v in told] == [RawForm((64, 48), Fraction(30000, 1001))] * 2 + [None]
    assert with_raw_form([named], None, "30")[0].raw == RawForm((64, 48), Fraction(30))
    sources = [prepare_source(v.path, tmp_path / "cache", 4, None, v.raw) for v in told[:2]]
    assert [s.fps for s in sources] == ["30000/1001"] * 2 and sources[0].digest == sources[1].digest
    assert prepare_source(named, tmp_path / "cache", 4).fps == "50", "another rate is another source"
    for size, fps, message in (("64", None, "--size '64'"), (None, "fast", "--fps 'fast'"), (None, "0", "--fps '0'")):
        with pytest.raises(UsageError, match=message):
            with_raw_form([plain], size, fps)
    with pytest.raises(UsageError, match="--size WxH"):
        with_raw_form([plain], None, "30")


def test_a_file_of_another_size_than_its_catalogue_says(catalogue: str, tmp_path: Path) -> None:
    moving_clip(tmp_path / "videos" / "Run.y4m", 32, 32, 2)
    moving_clip(tmp_path / "videos" / "Walk.y4m", 64, 48, 2)
    videos, _ = find_test_sets([catalogue], [tmp_path / "videos"], tmp_path)
    run, walk = (prepare_source(v.path, tmp_path / "cache", 9) for v in videos)
    with pytest.raises(VideoError, match=r"Run\.y4m: 32x32, and Run is 64x48 in its catalogue"):
        as_catalogued(run, videos[0])
    assert as_catalogued(walk, videos[1]) == walk
    faster = dataclasses.replace(walk, fps="50")
    assert as_catalogued(faster, videos[1]).notes == ["50 frames a second, 25 in its catalogue"]
