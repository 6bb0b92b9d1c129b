"""A store behind s3://, against a real S3-speaking server of this machine. Needs `s3fs` and `moto`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from codec.errors import UsageError
from infra.commands import ingest as ingest_command
from infra.commands import store as store_command
from pipeline.compaction import compact_manifest
from pipeline.ingest import ingest_videos
from pipeline.manifest import read_manifest
from pipeline.repair import repair_store
from pipeline.store_folder import open_store_folder
from pipeline.verification import verify_layout, verify_store

MakeVideo = Callable[..., Path]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket's URL; S3 clients of this process and its children find the server through the environment."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("videos")
        yield "s3://videos"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.usefixtures("bucket", "local_ray")  # in this order: Ray's processes inherit the environment
def test_a_store_in_a_bucket(tmp_path: Path, make_video: MakeVideo, bucket: str) -> None:
    import s3fs

    for i in range(3):
        make_video(f"v/{i}.mkv", codec="ffv1", frames=9, seeds=[i] * 9)
    remote = s3fs.S3FileSystem()
    remote.put_file(str(tmp_path / "v" / "2.mkv"), "videos/in/2.mkv")
    sources = [tmp_path / "v" / "0.mkv", tmp_path / "v" / "1.mkv", f"{bucket}/in"]
    store = f"{bucket}/clips"
    report = ingest_videos(sources, store, clip_frames=4, workers=1)
    assert (report.ingested, report.clips, report.quarantined) == (3, 6, {})
    assert ingest_videos(sources, store, clip_frames=4, workers=1).skipped == 3

    result = verify_store(store)
    assert (result.clips, result.problems) == (6, [])
    assert verify_layout(store).problems == []
    local = tmp_path / "local"
    ingest_videos([tmp_path / "v"], local, clip_frames=4, workers=1)
    content = ["clip_id", "key", "offset", "length", "split"]
    assert read_manifest(store, content).equals(read_manifest(local, content))

    app = typer.Typer()
    ingest_command.register(app)
    store_command.register(app)
    app(["store", "stats", store, "--json", str(tmp_path / "stats.json")], standalone_mode=False)
    assert json.loads((tmp_path / "stats.json").read_text())["clips"] == 6
    app(["store", "copy", store, str(tmp_path / "copy")], standalone_mode=False)
    assert verify_store(tmp_path / "copy").problems == []
    assert read_manifest(tmp_path / "copy").equals(read_manifest(store))

    assert compact_manifest(store) == 3
    app(["store", "copy", store, str(tmp_path / "copy")], standalone_mode=False)
    assert read_manifest(tmp_path / "copy").equals(read_manifest(store))
    assert verify_store(tmp_path / "copy").problems == []

    shard = sorted(open_store_folder(store).listing("shards"))[0]
    open_store_folder(store).remove(f"shards/{shard}")
    assert "missing, the manifest has 2 clips in it" in verify_layout(store).problems[0]
    assert len(repair_store(store).forgotten) == 1 and verify_store(store).problems == []
    assert ingest_videos(sources, store, clip_frames=4, workers=1).ingested == 1
    assert verify_store(store).clips == 6


def test_a_url_nobody_can_open_is_refused() -> None:
    with pytest.raises(UsageError, match="can't be reached"):
        read_manifest("nosuch://bucket/clips")


def test_a_bucket_with_other_things_is_no_store(bucket: str) -> None:
    import s3fs

    s3fs.S3FileSystem().pipe_file("videos/mine/readme.txt", b"mine")
    with pytest.raises(UsageError, match="other things in it"):
        ingest_videos([__file__], f"{bucket}/mine")
