"""What an evaluation leaves in MLflow: figures, tables and links that its own pages show, versions side by side."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from codec.api import CODECS, create_codec, save_codec
from infra.anchors import anchor_point
from infra.evaluation_log import SCORES_TAG, find_evaluation, log_evaluation
from infra.evaluation_results import Evaluation, SequenceResult
from infra.evaluation_scores import bd_table, scores_of
from infra.pictures import write_picture
from infra.registry import get_version, register_version
from infra.report import write_report
from infra.tracking import EXPERIMENT, connect, start_run
from tests.infra.moving_clips import moving_source

DETAILS = {
    "exact": True, "estimate_error_percent": 0.5, "container_bytes_per_frame": 8, "header_bytes": 60,
    "decoder_peak_mb": 300.0,
}  # fmt: skip


def evaluation(folder: Path, share: float) -> Evaluation:
    """Of a codec that needs `share` of x265's bits."""
    source = moving_source(folder, 64, 64, 2)
    write_picture(folder / "pictures" / "source.webp", next(source.frames()), source.format)
    anchors = [anchor_point(source, "x265-medium", qp, folder / "cache")[0] for qp in (42, 37, 32, 27, 22)]
    ours = [
        dataclasses.replace(p, codec="bitreel", qp=9 * i, bpp=p.bpp * share, details=DETAILS)
        for i, p in enumerate(anchors)
    ]
    sequence = SequenceResult(source, ours, {"x265-medium": anchors}, "pictures/source.webp", 1)
    table = bd_table([sequence])
    model = {"name": "cams", "family": "tiny", "hash": "ab" * 32, "path": "", "complexity": {"parameters": 5.0}}
    settings = {
        "qps": [p.qp for p in ours], "anchors": ["x265-medium"], "frames": 2, "intra_period": -1, "field": True,
        "test_sets": ["smoke"], "anchor_tables": [], "notes": [],
    }  # fmt: skip
    made = Evaluation(model, settings, [sequence], table, scores_of([sequence], table), folder)
    made.save()
    return made


@pytest.fixture(autouse=True)
def _surroundings(mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


def logged(folder: Path, number: int, share: float) -> str:
    """Register version `number` of cams, evaluate and log it; the run's id."""
    save_codec(create_codec("tiny", {}), folder / f"model-{number}")
    assert register_version("cams", folder / f"model-{number}", start_run("made").run_id) == number
    (folder / f"e{number}").mkdir()
    made = evaluation(folder / f"e{number}", share)
    return log_evaluation(made, write_report(made, made.folder / "report.html"), get_version("cams", str(number)))


@pytest.mark.slow
def test_versions_can_be_compared_in_mlflows_own_pages(tmp_path: Path) -> None:
    two_versions = [logged(tmp_path, 1, 1.25), logged(tmp_path, 2, 0.8)]
    client = connect()
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found = client.search_runs(
        [experiment], "tags.model = 'cams' and tags.test_sets = 'smoke'", order_by=["start_time"]
    )
    assert [run.info.run_id for run in found] == two_versions
    rates = [run.data.metrics["bd_rate.x265-medium"] for run in found]
    assert rates == pytest.approx([25.0, -20.0], abs=0.1)
    steps = [client.get_metric_history(run, "bd_rate.x265-medium")[0].step for run in two_versions]
    assert steps == [1, 2] and [run.data.tags["model_version"] for run in found] == ["1", "2"]
    (scores,) = client.search_runs([experiment], f"tags.`{SCORES_TAG}` = 'cams'")
    history = client.get_metric_history(scores.info.run_id, "bd_rate.x265-medium")
    assert [(m.step, m.value) for m in history] == list(zip((1, 2), rates, strict=True))
    models = client.search_logged_models([experiment])
    by_version = {m.tags["model_version"]: {x.key: x.value for x in m.metrics or []} for m in models}
    assert {k: v["bd_rate.x265-medium"] for k, v in by_version.items()} == dict(zip(("1", "2"), rates, strict=True))

    again = evaluation(tmp_path / "e2", 0.5)  # the same version once more: its newest figures count, its model stays
    again.scores["bd_rate_vs_champion"] = -60.0
    page = write_report(again, again.folder / "report.html")
    run = log_evaluation(again, page, get_version("cams", "2"), get_version("cams", "1"))
    assert "BD-rate over the champion, cams@1: -60.0 %" in client.get_run(run).data.tags["mlflow.note.content"]
    assert len(client.search_logged_models([experiment])) == 2
    assert get_version("cams", "2").tags["evaluation_run"] == run
    assert client.get_run(scores.info.run_id).data.metrics["bd_rate.x265-medium"] == pytest.approx(-50.0, abs=0.1)


def test_another_models_version_is_no_champion_of_this_one(tmp_path: Path) -> None:
    """Though it has the same number."""
    logged(tmp_path, 1, 1.0)
    logged(tmp_path, 2, 1.0)
    save_codec(create_codec("tiny", {}), tmp_path / "model-other")
    assert register_version("dogs", tmp_path / "model-other", start_run("made").run_id) == 1
    made = Evaluation.load(tmp_path / "e2")
    made.scores["bd_rate_vs_champion"] = -3.0
    page = made.folder / "report.html"
    for rival, noted in (("cams", "1"), ("dogs", None)):
        log_evaluation(made, page, get_version("cams", "2"), get_version(rival, "1"))
        assert get_version("cams", "2").tags.get("compared_with") == noted


def test_a_run_holds_tables_figures_and_links(tmp_path: Path) -> None:
    run_id = logged(tmp_path, 1, 0.8)
    client = connect()
    run = client.get_run(run_id)
    got = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path / "got")))
    table = json.loads((got / "tables" / "bd_rates.json").read_text())
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["anchor"] == "x265-medium" and row["percent"] == pytest.approx(-20.0, abs=0.1)
    assert len(json.loads((got / "tables" / "points.json").read_text())["data"]) == 10
    assert "tables/bd_rates.json" in run.data.tags["mlflow.loggedArtifacts"]
    for name in ("mean-psnr_yuv", "moving-psnr_yuv", "moving-psnr_y"):
        root = ElementTree.parse(got / "figures" / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not list((got / "figures").glob("*vmaf*")) and (got / "evaluation" / "report.html").is_file()
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "moving" and len(dataset.dataset.digest) == 32
    assert "[cams@1](#/models/cams/versions/1)" in run.data.tags["mlflow.note.content"]
    assert "BD-rate over x265-medium: -20" in run.data.tags["mlflow.note.content"]
    assert f"runs/{run_id}" in client.get_model_version("cams", "1").description
    with find_evaluation("cams@1") as found:
        assert found.scores["bd_rate.x265-medium"] == pytest.approx(-20.0, abs=0.1)


@pytest.mark.slow
def test_a_persons_description_stays(tmp_path: Path) -> None:
    logged(tmp_path, 1, 1.25)
    client = connect()
    client.update_model_version("cams", "1", "For the night cameras.")
    again = evaluation(tmp_path / "e1", 1.0)
    log_evaluation(again, write_report(again, again.folder / "report.html"), get_version("cams", "1"))
    assert client.get_model_version("cams", "1").description == "For the night cameras."
