"""Exported models: half the size, sound, with recipe, data and curve where they are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codec.api import CODECS, create_codec, load_codec, save_codec
from codec.errors import UsageError
from infra.cli import run
from infra.model_export import export_model, recipe_toml, thinned
from infra.provenance import manifest_hash
from infra.registry import register_version
from infra.tracking import start_training_run
from tests.trainers.small_store import make_store
from tests.trainers.synthetic import tiny_recipe
from trainers.recipe import load_recipe, recipe_names


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, mlflow_home: Path) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")
    monkeypatch.setenv("XDG_CACHE_HOME", str(mlflow_home / "cache"))


def checkpoint(folder: Path) -> Path:
    save_codec(create_codec("tiny", {}), folder)
    return folder


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_survives_as_toml(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name)
    (tmp_path / "recipe.toml").write_text(recipe_toml(recipe.to_dict()))
    assert load_recipe(tmp_path / "recipe.toml") == recipe


def test_a_registered_version_comes_with_recipe_data_and_curve(tmp_path: Path) -> None:
    recipe, store = tiny_recipe(), make_store(tmp_path / "store", clips=3, frames=4)
    training = start_training_run(recipe, "tiny-1", {"store": store}, tmp_path / "tiny-1")
    tracker = training.open()
    for step in range(1, 9):
        tracker.log(step, {"loss": 10.0 - step, "bpp": 1.0, "learning_rate": 1e-3})
    tracker.close()
    register_version("cams", checkpoint(tmp_path / "model"), training.run_id, recipe=recipe, store=store)

    made = export_model("cams@1", tmp_path / "cams-small")
    assert made.beside == ["recipe.toml", "data.json", "curve.json"] and not made.lacking
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "config.json", "curve.json", "data.json", "model.safetensors", "recipe.toml",
    ]  # fmt: skip
    assert load_recipe(made.folder / "recipe.toml") == recipe
    curves = json.loads((made.folder / "curve.json").read_text())["curves"]
    assert curves["loss"] == [[step, 10.0 - step] for step in range(1, 9)] and "psnr_yuv" not in curves
    data = json.loads((made.folder / "data.json").read_text())
    assert data["manifest_hash"] == manifest_hash(store)
    assert [(entry["clips"], entry["frames"]) for entry in data["sources"]] == [(3, 12)]

    codec = load_codec(made.folder)
    assert codec.display_name == "cams-small" and codec.model_hash().hex() == made.model_hash
    assert made.made_of == load_codec(tmp_path / "model").model_hash().hex() != made.model_hash
    again = export_model(str(made.folder), tmp_path / "again")  # what lies beside a checkpoint goes along
    assert again.model_hash == made.model_hash and again.beside == made.beside


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = checkpoint(tmp_path / "model")
    assert run(["export", str(model), str(tmp_path / "full"), "--full", "--json", "e.json"]) == 0
    said = capsys.readouterr().out
    assert "the checkpoint holds no recipe" in said and "rounded" not in said
    assert json.loads(Path("e.json").read_text())["model_hash"] == load_codec(model).model_hash().hex()
    assert run(["export", str(model), str(tmp_path / "half")]) == 0
    assert "its weights are rounded" in capsys.readouterr().out
    assert run(["export", str(model), str(tmp_path / "full")]) == 2
    assert "holds something already" in capsys.readouterr().err


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    with pytest.raises(UsageError, match="model name 'a b'"):
        export_model(str(model), tmp_path / "a b")
    with pytest.raises(UsageError, match="no model 'dogs'"):
        export_model("dogs@1", tmp_path / "dogs")
    assert not (tmp_path / "dogs").exists()


def test_long_curves_are_averaged() -> None:
    points = [(step, float(step)) for step in range(1, 1001)]
    assert thinned(points, most=10)[:2] == [(100, 50.5), (200, 150.5)]
    assert len(thinned(points)) <= 400 and thinned(points)[-1][0] == 1000
    assert thinned(points[:3]) == points[:3] and thinned([]) == []
