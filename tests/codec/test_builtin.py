"""Models that ship with the package: found by name and by hash; half precision, with the hash of what is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codec.api import CODECS, CONFIG_FILE, WEIGHTS_FILE, create_codec, load_codec, save_codec
from codec.builtin import builtin_models, find_builtin, stated_hash
from codec.errors import BitreelError, UsageError
from tests.codec.stored_codec import StoredCodec

LARGEST = 6_000_000  # bytes of weights that the repository carries


@pytest.fixture(autouse=True)
def _stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "stored", "tests.codec.stored_codec:StoredCodec")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two built-in models, "one" and "two"."""
    folder = tmp_path / "shelf"
    for name, value in (("one", 1 / 3), ("two", 0.7)):
        save(folder / name, value, half=True)
    monkeypatch.setenv("BITREEL_MODELS", f"{tmp_path / 'nowhere'}:{folder}")
    return folder


def save(folder: Path, value: float, half: bool = False) -> Path:
    codec = StoredCodec()
    codec.weight.data.fill_(value)
    codec.display_name = folder.name
    save_codec(codec, folder, half)
    return folder


def weight_of(ref: str | Path) -> float:
    (weight,) = load_codec(ref).parameters()
    assert weight.dtype == torch.float32
    return float(weight.detach())


def test_half_precision_is_rounded_once_and_the_hash_is_that_of_the_rounded_weights(tmp_path: Path) -> None:
    codec = create_codec("innvc", {"width": 16, "trunk_blocks": 1})
    before = codec.model_hash()
    save_codec(codec, tmp_path / "full")
    save_codec(codec, tmp_path / "half", half=True)
    assert codec.model_hash() == before == load_codec(tmp_path / "full").model_hash()

    loaded = load_codec(tmp_path / "half")  # raises where the hash is not the weights'
    assert loaded.model_hash() != before and stated_hash(tmp_path / "half") == loaded.model_hash().hex()
    parameters = dict(codec.named_parameters())
    for name, tensor in loaded.state_dict().items():
        given = codec.state_dict()[name]
        assert tensor.dtype == given.dtype
        assert torch.equal(tensor, given.half().float() if name in parameters else given)
    kept = load_file(tmp_path / "half" / WEIGHTS_FILE)
    assert {kept[name].dtype for name in parameters} == {torch.float16}
    assert json.loads((tmp_path / "half" / CONFIG_FILE).read_text())["weights"] == "float16"

    # Half of a half is the same once more.
    save_codec(loaded, tmp_path / "again", half=True)
    assert load_codec(tmp_path / "again").model_hash() == loaded.model_hash()


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_what_half_precision_can_not_hold_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(BitreelError, match="weight 'weight' is too large for float16"):
        save(tmp_path / "model", value, half=True)
    assert not (tmp_path / "model").exists()


def test_altered_half_weights_are_refused(shelf: Path) -> None:
    (shelf / "one" / WEIGHTS_FILE).write_bytes((shelf / "two" / WEIGHTS_FILE).read_bytes())
    with pytest.raises(BitreelError, match="model at 'one': weights do not match the hash"):
        load_codec("one")


def test_models_are_found_by_name_after_folders(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name: folder for name, folder in builtin_models().items() if folder.parent == shelf} == {
        "one": shelf / "one",
        "two": shelf / "two",
    }
    assert weight_of("one") == pytest.approx(1 / 3, rel=1e-3) and load_codec("two").display_name == "two"
    (tmp_path / "here" / "one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert weight_of("one") == pytest.approx(1 / 3, rel=1e-3)  # a folder without a model hides nothing
    save(Path("one"), 0.25)
    assert weight_of("one") == 0.25


def test_unfinished_folders_are_no_models_and_unknown_names_list_the_known(shelf: Path) -> None:
    save(shelf / ".hidden", 0.5)
    save(shelf / "cut", 0.5)
    (shelf / "cut" / WEIGHTS_FILE).unlink()
    assert {"one", "two"} <= set(builtin_models()) and not {"cut", ".hidden"} & set(builtin_models())
    with pytest.raises(UsageError, match=r"no model at 'three'.*built-in models: .*one, two"):
        load_codec("three")


def test_a_model_is_found_by_the_beginning_of_its_hash(shelf: Path) -> None:
    assert find_builtin(load_codec("two").model_hash().hex()[:24]) == shelf / "two"
    assert find_builtin("0" * 24) is None and find_builtin("") is None
    (shelf / "one" / CONFIG_FILE).write_text("{")
    with pytest.raises(BitreelError, match="can't be read as a model's config"):
        find_builtin("0" * 24)


def test_models_in_the_package_are_whole_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITREEL_MODELS", raising=False)
    if not builtin_models():
        pytest.skip("no model lies in codec/models")
    for name, folder in builtin_models().items():
        assert load_codec(name).display_name == name
        assert (folder / WEIGHTS_FILE).stat().st_size <= LARGEST
        assert (folder / "recipe.toml").is_file()
