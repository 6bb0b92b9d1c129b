"""One stream, decoded and encoded in other processes under other configurations, is the same to the last bit.

`benchmarks/configurations.py` does the work: all configurations here, a few of the most different in the fast tier.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "configurations.py"


def run(tmp_path: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """Rows by configuration. Without footage, so that every machine codes the same rendered frames."""
    report = tmp_path / "hashes.json"
    environment = {k: v for k, v in os.environ.items() if k != "BITREEL_TEST_CLIPS"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(report), *arguments],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same everywhere" in done.stdout
    return {row.pop("configuration"): row for row in json.loads(report.read_text())}


def check(rows: dict[str, dict[str, Any]]) -> None:
    reference = rows["reference"]
    assert reference["symbol_count"] > 0
    assert reference["promised"] == reference["frames"]
    for name, row in rows.items():
        for key in ("frames", "symbols"):
            assert "skipped" in row or row[key] == reference[key], f"{name}: {key}"


def test_same_stream_on_very_different_configurations(tmp_path: Path) -> None:
    rows = run(tmp_path, "--only", "fast", "--size", "48x32", "--frames", "3")
    check(rows)
    ran = {name for name, row in rows.items() if "skipped" not in row}
    assert {"oneDNN off, 2 threads, channels last", "entropy coder not compiled"} <= ran


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("qp", [8, 40, 63])
def test_same_stream_on_every_configuration(tmp_path: Path, qp: int) -> None:
    rows = run(tmp_path, "--qp", str(qp), "--frames", "20", "--intra-period", "11")
    check(rows)
    if "skipped" not in rows["no AVX anywhere"]:
        assert rows["no AVX anywhere"]["instructions"] == "DEFAULT"  # the setting took hold


def test_a_difference_is_found_out(tmp_path: Path) -> None:
    """The comparison itself: rows that differ in one hash are not the same."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from configurations import same
    finally:
        sys.path.remove(str(SCRIPT.parent))
    row = {"configuration": "reference", "frames": "a", "symbols": "b", "stream": "c", "promised": "a"}
    assert same([row, {**row}, {"configuration": "other", "skipped": "no GPU here"}])
    for key in ("frames", "symbols", "stream", "promised"):
        assert not same([row, {**row, key: "x"}])
    assert same([row, {**row, "stream": "x", "own_decodes": True}])  # another encoder's choice, that decodes here
    assert not same([row, {**row, "stream": "x", "own_decodes": False}])
    assert not same([row, {"configuration": "other", "failed": "exit status 1"}])
    loose = {**row, "exact_frames": False}  # frames from floats may differ; nothing else may
    assert same([loose, {**loose, "frames": "x"}])
    assert not same([loose, {**loose, "symbols": "x"}])
