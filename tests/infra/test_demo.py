"""The whole way, small: videos in, a promoted version out, and its streams decode from the registry alone."""

from pathlib import Path

import pytest

from codec.api import load_codec, save_codec
from codec.errors import UsageError
from infra.cli import run
from infra.demo import OTHER, QPS, SHIPPED, DemoResult, held_out_videos, run_demo
from infra.registry import CHAMPION, list_versions
from infra.tracking import connect
from pipeline.manifest import read_manifest
from pipeline.rendered import render_demo_videos
from pipeline.verification import verify_store
from trainers.loop import fresh_codec
from trainers.recipe import load_recipe

STAGES = {"ingest", "train", "evaluation", "evaluation-no-field", "evaluation-untrained", f"evaluation-{OTHER}"}


def demo(tmp_path: Path, shipped: list[str], ours: list[str]) -> tuple[DemoResult, dict[str, tuple[int, int]]]:
    """A short demo where the built-in model was made by the demo's recipe with the changes `shipped`, and the recipe
    has the changes `ours`."""
    save_codec(fresh_codec(load_recipe("innvc-demo", ["seed=5", *shipped])), tmp_path / "models" / SHIPPED)
    videos = render_demo_videos(tmp_path / "videos", 4, 6, (96, 64))
    recipe = load_recipe("innvc-demo", ["scale_steps=0.03", "batch_size=2", *ours])
    seen: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        seen[stage] = (done, total)

    result = run_demo(
        [str(path) for path in videos], tmp_path / "demo", recipe=recipe, say=lambda text: None, progress=progress
    )
    return result, seen


@pytest.fixture(autouse=True)
def _place(mlflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITREEL_MODELS", str(tmp_path / "models"))


def test_from_videos_to_a_champion(tmp_path: Path) -> None:
    result, seen = demo(tmp_path, [], [])
    assert all(done == total for done, total in seen.values())
    assert set(seen) == STAGES | {"evaluation-shipped"}
    assert not verify_store(result.store).problems
    held_out = held_out_videos(result.store)
    training = {row["source"] for row in read_manifest(result.store).to_pylist() if row["split"] == "train"}
    assert held_out and not training & {str(path) for path in held_out}
    assert [p.qp for p in result.evaluation.sequences[0].points] == list(QPS)
    assert result.evaluation.scores["decode_hash_failures"] == 0
    assert result.other is not None and result.other.scores["decode_hash_failures"] == 0
    assert result.other_report is not None and OTHER in result.other_report.read_text()
    assert result.report.is_file()
    assert result.against_shipped is not None and result.against_untrained is not None

    (version,) = list_versions("demo")
    assert version.scores["psnr_range_db"] == result.evaluation.scores["psnr_range_db"]
    assert result.gate.moved == (CHAMPION in version.aliases) == result.gate.passed

    # A stream finds its model by the name and hash it carries.
    stream, out = tmp_path / "clip.brl", tmp_path / "clip.y4m"
    assert run(["encode", str(held_out[0]), str(stream), "--model", "demo@1", "--qp", "30"]) == 0
    assert run(["decode", str(stream), str(out)]) == 0
    assert out.stat().st_size > 6 * 96 * 64
    assert load_codec(tmp_path / "demo" / "untrained").display_name == "demo-untrained"

    # Training began with the built-in model's weights.
    assert connect().get_run(version.run_id).data.params["init_from_hash"] == load_codec(SHIPPED).model_hash().hex()


@pytest.mark.slow
def test_another_codec_than_the_built_in_one_starts_untrained(tmp_path: Path) -> None:
    result, seen = demo(tmp_path, ["codec.config.width=16"], ["codec.config.width=24"])
    assert set(seen) == STAGES and result.against_shipped is None
    (version,) = list_versions("demo")
    untrained = load_codec(tmp_path / "demo" / "untrained").model_hash().hex()
    assert connect().get_run(version.run_id).data.params["init_from_hash"] == untrained != version.model_hash


def test_two_videos_are_too_few(tmp_path: Path) -> None:
    videos = render_demo_videos(tmp_path / "videos", 2, 3, (64, 48))
    with pytest.raises(UsageError, match="give at least 3"):
        run_demo([str(p) for p in videos], tmp_path / "demo", say=lambda text: None, progress=lambda *_: None)
