"""Models across versions: a setting that came later has its stated value, what comes from the future is refused."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from codec.api import CODECS, CONFIG_FILE, Codec, EncodeOptions, load_codec, save_codec
from codec.errors import BitreelError
from codec.frames import Frame, VideoFormat
from tests.codec.stored_codec import StoredCodec, StoredConfig


@dataclass
class LaterConfig(StoredConfig):
    """The codec a version later: `shift` came, and is not 0 in new models."""

    ADDED: ClassVar[Mapping[str, Any]] = {"shift": 0}
    shift: int = 2


class LaterCodec(StoredCodec):
    config_class = LaterConfig


@dataclass
class CarelessConfig(StoredConfig):
    """A setting whose value for earlier models nobody has stated."""

    shift: int = 2


class CarelessCodec(StoredCodec):
    config_class = CarelessConfig


Install = Callable[[type[Codec]], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    return lambda made: monkeypatch.setitem(CODECS, "stored", f"{made.__module__}:{made.__name__}")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    meta = json.loads((folder / CONFIG_FILE).read_text())
    change(meta)
    (folder / CONFIG_FILE).write_text(json.dumps(meta))


def test_a_model_from_before_a_setting_was_added_stays_what_it_was(
    tmp_path: Path, install: Install, random_frames: Callable[..., list[Frame]]
) -> None:
    before = StoredCodec(StoredConfig(refresh_period=2))
    save_codec(before, tmp_path / "before")
    fmt = VideoFormat(16, 16)
    frames, stream = random_frames(fmt, 5), io.BytesIO()
    before.encode(frames, fmt, stream, EncodeOptions(20))

    install(LaterCodec)
    loaded = load_codec(tmp_path / "before")
    assert (loaded.config.shift, loaded.config.refresh_period) == (0, 2), "as before, not the new default"
    assert loaded.model_hash() == before.model_hash()
    again = io.BytesIO()
    loaded.encode(frames, fmt, again, EncodeOptions(20))
    assert again.getvalue() == stream.getvalue()
    stream.seek(0)
    assert [f.to_bytes() for f in loaded.decode(stream)] == [f.to_bytes() for f in frames]

    # Saved anew it is a model that the version before reads.
    save_codec(loaded, tmp_path / "anew")
    assert (tmp_path / "anew" / CONFIG_FILE).read_bytes() == (tmp_path / "before" / CONFIG_FILE).read_bytes()
    install(StoredCodec)
    assert load_codec(tmp_path / "anew").model_hash() == before.model_hash()


def test_a_model_that_uses_the_new_setting_is_another_model(tmp_path: Path, install: Install) -> None:
    install(LaterCodec)
    save_codec(LaterCodec(LaterConfig()), tmp_path / "new")
    loaded = load_codec(tmp_path / "new")
    assert loaded.config.shift == 2 and loaded.model_hash() != LaterCodec(LaterConfig(shift=0)).model_hash()

    install(StoredCodec)
    with pytest.raises(BitreelError, match=r"newer version .* has shift.*install that version") as refused:
        load_codec(tmp_path / "new")
    assert refused.value.exit_status == 1

    install(LaterCodec)
    edit(tmp_path / "new", lambda meta: meta["config"].pop("shift"))
    with pytest.raises(BitreelError, match="do not match the hash"):
        load_codec(tmp_path / "new")


def test_a_setting_without_a_stated_value_is_not_guessed(tmp_path: Path, install: Install) -> None:
    save_codec(StoredCodec(), tmp_path / "before")
    install(CarelessCodec)
    with pytest.raises(BitreelError, match=r"another version .* has no shift"):
        load_codec(tmp_path / "before")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, r"has format 2, .* reads format 1; install the version"),
        ({"family": "future"}, r"codec 'future', which this version .* doesn't have \(it has .*innvc.*install"),
        ({"config": [1]}, "can't be loaded"),
    ],
)
def test_what_comes_from_the_future_is_refused(
    tmp_path: Path, install: Install, change: dict[str, Any], said: str
) -> None:
    install(StoredCodec)
    save_codec(StoredCodec(), tmp_path / "model")
    edit(tmp_path / "model", lambda meta: meta.update(change))
    with pytest.raises(BitreelError, match=said):
        load_codec(tmp_path / "model")


@pytest.mark.parametrize("family", sorted(CODECS))
def test_what_was_added_is_a_setting(family: str) -> None:
    module, _, name = CODECS[family].partition(":")
    config = getattr(importlib.import_module(module), name).config_class
    assert set(getattr(config, "ADDED", {})) <= {field.name for field in dataclasses.fields(config)}
