"""Published tables as anchors: matched by name and size, without frames, and honest about which frames they are of."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from codec.errors import UsageError
from infra.anchors import anchor_point
from infra.evaluation_results import Evaluation, Point, SequenceResult
from infra.evaluation_scores import MEAN_OF_SEQUENCES, bd_table, scores_of
from infra.pictures import write_picture
from infra.published_anchors import load_published
from infra.report import write_report
from tests.infra.moving_clips import moving_source


def point(qp: int, bpp: float, y: float, frames: int = 4, **changed: Any) -> dict[str, Any]:
    return {
        "qp": qp, "frame_pixel_num": 64 * 64, "i_frame_num": 1, "p_frame_num": frames - 1, "ave_all_frame_bpp": bpp,
        "ave_all_frame_psnr_y": y, "ave_all_frame_psnr_u": y + 2, "ave_all_frame_psnr_v": y + 4, **changed,
    }  # fmt: skip


def table(path: Path, points: list[dict[str, Any]], name: str = "Moving_64x64_25.yuv") -> Path:
    path.write_text(json.dumps({"set": {name: {f"{p.get('qp', 0):03d}": p for p in points}}}))
    return path


def test_points_are_matched_by_name_and_size(tmp_path: Path) -> None:
    path = table(tmp_path / "vtm 17.json", [point(22, 0.8, 42.0), point(37, 0.1, 33.0), point(27, 0.5, 39.0)])
    anchor = load_published(path)
    assert anchor.name == "vtm_17" and len(anchor.sha256) == 64
    source = moving_source(tmp_path, 64, 64, 4)  # called "moving"
    found = anchor.find(source)
    assert found.frames == 4 and [p.qp for p in found.points] == [37, 27, 22]
    worst = found.points[0]
    assert (worst.codec, worst.bpp, worst.psnr_y, worst.psnr_v) == ("vtm_17", 0.1, 33.0, 37.0)
    assert worst.psnr_yuv == pytest.approx((6 * 33 + 35 + 37) / 8) and worst.bytes == round(0.1 * 64 * 64 * 4 / 8)
    assert worst.frames == [] and worst.encode_fps is None and worst.ms_ssim is None and worst.picture is None
    assert anchor.notes([source]) == []
    by_file = dataclasses.replace(source, name="other", video="/v/Moving_64x64_25fps_420_8bit.yuv")
    assert anchor.find(by_file) is found
    shorter = dataclasses.replace(source, frame_count=3)
    assert (
        "not of the same frames as ours" in anchor.notes([shorter])[0]
        and "moving 4 (ours 3)" in anchor.notes([shorter])[0]
    )
    for wrong in (dataclasses.replace(source, name="still", video="still"), dataclasses.replace(source, height=48)):
        with pytest.raises(UsageError, match=r"has no sequence '.*it has moving"):
            anchor.find(wrong)
    with pytest.raises(UsageError, match="another size than the table's"):
        anchor.find(dataclasses.replace(source, downscale=2))


@pytest.mark.parametrize(
    ("points", "name", "message"),
    [([point(22, 0.8, 42.0, ave_all_frame_bpp="x")], "m_64x64.yuv", "'x'"),
     ([{"qp": 22}], "m_64x64.yuv", "no 'i_frame_num'"),
     ([point(22, 0.8, 42.0), point(27, 0.4, 40.0, frames=9)], "m_64x64.yuv", r"\[4, 9\] frames"),
     ([point(22, 0.8, 42.0)], "m_64x48.yuv", "frame_pixel_num is not 64x48"),
     ([point(22, 0.8, 42.0)], "moving.yuv", "names no size")],
)  # fmt: skip
def test_a_bad_table_is_refused(points: list[dict[str, Any]], name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_published(table(tmp_path / "bad.json", points, name))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"a": 1}', None])
def test_no_table_at_all_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match="anchor table"):
        load_published(path)


def test_figures_and_report_with_an_anchor_that_has_no_frames(tmp_path: Path) -> None:
    source = moving_source(tmp_path, 64, 64, 4)
    write_picture(tmp_path / "pictures" / "source.webp", next(source.frames()), source.format)
    coded = [anchor_point(source, "x265-medium", qp, tmp_path / "cache")[0] for qp in (42, 37, 32, 27, 22)]
    details = {
        "exact": True, "estimate_error_percent": None, "container_bytes_per_frame": 8, "header_bytes": 60,
        "decoder_peak_mb": 321.0,
    }  # fmt: skip
    ours = [
        dataclasses.replace(p, codec="bitreel", qp=12 * i, details=details, psnr_y=p.psnr_y, encode_fps=2.0)
        for i, p in enumerate(coded)
    ]
    made = [  # exactly half of our bits at our quality
        point(p.qp, p.bpp / 2, p.psnr_y, ave_all_frame_psnr_u=p.psnr_u, ave_all_frame_psnr_v=p.psnr_v) for p in coded
    ]
    anchor = load_published(table(tmp_path / "published.json", made))
    sequence = SequenceResult(source, ours, {anchor.name: list(anchor.find(source).points)}, "pictures/source.webp", 2)
    rows = bd_table([sequence])
    main = {(r.metric, r.range): r.result.percent for r in rows if r.aggregation == MEAN_OF_SEQUENCES}
    assert main["psnr_yuv", "all"] == pytest.approx(100.0, abs=0.1)
    assert main["psnr_y", "all"] == pytest.approx(100.0, abs=0.1)
    assert not [key for key in main if key[0] in ("ms_ssim", "vmaf")], "the table has no such figures"
    scores = scores_of([sequence], rows)
    assert scores["bd_rate.published"] == pytest.approx(100.0, abs=0.1) and "chain_decay_db" not in scores
    settings = {
        "qps": [p.qp for p in ours], "anchors": [anchor.name], "frames": 96, "intra_period": -1, "field": True,
        "anchor_tables": [{"name": anchor.name, "path": anchor.path, "sha256": anchor.sha256}],
        "notes": anchor.notes([dataclasses.replace(source, frame_count=3)]),
    }  # fmt: skip
    model = {"name": "m", "family": "innvc", "hash": "ab" * 32, "complexity": {"parameters": 5.0}}
    evaluation = Evaluation(model, settings, [sequence], rows, scores, tmp_path)
    evaluation.save()
    assert Evaluation.load(tmp_path).to_json() == json.loads(json.dumps(evaluation.to_json()))
    page = write_report(evaluation, tmp_path / "report.html").read_text()
    assert "published results, read from published.json" in page and anchor.sha256[:16] in page
    assert "It has no frames" in page and "not of the same frames" in page
    assert "<td>published</td><td>–</td><td>–</td><td>–</td>" in page and "<td>321</td>" in page
    assert page.count("<svg") == 2 + 2 + 1, "curves with the anchor; the figure by frame without it"


def _published_vtm() -> Path | None:
    clips = os.environ.get("BITREEL_TEST_CLIPS")
    folder = os.environ.get("BITREEL_TEST_ANCHORS") or (Path(clips).parent / "anchors" if clips else None)
    path = Path(folder) / "vtm_17.0_yuv420_LB_allf_ip0.json" if folder else None
    return path if path and path.is_file() else None


def test_vtms_published_table(tmp_path: Path) -> None:
    path = _published_vtm()
    if path is None:
        pytest.skip("no published tables: set BITREEL_TEST_ANCHORS to their folder")
    anchor = load_published(path)
    assert len(anchor.sequences) == 53
    from infra.sequence_catalogue import load_catalogue

    base = moving_source(tmp_path, 64, 64, 1)
    for name in ("uvg", "mcl-jcv", "hevc-b", "hevc-c", "hevc-d", "hevc-e"):
        for listed in load_catalogue(name).sequences:
            source = dataclasses.replace(
                base, name=listed.name, width=listed.width, height=listed.height, frame_count=listed.frames
            )
            found = anchor.find(source)
            assert found.frames == listed.frames and anchor.notes([source]) == []
            assert [p.qp for p in found.points] == list(range(49, 21, -3))
            assert all(_rises(a, b) for a, b in zip(found.points, found.points[1:], strict=False))
    horses = dataclasses.replace(base, name="RaceHorses", width=416, height=240, frame_count=300)
    best = anchor.find(horses).points[-1]
    assert best.qp == 22 and best.bpp != anchor.find(dataclasses.replace(horses, width=832, height=480)).points[-1].bpp


def _rises(worse: Point, better: Point) -> bool:
    return worse.bpp < better.bpp and worse.psnr_yuv < better.psnr_yuv and (worse.ms_ssim or 0) < (better.ms_ssim or 0)
