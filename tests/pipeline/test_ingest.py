"""Ingest on a real Ray: what it takes, what it refuses, and that nothing is lost or half done when things break."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from codec.errors import BitreelError, UsageError, VideoError
from infra.commands import ingest as ingest_command
from pipeline.decoders import open_video
from pipeline.ingest import MAX_ATTEMPTS, IngestProgress, _Run, ingest_videos
from pipeline.ingest_calls import IngestSettings, Outcome
from pipeline.manifest import create_or_check_store, read_manifest, read_quarantine
from pipeline.store_folder import open_store_folder
from pipeline.verification import verify_store
from pipeline.worker_pool import Finished
from tests.pipeline.process_hunt import hunting, own_processes

MakeVideo = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("local_ray")


def rows_of(store: Path) -> list[dict]:
    return read_manifest(store).to_pylist()


def nothing_half_written(store: Path) -> bool:
    return not [path for path in store.rglob("*") if ".part-" in path.name]


def test_clips_hold_the_frames_of_their_source(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video("videos/cut.mkv", codec="ffv1", frames=20, seeds=[1] * 9 + [2] * 11)
    store = tmp_path / "store"
    report = ingest_videos([tmp_path / "videos"], store, clip_frames=4)
    assert (report.ingested, report.clips, report.frames) == (1, 4, 20)
    rows = rows_of(store)
    assert [(row["first_frame"], row["frames"]) for row in rows] == [(0, 4), (4, 4), (9, 4), (13, 4)]
    with open_video(path) as source:
        frames = list(source)
    for row in rows:
        with (store / "shards" / row["shard"]).open("rb") as handle:
            handle.seek(row["offset"])
            clip = np.load(handle)
            assert handle.tell() == row["offset"] + row["length"]
        expected = [f.to_bytes() for f in frames[row["first_frame"] : row["first_frame"] + row["frames"]]]
        assert clip.tobytes() == b"".join(expected)
    first = rows[0]
    assert (first["width"], first["height"], first["fps_num"], first["fps_den"]) == (64, 48, 25, 1)
    assert (first["pixel_format"], first["matrix"], first["colour_range"]) == ("yuv420p", "bt601", "limited")
    assert first["decoder"] == "pyav"
    assert first["motion"] > 0
    assert first["sharpness"] > 0
    assert verify_store(store).problems == []


def test_shards_are_webdataset_shards(tmp_path: Path, make_video: MakeVideo) -> None:
    import webdataset

    make_video("videos/a.mp4")
    ingest_videos([tmp_path / "videos"], tmp_path / "store", clip_frames=4)
    (shard,) = (tmp_path / "store" / "shards").iterdir()
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert [sample["npy"].shape for sample in samples] == [(4, 72, 64)] * 2
    assert [sample["__key__"] for sample in samples] == [sample["json"]["key"] for sample in samples]


def test_difficult_videos_are_taken(tmp_path: Path, make_video: MakeVideo) -> None:
    make_video("v/one.mp4", frames=1)
    make_video("v/odd.mkv", codec="ffv1", size=(35, 21))
    make_video("v/vfr.mp4", times=[0, 1, 2, 6, 7, 12, 13, 14])
    make_video("v/turned.mp4", rotation=90)
    make_video("v/deep.mkv", codec="libx265", pix_fmt="yuv420p10le")
    make_video("v/444.mp4", pix_fmt="yuv444p")
    make_video("v/full.mp4", pix_fmt="yuvj420p", full_range=True)
    report = ingest_videos([tmp_path / "v"], tmp_path / "store", clip_frames=8)
    assert report.quarantined == {}
    rows = {Path(row["source"]).name: row for row in rows_of(tmp_path / "store")}
    assert rows["one.mp4"]["frames"] == 1
    assert (rows["odd.mkv"]["width"], rows["odd.mkv"]["stored_width"], rows["odd.mkv"]["stored_height"]) == (35, 36, 22)
    assert (rows["turned.mp4"]["width"], rows["turned.mp4"]["height"]) == (48, 64)
    assert rows["full.mp4"]["colour_range"] == "full"
    for name, words in {
        "vfr.mp4": "variable frame rate",
        "turned.mp4": "rotation",
        "deep.mkv": "converted from yuv420p10le",
        "444.mp4": "converted from yuv444p",
    }.items():
        assert any(words in note for note in rows[name]["notes"])
    assert verify_store(tmp_path / "store").problems == []


def test_bad_videos_go_to_quarantine_and_the_rest_go_on(tmp_path: Path, make_video: MakeVideo) -> None:
    folder = tmp_path / "v"
    make_video("v/good.mp4")
    (folder / "empty.mp4").touch()
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    cut = make_video("v/cut.mkv", frames=20)
    cut.write_bytes(cut.read_bytes()[:-1500])
    listing = tmp_path / "list.txt"
    listing.write_text("# what there is\n" + "\n".join(f"v/{p.name}" for p in folder.iterdir()) + "\nv/missing.mp4\n")
    report = ingest_videos([listing], tmp_path / "store", clip_frames=4)
    assert report.ingested == 1
    reasons = {Path(row["source"]).name: row["reason"] for row in read_quarantine(tmp_path / "store").to_pylist()}
    assert reasons.keys() == {"empty.mp4", "garbage.mp4", "cut.mkv", "missing.mp4"}
    assert "empty file" in reasons["empty.mp4"]
    assert "truncated" in reasons["cut.mkv"]
    assert "no such file" in reasons["missing.mp4"]
    assert nothing_half_written(tmp_path / "store")
    assert verify_store(tmp_path / "store").problems == []

    make_video("v/cut.mkv", frames=20)  # mended: leaves the table; the others are known and not read again
    again = ingest_videos([folder], tmp_path / "store", clip_frames=4)
    assert (again.ingested, again.skipped, len(again.quarantined)) == (1, 1, 2)
    left = {Path(row["source"]).name for row in read_quarantine(tmp_path / "store").to_pylist()}
    assert left == {"empty.mp4", "garbage.mp4", "missing.mp4"}


def test_wrong_calls_are_refused(tmp_path: Path, make_video: MakeVideo) -> None:
    video = make_video("v/a.mp4")
    (tmp_path / "none").mkdir()
    store = tmp_path / "store"
    with pytest.raises(UsageError, match="no videos in"):
        ingest_videos([tmp_path / "none"], store)
    with pytest.raises(UsageError, match="no such file"):
        ingest_videos([tmp_path / "missing.mp4"], store)
    with pytest.raises(UsageError, match="decord gives RGB only"):
        ingest_videos([video], store, decoder="decord")
    with pytest.raises(UsageError, match="other things in it"):
        ingest_videos([video], tmp_path)
    assert not store.exists()
    (tmp_path / "bad.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match="empty file"):
        ingest_videos([tmp_path / "bad.mp4"], tmp_path / "other")

    ingest_videos([video], store, clip_frames=4)
    with pytest.raises(UsageError, match="clip_frames=4, not clip_frames=5"):
        ingest_videos([video], store, clip_frames=5)
    settings = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(settings | {"format": 99}))
    with pytest.raises(BitreelError, match="has format 99"):
        ingest_videos([video], store, clip_frames=4)


def test_the_same_content_is_taken_once_and_nothing_twice(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video("v/b.mp4")
    store = tmp_path / "store"
    ingest_videos([path], tmp_path / "other", clip_frames=4)
    shutil.copyfile(path, path.with_name("a.mp4"))
    report = ingest_videos([tmp_path / "v"], store, clip_frames=4)
    assert (report.ingested, report.duplicates) == (1, 1)
    assert {Path(row["source"]).name for row in rows_of(store)} == {"a.mp4"}
    assert ingest_videos([tmp_path / "v"], tmp_path / "other", clip_frames=4).duplicates == 1
    assert rows_of(tmp_path / "other") == rows_of(store)  # whichever came first
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*.*") if p.suffix in (".tar", ".parquet")}
    again = ingest_videos([tmp_path / "v"], store, clip_frames=4)
    assert (again.ingested, again.skipped, again.duplicates) == (0, 1, 1)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*.*") if p.suffix in (".tar", ".parquet")} == before


def test_lists_globs_and_urls(tmp_path: Path, make_video: MakeVideo) -> None:
    paths = [make_video(f"v/{name}.mp4", seeds=[i] * 8) for i, name in enumerate("abcd")]
    (tmp_path / "list.csv").write_text("id,path\n1,v/a.mp4\n")
    pq.write_table(pa.table({"video": ["v/b.mp4"]}), tmp_path / "list.parquet")
    given = [tmp_path / "list.csv", tmp_path / "list.parquet", f"{tmp_path}/v/c*.mp4", paths[3].as_uri()]
    report = ingest_videos(given, tmp_path / "store", clip_frames=4)
    assert report.ingested == 4
    sources = {row["source"] for row in rows_of(tmp_path / "store")}
    assert sources == {str(path) for path in paths[:3]} | {paths[3].as_uri()}
    assert ingest_videos(given, tmp_path / "store", clip_frames=4).skipped == 4


@pytest.mark.parametrize("pixels", ["yuv420", "rgb"])
def test_names_that_are_not_utf8(tmp_path: Path, make_video: MakeVideo, pixels: str) -> None:
    make_video("v/caf\udce9.mp4", seeds=[1] * 8)
    (tmp_path / "v" / "empty\udce9.mp4").touch()
    shutil.copyfile(make_video("v/plain.mp4", seeds=[2] * 8), tmp_path / "v" / "a copy\udce9.mp4")
    told: list[str] = []
    report = ingest_videos(
        [tmp_path / "v"], tmp_path / "store", clip_frames=4, pixels=pixels, on_progress=lambda p: told.append(p.source)
    )
    json.dumps(vars(report), ensure_ascii=False).encode()
    assert (report.ingested, report.duplicates) == (2, 1)
    assert list(report.quarantined) == [f"{tmp_path}/v/empty\\udce9.mp4"]
    assert {row["source"] for row in rows_of(tmp_path / "store")} == {
        f"{tmp_path}/v/caf\\udce9.mp4",
        f"{tmp_path}/v/a copy\\udce9.mp4",
    }
    assert f"{tmp_path}/v/caf\\udce9.mp4" in told
    again = ingest_videos([tmp_path / "v"], tmp_path / "store", clip_frames=4, pixels=pixels)
    assert (again.ingested, again.skipped, again.duplicates, len(again.quarantined)) == (0, 2, 1, 1)
    assert verify_store(tmp_path / "store").problems == []


def test_rgb_store(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video("v/a.mp4")
    ingest_videos([path], tmp_path / "store", clip_frames=4, pixels="rgb", crop=(32, 16))
    rows = rows_of(tmp_path / "store")
    assert rows[0]["decoder"] == "decord"
    with open_video(path) as source:
        pictures = np.stack(list(source.rgb()))
    with (tmp_path / "store" / "shards" / rows[1]["shard"]).open("rb") as handle:
        handle.seek(rows[1]["offset"])
        assert np.array_equal(np.load(handle), pictures[4:8, 16:32, 16:48])
    assert verify_store(tmp_path / "store").problems == []


def test_three_sources_always_hold_one_out(tmp_path: Path, make_video: MakeVideo) -> None:
    for i in range(3):
        make_video(f"v/{i}.mp4", seeds=[i] * 8)
    splits = []
    for name in ("one", "two"):
        ingest_videos([tmp_path / "v"], tmp_path / name, clip_frames=4, val_fraction=0.0, test_fraction=0.0)
        splits.append({row["source"]: row["split"] for row in rows_of(tmp_path / name)})
    assert splits[0] == splits[1]
    assert sorted(splits[0].values()) == ["train", "train", "val"]
    assert verify_store(tmp_path / "one").problems == []


def test_a_killed_worker_costs_nothing(tmp_path: Path, make_video: MakeVideo) -> None:
    for i in range(6):
        make_video(f"v/{i}.mkv", codec="ffv1", size=(160, 96), frames=24, seeds=[i] * 24)
    with hunting("actor", 1, signal.SIGKILL) as killed:
        report = ingest_videos([tmp_path / "v"], tmp_path / "store", clip_frames=4, workers=2)
    assert len(killed) == 1
    assert (report.crashes, report.ingested, report.clips, report.quarantined) == (0, 6, 36, {})
    result = verify_store(tmp_path / "store")
    assert (result.clips, result.problems) == (36, [])
    assert nothing_half_written(tmp_path / "store")
    again = ingest_videos([tmp_path / "v"], tmp_path / "store", clip_frames=4)
    assert (again.skipped, again.ingested, again.worker_deaths) == (6, 0, 0)
    ingest_videos([tmp_path / "v"], tmp_path / "calm", clip_frames=4)
    assert rows_of(tmp_path / "calm") == rows_of(tmp_path / "store")


def test_videos_that_crash_or_hang_are_quarantined_after_three_tries(tmp_path: Path, make_video: MakeVideo) -> None:
    make_video("v/good.mkv", codec="ffv1", frames=30)
    crashing = make_video("v/crashing.mkv", codec="ffv1", size=(320, 240), frames=250, seeds=[1] * 250)
    store = tmp_path / "store"
    with hunting(crashing, MAX_ATTEMPTS + 1, signal.SIGSEGV) as hit:
        report = ingest_videos([tmp_path / "v"], store, clip_frames=4, workers=1)
    assert (len(hit), report.crashes, report.worker_deaths, report.ingested) == (MAX_ATTEMPTS, MAX_ATTEMPTS, 0, 1)
    assert report.quarantined[str(crashing)].endswith("killed its process: SIGSEGV; tried 3 times")
    hanging = make_video("w/hanging.mkv", codec="ffv1", size=(320, 240), frames=250, seeds=[2] * 250)
    with hunting(hanging, MAX_ATTEMPTS + 1, signal.SIGSTOP) as hit, pytest.raises(VideoError, match="no life for 1 s"):
        ingest_videos([hanging], store, clip_frames=4, workers=1, stall=1.0)
    assert len(hit) == MAX_ATTEMPTS
    assert nothing_half_written(store)
    assert verify_store(store).problems == []


def test_a_video_that_hung_is_tried_again_when_it_may_take_longer(tmp_path: Path, make_video: MakeVideo) -> None:
    path = str(make_video("a.mp4"))
    store = open_store_folder(tmp_path / "store")
    create_or_check_store(store, {"pixels": "yuv420"})

    def run_with(stall: float) -> _Run:
        return _Run(store, IngestSettings(store.url, 16, None, "yuv420", 1, None, 0, 0, stall=stall), [path], None)

    run, hung = run_with(1.0), Outcome(crash="showed no life for 1 s", silent=True)
    for _ in range(MAX_ATTEMPTS):
        assert list(run.pending) == [path]
        run.pending.clear()
        run._settle(Mock(idle=[]), Finished((path, ""), None, Outcome(checksum="ab", stamp="1")))
        run._settle(Mock(idle=[]), Finished((path, "ab"), None, hung))
    assert not run.pending
    assert run.report.quarantined[path].endswith("showed no life for 1 s; tried 3 times; --timeout gives it longer")
    again, longer = run_with(1.0), run_with(1.5)
    assert (list(again.pending), again.report.quarantined) == ([], run.report.quarantined)
    assert list(longer.pending) == [path]
    longer._settle(Mock(idle=[]), Finished((path, ""), None, Outcome(checksum="ab", stamp="1")))
    longer._settle(Mock(idle=[]), Finished((path, "ab"), None, Outcome(checksum="ab", stamp="1", clips=1, frames=8)))
    assert read_quarantine(store).num_rows == 0


def test_a_video_that_needs_too_much_memory_is_quarantined(tmp_path: Path, make_video: MakeVideo) -> None:
    make_video("v/small.mkv", codec="ffv1")
    large = make_video("v/large.mkv", codec="ffv1", size=(4096, 3072), frames=2)
    report = ingest_videos([tmp_path / "v"], tmp_path / "store", clip_frames=64, workers=1, worker_memory=500)
    assert (report.ingested, report.crashes) == (1, 0)
    assert "needs more than the 500 MiB" in report.quarantined[str(large)]
    report = ingest_videos([tmp_path / "v"], tmp_path / "store", clip_frames=64, workers=1, worker_memory=4000)
    assert (report.ingested, report.skipped) == (1, 1)


def test_a_copy_of_what_failed_is_taken_in_its_place(tmp_path: Path) -> None:
    """The first name's file is identified, its copy passed over for it, and then it can't be read."""
    a, b, c = (str(tmp_path / name) for name in ("a.mp4", "b.mp4", "c.mp4"))
    store = open_store_folder(tmp_path / "store")
    create_or_check_store(store, {"pixels": "yuv420"})
    told: list[tuple[str, str, int]] = []
    settings = IngestSettings(store.url, 16, None, "yuv420", 1, None, 0, 0)
    run = _Run(store, settings, [a, b, c], lambda p: told.append((p.source, p.status, p.done)))
    run.pending.clear()
    pool = Mock(idle=[])
    seen, gone = Outcome(checksum="ab", stamp="1"), Outcome(error="no such file", retry=True)
    failed = Outcome(checksum="ab", stamp="1", error="out of memory", retry=True)
    for location in (a, b, c):
        run._settle(pool, Finished((location, ""), None, seen))
    assert run.report.duplicates == 2 and not run.pending
    run._settle(pool, Finished((a, "ab"), None, failed))
    assert list(run.pending) == [c] and run.report.duplicates == 1
    run.pending.clear()
    run._settle(pool, Finished((c, ""), None, seen))
    run._settle(pool, Finished((c, "ab"), None, died=True))
    assert list(run.pending) == [c]  # once more
    run.pending.clear()
    run._settle(pool, Finished((c, ""), None, gone))
    assert list(run.pending) == [b] and run.report.duplicates == 0
    run._settle(pool, Finished((b, ""), None, seen))
    run._settle(pool, Finished((b, "ab"), None, Outcome(checksum="ab", stamp="1", clips=1, frames=16)))
    assert (run.report.ingested, run.report.duplicates, list(run.report.quarantined)) == (1, 0, [a, c])
    assert told[-1] == (b, "ingested", 3)


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, make_video: MakeVideo) -> None:
    for i in range(3):
        make_video(f"v/{i}.mkv", codec="ffv1", size=(160, 96), frames=24, seeds=[i] * 24)

    def fill_up(progress: IngestProgress) -> None:  # from now on the workers can't write more than 64 kB a file
        for process in own_processes("decoder"):
            resource.prlimit(process, resource.RLIMIT_FSIZE, (65536, 65536))

    store = tmp_path / "store"
    with pytest.raises(BitreelError, match="no space left for store"):
        ingest_videos([tmp_path / "v"], store, clip_frames=4, workers=1, on_progress=fill_up)
    assert len({row["source"] for row in rows_of(store)}) == 1
    assert read_quarantine(store).num_rows == 0
    assert nothing_half_written(store)
    assert verify_store(store).problems == []
    assert ingest_videos([tmp_path / "v"], store, clip_frames=4).ingested == 2


def test_leftovers_of_a_stopped_run_are_removed(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video("v/a.mp4")
    store = tmp_path / "store"
    ingest_videos([path], store, clip_frames=4)
    (shard,) = (store / "shards").iterdir()
    shutil.copyfile(shard, store / "shards" / f".{shard.name}.part-00000000")
    shutil.copyfile(shard, store / "shards" / "0123456789abcdef0123-0000.tar")  # renamed, but never committed
    assert len(verify_store(store).problems) == 1
    make_video("v/b.mp4", seeds=[5] * 8)
    ingest_videos([tmp_path / "v"], store, clip_frames=4)
    assert verify_store(store).problems == []
    assert nothing_half_written(store)
    assert shard.exists()


def test_ingest_command(tmp_path: Path, make_video: MakeVideo, capsys: pytest.CaptureFixture[str]) -> None:
    make_video("v/a.mp4")
    (tmp_path / "v" / "b.mp4").touch()
    for seed in (5, 6, 7):
        make_video(f"v/{seed}.mp4", seeds=[seed] * 8)
    arguments = ("ingest", tmp_path / "v", "--store", tmp_path / "new", "--crop", "32x16", "--clip-frames", "4")
    app = typer.Typer()
    ingest_command.register(app)
    app.command("other")(lambda: None)  # with one command alone, Typer leaves its name out
    options = ("--downscale", "2", "--held-out", "0,0", "--json", tmp_path / "ingest.json")
    app([str(argument) for argument in (*arguments, *options)], standalone_mode=False)
    said = capsys.readouterr().out
    assert "4 ingested" in said
    assert "empty file" in said
    assert json.loads((tmp_path / "ingest.json").read_text())["clips"] == 8
    rows = read_manifest(tmp_path / "new").to_pylist()
    assert {row["split"] for row in rows} == {"train"}
    row = rows[0]
    assert (row["width"], row["height"], row["downscale"]) == (32, 16, 2)
