"""Kernels compiled ahead of their use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")
from codec import kernel_cache
from codec.errors import BitreelError
from infra.cli import main

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
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernel_cache, "GROUPS", {"no-such-group": print})
    with pytest.raises(SystemExit) as ended:
        main(["decode", str(tmp_path / "missing.brl"), str(tmp_path / "out.y4m")])
    told = capsys.readouterr().err
    assert "compiling the coder for this machine" in told and "compiled when they are needed" in told
    assert ended.value.code == 2 and "missing.brl" in told


@pytest.mark.slow
def test_afterwards_nothing_is_left_to_compile(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-m", "codec.kernel_cache"], env=environment, check=True)
    made = sorted(tmp_path.rglob("*"))
    assert sum(path.name.startswith("bitreel-kernels-") for path in made) == 1
    subprocess.run([sys.executable, "-c", CODE_BOTH], env=environment, check=True)
    assert sorted(tmp_path.rglob("*")) == made
