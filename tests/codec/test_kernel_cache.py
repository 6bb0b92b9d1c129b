"""Kernels compiled ahead of their use."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("numba")
from codec import kernel_cache
from codec.api import CODECS, EncodeOptions, create_codec, save_codec
from codec.errors import BitreelError
from codec.frames import Frame, VideoFormat
from infra.cli import run

CODE_BOTH = """
import io
from fractions import Fraction
from codec.api import EncodeOptions, load_codec
from codec.frames import Frame, VideoFormat
for name in ("innvc-small", "dcvc-fm-small"):
    codec = load_codec(name)
    for qp in (30, 62, 63) if name == "innvc-small" else (30,):
        sink = io.BytesIO()
        frames = [Frame.from_bytes(bytes(range(t, t + 192)) * 16, 64, 32) for t in range(4)]
        codec.encode(frames, VideoFormat(64, 32, Fraction(25)), sink, EncodeOptions(qp))
        sink.seek(0)
        assert len(list(codec.decode(sink))) == 4
"""


def test_the_note_is_where_numba_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    place = kernel_cache.place()
    assert place is not None and place.parent == tmp_path
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert kernel_cache.place() not in (None, place)


def test_a_process_that_fails_says_why_and_leaves_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "GROUPS", {"no-such-group": print})
    with pytest.raises(BitreelError, match="no-such-group"):
        kernel_cache.compile_all(tmp_path / "note")
    assert not (tmp_path / "note").exists()


def test_a_command_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CODECS, "stored", "tests.codec.stored_codec:StoredCodec")
    codec = create_codec("stored", {})
    save_codec(codec, tmp_path / "model")
    with (tmp_path / "a.brl").open("wb") as sink:
        codec.encode([Frame.from_bytes(bytes(96), 8, 8)], VideoFormat(8, 8, Fraction(25)), sink, EncodeOptions(40))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernel_cache, "GROUPS", {"no-such-group": print})
    out = tmp_path / "out.y4m"
    assert run(["decode", str(tmp_path / "a.brl"), str(out), "--model", str(tmp_path / "model")]) == 0
    told = capsys.readouterr().err
    assert "compiling the coder for this machine" in told and "compiled when they are needed" in told
    assert out.stat().st_size > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode"],
        ["encode", "missing.y4m", "out.brl", "--model", "innvc-small", "--qp", "30"],
        ["encode", "missing.y4m", "out.brl", "--model", "missing", "--qp", "30"],
        ["decode", "missing.brl", "out.y4m"],
        ["fit", "missing.y4m", "--model", "innvc-small", "--out", "fitted"],
        ["evaluate", "--model", "missing", "--videos", "missing.y4m"],
        ["train", "innvc-demo", "--store", "missing"],
    ],
)
def test_nobody_waits_for_it_to_read_of_a_mistake(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernel_cache, "compile_all", lambda done: pytest.fail("compiled first"))
    assert run(arguments) in (1, 2)
    assert "compiling" not in capsys.readouterr().err


@pytest.mark.slow
def test_afterwards_nothing_is_left_to_compile(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-m", "codec.kernel_cache"], env=environment, check=True)
    made = sorted(tmp_path.rglob("*"))
    assert sum(path.name.startswith("bitreel-kernels-") for path in made) == 1
    subprocess.run([sys.executable, "-c", CODE_BOTH], env=environment, check=True)
    assert sorted(tmp_path.rglob("*")) == made
