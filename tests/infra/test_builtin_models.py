"""Built-in models in every command: precedence among names, `models`, streams that find their model, `train --from`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codec.api import CODECS, create_codec, load_codec, save_codec
from codec.builtin import builtin_models
from codec.errors import UsageError
from infra.cli import run
from infra.registry import register_version, resolve_model, set_alias
from infra.tracking import connect, find_training_run, start_run
from tests.infra.moving_clips import moving_clip
from tests.trainers.small_store import make_store
from trainers.loop import fresh_codec
from trainers.recipe import load_recipe

RECIPE = """
batch_size = 2
log_every = 1
checkpoint_every = 1
pictures_every = 1
codec = { family = "innvc", config = { width = 16, trunk_blocks = 1 } }
[[phases]]
name = "still"
steps = 2
learning_rate = [0.0, 0.0]
crop = 64
"""


@pytest.fixture(autouse=True)
def shelf(mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a built-in model "small", in half precision."""
    folder = mlflow_home / "shelf"
    save(folder / "small", half=True)
    monkeypatch.setenv("BITREEL_MODELS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(mlflow_home / "cache"))
    return folder


def save(folder: Path, half: bool = False) -> Path:
    codec = create_codec("innvc", {"width": 16, "trunk_blocks": 1})
    codec.display_name = folder.name
    save_codec(codec, folder, half)
    return folder


def test_folders_then_versions_then_built_in_models_then_champions(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BITREEL_MODELS")
    registered = save(tmp_path / "registered")
    register_version("small", registered, start_run("made").run_id)
    set_alias("small", "champion", 1)
    assert load_codec(resolve_model("small")).model_hash() == load_codec(registered).model_hash()

    monkeypatch.setenv("BITREEL_MODELS", str(shelf))
    assert resolve_model("small") == shelf / "small"
    for ref in ("small@1", "small@champion", "models:/small/1"):
        assert load_codec(resolve_model(ref)).model_hash() == load_codec(registered).model_hash()
    with pytest.raises(UsageError, match="'small' is a built-in model's; choose another"):
        register_version("small", registered, start_run("made").run_id)
    save(Path("small"))
    assert resolve_model("small") == Path("small")
    with pytest.raises(UsageError, match=r"no model 'dogs' in the registry; there: small; built-in models: .*small"):
        resolve_model("dogs")


def test_models_shows_them(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = load_codec("small").model_hash().hex()
    assert run(["models", "--json", "all.json"]) == 0
    said = capsys.readouterr().out
    assert "float16" in said and digest[:12] in said and "no models yet" in said
    facts = json.loads(Path("all.json").read_text())["built_in"]["small"]
    assert facts["model_hash"] == digest and facts["folder"] == str(shelf / "small") and facts["bytes"] > 1000
    assert run(["models", "small", "--json", "one.json"]) == 0
    assert digest[:12] in capsys.readouterr().out
    assert json.loads(Path("one.json").read_text()) == {"name": "small", "versions": [], "built_in": facts}


def test_a_stream_finds_its_built_in_model_without_a_registry(monkeypatch: pytest.MonkeyPatch, shelf: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers there
    clip = moving_clip(Path("clip.y4m"), 32, 32, 2)
    assert run(["encode", str(clip), "clip.brl", "--model", "small", "--qp", "63"]) == 0
    assert run(["decode", "clip.brl", "out.y4m"]) == 0
    assert Path("out.y4m").read_bytes() == clip.read_bytes()  # QP 63 is lossless
    (shelf / "small").rename(shelf / "renamed")  # the hash decides, not the name
    assert run(["decode", "clip.brl", "again.y4m"]) == 0


@pytest.mark.slow
def test_training_starts_from_a_built_in_model_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text(RECIPE)
    store = make_store(tmp_path / "store", clips=4)
    assert (
        run(["train", "mine.toml", "--store", str(store), "--from", "small", "--name", "cams", "--json", "t.json"]) == 0
    )
    done = json.loads(Path("t.json").read_text())
    # The recipe's learning rate is 0, so the parameters that come out are those it started from.
    before, after = load_codec("small"), load_codec(resolve_model("cams@1"))
    assert after.model_hash() == load_codec(done["checkpoint"]).model_hash()
    assert all(torch.equal(*pair) for pair in zip(before.parameters(), after.parameters(), strict=True))
    found = find_training_run(done["run"])
    assert found is not None
    params = connect().get_run(found[0].run_id).data.params
    assert params["init_from"] == "small (built-in)"
    assert params["init_from_hash"] == before.model_hash().hex()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--from", "small", "--set", "codec.config.width=24"], "recipe 'mine' asks for: width 16, not 24"),
        (["--from", "nothing"], "no model 'nothing' in the registry"),
        (["--from", "./nothing"], "no model at './nothing'"),
        (["--from", "small", "--resume", "mine-1"], "a resumed run goes on from its own weights"),
        (["--name", "small"], "'small' is a built-in model's"),
    ],
)  # fmt: skip
def test_wrong_starts_are_told_before_a_run_is_on_record(
    tmp_path: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.toml").write_text(RECIPE)
    store = make_store(tmp_path / "store", clips=4)
    assert run(["train", "mine.toml", "--store", str(store), *more]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert connect().search_experiments(filter_string="name = 'bitreel'") == []


def test_recipes_fit_the_codecs_they_go_with(monkeypatch: pytest.MonkeyPatch) -> None:
    small, demo, base = (fresh_codec(load_recipe(name)) for name in ("innvc-small", "innvc-demo", "innvc-base"))
    assert small.config == demo.config
    assert base.complexity()["parameters"] > 2 * small.complexity()["parameters"]
    monkeypatch.delenv("BITREEL_MODELS")
    if "innvc-small" not in builtin_models():
        pytest.skip("innvc-small does not lie in codec/models")
    assert load_codec("innvc-small").config == small.config


def test_a_codec_of_another_family_is_no_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")
    save_codec(create_codec("tiny", {}), tmp_path / "tiny")
    Path("mine.toml").write_text(RECIPE)
    store = make_store(tmp_path / "store", clips=4)
    assert run(["train", "mine.toml", "--store", str(store), "--from", str(tmp_path / "tiny")]) == 2
    assert "family tiny, not innvc" in capsys.readouterr().err
