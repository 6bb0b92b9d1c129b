"""The manifest as files: fragments, merged parts, damage, and a million rows' worth of questions on a smaller scale."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from codec.errors import BitreelError, UsageError
from codec.folder_lock import only_writer
from pipeline.compaction import compact_manifest
from pipeline.ingest import ingest_videos
from pipeline.ingest_calls import fragment_name
from pipeline.manifest import (
    CLIP_SCHEMA,
    MANIFEST,
    create_or_check_store,
    manifest_files,
    read_manifest,
    write_fragment,
)
from pipeline.store import list_sources, store_stats
from pipeline.store_copy import copy_store
from pipeline.store_folder import LocalFolder, StoredFile, StoreFolder, open_store_folder
from pipeline.store_settling import remove_leftovers, settle_store
from pipeline.verification import verify_layout


def clip_rows(source: int, clips: int, split: str = "train") -> list[dict[str, Any]]:
    """Plausible rows of a source, in one shard."""
    checksum = f"{source:064x}"[::-1]
    rows = []
    for i in range(clips):
        row: dict[str, Any] = dict.fromkeys(CLIP_SCHEMA.names, 0)
        row |= {field.name: "" for field in CLIP_SCHEMA if str(field.type) == "string"}
        row |= {"source": f"/videos/{source}.mp4", "source_checksum": checksum, "first_frame": 16 * i, "frames": 16}
        row |= {"key": f"{fragment_name(checksum)}-{16 * i:07d}", "shard": f"{fragment_name(checksum)}-0000.tar"}
        row |= {"offset": 1536 + 4096 * i, "length": 2048, "split": split, "notes": ["a note"]}
        row |= {"width": 64, "height": 48, "motion": float(i), "decoder": "pyav", "decoder_version": "1"}
        rows.append(row)
    return rows


def commit(store: Path, source: int, clips: int = 3, split: str = "train") -> None:
    rows = clip_rows(source, clips, split)
    write_fragment(store, f"{MANIFEST}/{fragment_name(rows[0]['source_checksum'])}", rows, CLIP_SCHEMA)
    with (store / "shards" / rows[0]["shard"]).open("wb") as shard:
        shard.truncate(1536 + 4096 * clips + 10240)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    create_or_check_store(tmp_path / "store", {"pixels": "yuv420", "clip_frames": 16, "crop": None, "downscale": 1})
    for source in range(5):
        commit(tmp_path / "store", source, split="val" if source == 3 else "train")
    return tmp_path / "store"


def test_merging_changes_no_answer(store: Path) -> None:
    before, listed, figures = read_manifest(store), list_sources(store), store_stats(store)
    assert compact_manifest(store) == 5
    parts, fragments = manifest_files(open_store_folder(store))
    assert (len(parts), fragments) == (1, [])
    assert read_manifest(store).equals(before)
    assert list_sources(store) == listed
    assert store_stats(store) == figures
    assert verify_layout(store).problems == []
    assert compact_manifest(store) == 0
    val = read_manifest(store, ["source", "split"], where=pc.field("split") == "val")
    assert val["source"].unique().to_pylist() == ["/videos/3.mp4"]
    assert [entry.source for entry in list_sources(store, "val")] == ["/videos/3.mp4"]


def test_a_fragment_counts_more_than_a_part(store: Path) -> None:
    compact_manifest(store)
    commit(store, 2, clips=2, split="test")  # written anew
    commit(store, 9)
    rows = read_manifest(store).to_pylist()
    assert len(rows) == 4 * 3 + 2 + 3
    assert {row["split"] for row in rows if row["source"] == "/videos/2.mp4"} == {"test"}
    assert [(row["source_checksum"], row["first_frame"]) for row in rows] == sorted(
        (row["source_checksum"], row["first_frame"]) for row in rows
    )
    before = read_manifest(store)
    compact_manifest(store)
    assert read_manifest(store).equals(before)


def test_a_merge_stopped_halfway_does_no_harm(store: Path) -> None:
    before = read_manifest(store)
    fragments = {path.name: path.read_bytes() for path in (store / MANIFEST).glob("*.parquet")}
    compact_manifest(store)
    (part,) = (store / MANIFEST).glob("part-*.parquet")
    for name, data in fragments.items():  # stopped before the fragments were removed
        (store / MANIFEST / name).write_bytes(data)
    assert read_manifest(store).equals(before)
    (store / MANIFEST / "part-00000-0123.parquet").write_bytes(part.read_bytes())  # or before parts.json named it
    assert read_manifest(store).equals(before)
    remove_leftovers(open_store_folder(store))
    assert [path.name for path in (store / MANIFEST).glob("part-*")] == [part.name]
    assert len(list((store / "shards").iterdir())) == 5


def test_a_source_that_is_committed_meanwhile_keeps_its_shard(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_store_folder(store)
    listing = LocalFolder.listing

    def committing(self: LocalFolder, name: str) -> dict[str, StoredFile]:
        if name == "shards":  # by a worker that is not dead yet
            commit(store, 9)
        return listing(self, name)

    (store / "shards" / f"{'f' * 20}-0000.tar").touch()
    monkeypatch.setattr(LocalFolder, "listing", committing)
    remove_leftovers(folder)
    assert len(list((store / "shards").iterdir())) == 6
    assert verify_layout(store).problems == []


def test_settling_merges_many_fragments(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store_settling.MERGE_AT", 5)
    settle_store(open_store_folder(store), 1, near_duplicates=False)
    assert manifest_files(open_store_folder(store))[1] == []


def test_a_remote_store_is_merged_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store_settling.MERGE_AT", 2)
    folder = open_store_folder("memory://unmerged")
    create_or_check_store(folder, {"pixels": "yuv420"})
    for source in range(3):
        rows = clip_rows(source, 2)
        write_fragment(folder, f"{MANIFEST}/{fragment_name(rows[0]['source_checksum'])}", rows, CLIP_SCHEMA)
    settle_store(folder, 0, near_duplicates=False)
    assert len(manifest_files(folder)[1]) == 3
    assert compact_manifest(folder) == 3 and read_manifest(folder).num_rows == 6


def test_a_start_that_was_cut_off_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"pixels": "yuv420"}
    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            create_or_check_store(tmp_path / "store", settings)
    (tmp_path / "store" / ".store.json.part-0123").touch()
    create_or_check_store(tmp_path / "store", settings)
    (tmp_path / "other" / "shards").mkdir(parents=True)
    (tmp_path / "other" / "shards" / "mine.tar").touch()
    with pytest.raises(UsageError, match="other things in it"):
        create_or_check_store(tmp_path / "other", settings)


def test_of_two_that_make_a_store_at_once_the_first_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = LocalFolder.make

    def late(self: LocalFolder, folders: tuple[str, ...]) -> None:
        monkeypatch.setattr(LocalFolder, "make", make)
        create_or_check_store(tmp_path / "store", {"pixels": "rgb"})
        (tmp_path / "store" / "shards" / "its.tar").touch()
        make(self, folders)

    monkeypatch.setattr(LocalFolder, "make", late)
    with pytest.raises(UsageError, match="pixels=rgb, not pixels=yuv420"):
        create_or_check_store(tmp_path / "store", {"pixels": "yuv420"})
    (tmp_path / "store" / "store.json").unlink()
    (tmp_path / "store" / "shards" / "its.tar").unlink()
    with only_writer(tmp_path / "store", ""), pytest.raises(BitreelError, match="another process is writing"):
        create_or_check_store(tmp_path / "store", {"pixels": "yuv420"})


def test_a_store_that_cannot_be_locked_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipeline.store_lock.only_writer", Mock(side_effect=OSError(errno.EROFS, "Read-only file system"))
    )
    for call in (lambda: compact_manifest(store), lambda: ingest_videos([__file__], store)):
        with pytest.raises(
            BitreelError, match=rf"can't write to store '{store}': Read-only file system; make it writable"
        ):
            call()


def test_a_copy_during_an_ingest_has_the_shards_of_its_clips(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def committing(folder: StoreFolder) -> tuple[list[str], list[str]]:
        commit(store, 9)
        return manifest_files(folder)

    monkeypatch.setattr("pipeline.store_copy.manifest_files", committing)
    copy_store(store, tmp_path / "copy")
    assert verify_layout(tmp_path / "copy").problems == []
    assert read_manifest(tmp_path / "copy").num_rows == 6 * 3


def test_what_an_ingest_is_writing_is_no_damage(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def committing(*arguments: Any, **options: Any) -> pa.Table:
        table = read_manifest(*arguments, **options)
        commit(store, 9)  # after the manifest was read
        return table

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.verification.read_manifest", committing)
        assert verify_layout(store).problems == []
    stray = store / "shards" / f"{'f' * 20}-0000.tar"
    stray.touch()
    with only_writer(store, ""):
        found = verify_layout(store)
        assert (found.problems, found.uncommitted) == ([], 1)
    assert verify_layout(store).problems == [f"shards/{stray.name}: not in the manifest"]


def test_a_shard_that_is_committed_during_the_second_look_is_known(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def committing(*arguments: Any, **options: Any) -> pa.Table:
        reads.append(True)
        if len(reads) == 2:
            commit(store, 9)
        return read_manifest(*arguments, **options)

    (store / "shards" / clip_rows(9, 1)[0]["shard"]).touch()  # has its name, is not committed yet
    monkeypatch.setattr("pipeline.verification.read_manifest", committing)
    found = verify_layout(store)
    assert (found.problems, found.uncommitted, len(reads)) == ([], 0, 2)


def test_a_copy_removes_nothing_that_only_it_has(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy_store(store, copy)
    compact_manifest(store)
    copy_store(store, copy)  # the fragments that were merged meanwhile go
    assert manifest_files(open_store_folder(copy))[1] == []
    assert read_manifest(copy).equals(read_manifest(store))
    commit(copy, 9)
    before = read_manifest(copy)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"sources that .* has not \(1\)"):
            copy_store(store, copy)
        assert read_manifest(copy).equals(before)
        compact_manifest(copy)
    commit(store, 9)
    with only_writer(copy, ""), pytest.raises(BitreelError, match="another process is writing"):
        copy_store(store, copy)
    copy_store(store, copy)
    assert read_manifest(copy).equals(before) and verify_layout(copy).problems == []


def test_layout_problems_are_found(store: Path) -> None:
    shards = sorted((store / "shards").iterdir())
    shards[0].unlink()
    with shards[1].open("r+b") as handle:
        handle.truncate(5000)
    (store / "shards" / "other.tar").touch()
    rows = clip_rows(4, 3)
    rows[1]["offset"] = rows[0]["offset"] + 1
    rows[2]["key"] = rows[1]["key"]
    write_fragment(store, f"{MANIFEST}/{fragment_name(rows[0]['source_checksum'])}", rows, CLIP_SCHEMA)
    problems = "\n".join(verify_layout(store).problems)
    assert f"{shards[0].name}: missing, the manifest has 3 clips in it" in problems
    assert f"{shards[1].name}: clip" in problems and "lies beyond the shard's end" in problems
    assert "other.tar: not in the manifest" in problems
    assert "lies over the clip before it" in problems
    assert "2 times in the manifest" in problems


def test_what_is_merged_while_it_is_read_is_no_damage(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(store)
    list_files, merged = manifest_files, []

    def merging(folder: StoreFolder) -> tuple[list[str], list[str]]:
        found = list_files(folder)
        if not merged:
            merged.append(True)
            compact_manifest(store)  # between the listing and the reading
        return found

    monkeypatch.setattr("pipeline.manifest.manifest_files", merging)
    assert read_manifest(store).equals(before)
    monkeypatch.undo()
    (part,) = (store / MANIFEST).glob("part-*.parquet")
    part.unlink()
    with pytest.raises(BitreelError, match=f"{part.name}' is gone"):
        read_manifest(store)


def test_damage_names_the_file(store: Path) -> None:
    fragment = sorted((store / MANIFEST).iterdir())[2]
    fragment.write_bytes(fragment.read_bytes()[:100])
    with pytest.raises(BitreelError, match=fragment.name):
        read_manifest(store)
    (store / MANIFEST / "parts.json").write_text(json.dumps({"no": "parts"}))
    with pytest.raises(BitreelError, match=r"parts\.json' is damaged"):
        read_manifest(store)


def test_manifests_of_before_the_rules_are_read(store: Path) -> None:
    old = [name for name in CLIP_SCHEMA.names if name not in ("brightness", "phash", "bars", "dropped")]
    import pyarrow.parquet as pq

    for path in (store / MANIFEST).iterdir():
        pq.write_table(pq.read_table(path).select(old), path)
    assert read_manifest(store).num_rows == 15
    assert store_stats(store)["dropped"] == {}
    settle_store(open_store_folder(store), 0, near_duplicates=True)
    assert read_manifest(store).num_rows == 15


def test_fragments_hold_what_arrow_would_make_of_the_rows(tmp_path: Path) -> None:
    kinds = {
        "text": (pa.string(), ["a", None, "é", ""]),
        "small": (pa.int32(), [1, None, -3, 4]),
        "large": (pa.int64(), [1, 2**40, 3, 4]),
        "real": (pa.float32(), [1.5, None, 0.123, 0.0]),
        "truth": (pa.bool_(), [True, None, False, True]),
        "texts": (pa.list_(pa.string()), [["a", "b"], None, [], ["ü"]]),
    }
    schema = pa.schema([(name, kind) for name, (kind, _) in kinds.items()])
    rows = [{name: values[i] for name, (_, values) in kinds.items()} for i in range(4)]
    for name, some in (("all", rows), ("one", rows[:1]), ("none", [])):
        write_fragment(tmp_path, name, some, schema)
        assert pq.read_table(tmp_path / f"{name}.parquet") == pa.Table.from_pylist(some, schema)
    with pytest.raises(ValueError, match="odd"):
        write_fragment(tmp_path, "all", [{"odd": 1}], schema)
