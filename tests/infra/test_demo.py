"""The whole way, small: videos in, a promoted version out, and its streams decode from the registry alone."""

from pathlib import Path

import pytest

from codec.api import load_codec
from codec.errors import UsageError
from infra.cli import run
from infra.demo import QPS, held_out_videos, run_demo
from infra.registry import CHAMPION, list_versions
from pipeline.manifest import read_manifest
from pipeline.rendered import render_demo_videos
from pipeline.store import verify_store
from trainers.recipe import load_recipe


def test_from_videos_to_a_champion(mlflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    videos = render_demo_videos(tmp_path / "videos", 4, 6, (96, 64))
    recipe = load_recipe("innvc-demo", ["scale_steps=0.01", "batch_size=2"])
    told: list[str] = []
    seen: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        seen[stage] = (done, total)

    result = run_demo(
        [str(path) for path in videos], tmp_path / "demo", recipe=recipe, say=told.append, progress=progress
    )

    assert all(done == total for done, total in seen.values())
    assert set(seen) == {"ingest", "train", "evaluation", "evaluation-no-field", "evaluation-start"}
    assert not verify_store(result.store).problems
    held_out = held_out_videos(result.store)
    training = {row["source"] for row in read_manifest(result.store).to_pylist() if row["split"] == "train"}
    assert held_out and not training & {str(path) for path in held_out}
    assert [p.qp for p in result.evaluation.sequences[0].points] == list(QPS)
    assert result.evaluation.scores["decode_hash_failures"] == 0
    assert result.report.is_file()

    (version,) = list_versions("demo")
    assert version.scores["psnr_range_db"] == result.evaluation.scores["psnr_range_db"]
    assert result.gate.moved == (CHAMPION in version.aliases) == result.gate.passed

    # A stream finds its model by the name and hash it carries.
    stream, out = tmp_path / "clip.brl", tmp_path / "clip.y4m"
    assert run(["encode", str(held_out[0]), str(stream), "--model", "demo@1", "--qp", "30"]) == 0
    assert run(["decode", str(stream), str(out)]) == 0
    assert out.stat().st_size > 6 * 96 * 64
    assert load_codec(tmp_path / "demo" / "start").display_name == "demo-start"


def test_two_videos_are_too_few(mlflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    videos = render_demo_videos(tmp_path / "videos", 2, 3, (64, 48))
    with pytest.raises(UsageError, match="give at least 3"):
        run_demo([str(p) for p in videos], tmp_path / "demo", say=lambda text: None, progress=lambda *_: None)
