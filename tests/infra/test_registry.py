"""Registry on a real MLflow (SQLite): versions, provenance, references, scores, clear errors."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codec.api import CODECS, CONFIG_FILE, WEIGHTS_FILE, create_codec, load_codec, save_codec
from codec.errors import BitreelError, UsageError
from infra import registry
from infra.provenance import manifest_hash
from infra.registry import (
    fetch_version,
    get_version,
    list_models,
    list_versions,
    record_scores,
    register_version,
    resolve_model,
    set_alias,
    split_ref,
)
from infra.tracking import start_run
from tests.trainers.small_store import make_store
from tests.trainers.synthetic import tiny_recipe


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, mlflow_home: Path) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")
    monkeypatch.setenv("XDG_CACHE_HOME", str(mlflow_home / "cache"))


def checkpoint(folder: Path) -> Path:
    save_codec(create_codec("tiny", {}), folder)
    return folder


def test_a_version_is_registered_scored_aliased_and_found_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", clips=2)
    run = start_run("made")
    first, second = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert register_version("cams", first, run.run_id, recipe=tiny_recipe(), store=store, tags={"note": "a"}) == 1
    assert register_version("cams", second, run.run_id) == 2
    record_scores("cams", 1, {"psnr_range_db": 16.25, "bd_rate_psnr_yuv.x265-ldp": -3.5}, {"compared_with": "2"})
    set_alias("cams", "champion", 1)

    one, two = list_versions("cams")
    assert one.scores == {"psnr_range_db": 16.25, "bd_rate_psnr_yuv.x265-ldp": -3.5}
    assert one.aliases == ("champion",) and two.aliases == () and list_models() == ["cams"]
    assert one.model_hash == load_codec(first).model_hash().hex()
    assert one.tags["manifest_hash"] == manifest_hash(store) and one.tags["note"] == "a"
    assert one.tags["code_version"] and one.tags["compared_with"] == "2"
    assert get_version("cams", None).version == 2

    for ref in ("cams", "cams@champion", "cams@1", "models:/cams/1", "models:/cams@champion"):
        assert load_codec(resolve_model(ref)).model_hash().hex() == one.model_hash
    assert load_codec(resolve_model("cams@2")).model_hash().hex() == two.model_hash
    assert resolve_model(str(first)) == first
    kept = resolve_model("cams@1")
    assert json.loads((kept / "recipe.json").read_text()) == tiny_recipe().to_dict()
    assert "torch" in json.loads((kept / "provenance.json").read_text())["environment"]["packages"]
    # A copy in the cache that went bad is fetched anew.
    weights = kept / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x01\x02\x03\x04")
    assert load_codec(fetch_version(one)).model_hash().hex() == one.model_hash


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model 'cams' in the registry; there: none yet"):
        resolve_model("cams")
    run = start_run("made")
    register_version("cams", checkpoint(tmp_path / "one"), run.run_id)
    with pytest.raises(UsageError, match=r"no version or alias 'champion'; it has versions 1; aliases none"):
        resolve_model("cams")
    with pytest.raises(UsageError, match=r"no version or alias '9'"):
        resolve_model("cams@9")
    with pytest.raises(UsageError, match=r"no model 'dogs' in the registry; there: cams"):
        resolve_model("dogs@1")
    with pytest.raises(UsageError, match=r"no model at './nowhere'"):
        resolve_model("./nowhere")
    with pytest.raises(UsageError, match=r"model name 'a/b'"):
        register_version("a/b", tmp_path / "one", run.run_id)
    for bad in ("", "@1", "cams@"):
        with pytest.raises(UsageError, match=r"expected NAME"):
            split_ref(bad)


def test_a_registered_model_whose_files_changed_is_refused(tmp_path: Path) -> None:
    run = start_run("made")
    register_version("cams", checkpoint(tmp_path / "one"), run.run_id)
    source = Path(get_version("cams", "1").source.removeprefix("file://"))
    save_codec(create_codec("tiny", {}), source)  # a sound model, but another one
    with pytest.raises(BitreelError, match=r"cams@1: the files are not the registered model"):
        resolve_model("cams@1")
    (source / CONFIG_FILE).unlink()
    with pytest.raises(BitreelError, match=r"cams@1"):
        resolve_model("cams@1")


def test_a_login_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    register_version("cams", checkpoint(tmp_path / "one"), start_run("made").run_id)
    version = get_version("cams", "1")
    for path in ("files", "api/2.0/mlflow-artifacts/artifacts/files"):
        with pytest.raises(BitreelError, match=r"http://127\.0\.0\.1:9/") as told:
            fetch_version(replace(version, source=f"http://jane:s3cret@127.0.0.1:9/{path}"))
        assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("damaged", [False, True], ids=["nothing there", "a damaged copy there"])
def test_two_that_fetch_the_same_version_at_once(
    damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_version("cams", checkpoint(tmp_path / "one"), start_run("made").run_id)
    version = get_version("cams", "1")
    if damaged:
        (fetch_version(version) / WEIGHTS_FILE).write_bytes(b"cut short")
    download, theirs = registry._download, list[int]()

    def slow_download(*given: Any) -> Path:
        got = download(*given)
        monkeypatch.setattr(registry, "_download", download)
        theirs.append((fetch_version(version) / WEIGHTS_FILE).stat().st_ino)
        return got

    monkeypatch.setattr(registry, "_download", slow_download)
    folder = fetch_version(version)
    assert theirs == [(folder / WEIGHTS_FILE).stat().st_ino], "who was faster may read it already: it stays"
    assert load_codec(folder).model_hash().hex() == version.model_hash
    assert [each.name for each in folder.parent.iterdir()] == [folder.name], "nothing unfinished is left"


def test_fetching_by_many_at_once(tmp_path: Path) -> None:
    register_version("cams", checkpoint(tmp_path / "one"), start_run("made").run_id)
    version = get_version("cams", "1")
    (fetch_version(version) / CONFIG_FILE).write_bytes(b"{")
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(fetch_version, [version] * 16))
    (folder,) = folders
    assert load_codec(folder).model_hash().hex() == version.model_hash
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_a_dead_server_is_told_soon_and_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(BitreelError, match=r"MLflow at 'http://127.0.0.1:9' does not answer"):
        resolve_model("cams")
    assert time.monotonic() - began < 20


def test_a_database_that_is_none_is_told_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_text("this is no database, and it never was one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'junk.db'}")
    with pytest.raises(BitreelError, match=r"junk.db.*does not answer"):
        list_models()
