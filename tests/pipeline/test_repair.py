"""`repair` forgets what is damaged and nothing else, and the next ingest of the same videos brings it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer

from codec.errors import BitreelError
from codec.folder_lock import only_writer
from infra.commands import store as store_command
from pipeline.compaction import compact_manifest
from pipeline.ingest import ingest_videos
from pipeline.manifest import read_manifest
from pipeline.repair import repair_store
from pipeline.store_folder import LocalFolder
from pipeline.verification import verify_store

MakeVideo = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def store(tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three videos of two clips each, merged into parts of two clips; a fourth in a fragment."""
    for seed in range(3):
        make_video(f"v/{seed}.mkv", codec="ffv1", frames=8, seeds=[seed] * 8)
    ingest_videos([tmp_path / "v"], tmp_path / "store", clip_frames=4, workers=1)
    monkeypatch.setattr("pipeline.compaction.PART_ROWS", 2)
    compact_manifest(tmp_path / "store")
    make_video("v/3.mkv", codec="ffv1", frames=8, seeds=[3] * 8)
    assert again(tmp_path / "store") == (1, 3)
    return tmp_path / "store"


def again(store: Path) -> tuple[int, int]:
    """Ingest the same folder once more: how many were ingested and skipped."""
    report = ingest_videos([store.parent / "v"], store, clip_frames=4, workers=1)
    return report.ingested, report.skipped


def parts(store: Path) -> list[Path]:
    return sorted((store / "manifest").glob("part-*"))


def facts(store: Path) -> list[dict]:
    return read_manifest(store).drop_columns(["split", "source_stamp"]).to_pylist()


def files(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_damaged_shard_of_a_merged_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = facts(store)
    shards = sorted((store / "shards").iterdir())
    damaged = bytearray(shards[0].read_bytes())
    damaged[5000] ^= 1
    shards[0].write_bytes(damaged)
    shards[1].unlink()
    (store / "shards" / "0123456789abcdef0123-0000.tar").write_bytes(shards[2].read_bytes())
    app = typer.Typer()
    store_command.register(app)
    with pytest.raises(BitreelError, match=f"`bitreel store repair {store}`"):
        app(["store", "verify", str(store)], standalone_mode=False)
    state = files(store)
    app(["store", "repair", str(store), "--dry-run"], standalone_mode=False)
    assert files(store) == state
    app(["store", "repair", str(store), "--json", str(store.parent / "repair.json")], standalone_mode=False)
    said, done = capsys.readouterr().out, json.loads((store.parent / "repair.json").read_text())
    assert "would be forgotten" in said and all(f"\nforgotten {source}" in said for source in done["forgotten"])
    assert (len(done["forgotten"]), len(done["removed"]), len(done["problems"])) == (2, 2, 3)
    assert shards[2].exists() and verify_store(store).problems == []
    assert again(store) == (2, 2)
    assert verify_store(store).problems == [] and facts(store) == before
    assert repair_store(store).problems == []


def test_a_damaged_part_costs_its_own_sources_alone(store: Path) -> None:
    before = facts(store)
    parts(store)[0].write_bytes(parts(store)[0].read_bytes()[:100])
    parts(store)[2].unlink()
    with pytest.raises(BitreelError, match="bitreel store repair"):
        again(store)
    done = repair_store(store)
    assert (done.forgotten, len(done.removed)) == ([], 4)  # two tables, two shards that nobody knows any more
    assert verify_store(store).problems == []
    assert again(store) == (2, 2)
    assert verify_store(store).problems == [] and facts(store) == before


def test_a_source_of_two_parts_is_forgotten_with_one_of_them(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = facts(store)
    monkeypatch.setattr("pipeline.compaction.PART_ROWS", 3)
    compact_manifest(store)
    parts(store)[0].unlink()
    assert repair_store(store).forgotten == [before[2]["source"]]
    assert verify_store(store).problems == []
    assert again(store) == (2, 2)
    assert verify_store(store).problems == [] and facts(store) == before


def test_damaged_fragments_and_lists_of_parts(store: Path) -> None:
    before = facts(store)
    (fragment,) = {*(store / "manifest").glob("*.parquet")} - {*parts(store)}
    fragment.write_bytes(b"")
    (store / "manifest" / "parts.json").write_text("{")
    (store / "quarantine" / "0123.parquet").write_bytes(b"PAR1")
    with pytest.raises(BitreelError, match="bitreel store repair"):
        again(store)
    assert len(repair_store(store).removed) == 3
    assert again(store) == (1, 3)
    assert verify_store(store).problems == [] and facts(store) == before


def test_a_repair_may_be_stopped_anywhere(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = facts(store)
    part = parts(store)[0]
    (lost,) = set(pq.read_table(part, columns=["shard"])["shard"].to_pylist())
    cut = next(path for path in sorted((store / "shards").iterdir()) if path.name != lost)  # of another source
    cut.write_bytes(cut.read_bytes()[:9000])
    part.unlink()
    whole = repair_store(store, dry_run=True)
    names = {method: getattr(LocalFolder, method) for method in ("write", "remove")}
    left = 0

    def failing(method: str) -> Callable[..., None]:
        def call(self: LocalFolder, *arguments: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            names[method](self, *arguments)

        return call

    for method in names:
        monkeypatch.setattr(LocalFolder, method, failing(method))
    stops, stopped = 0, True
    while stopped:
        left, stops = stops, stops + 1
        try:
            repair_store(store)
            stopped = False
        except KeyboardInterrupt:
            pass
    monkeypatch.undo()
    assert stops > 3 and len(whole.problems) >= 2
    assert verify_store(store).problems == []
    assert again(store) == (2, 2)
    assert verify_store(store).problems == [] and facts(store) == before


def test_a_repair_waits_for_nobody(store: Path) -> None:
    with only_writer(store, ""), pytest.raises(BitreelError, match="another process is writing"):
        repair_store(store)
