"""The report: one page, complete, that needs nothing else."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from codec.colour import frame_to_rgb
from codec.errors import BitreelError
from infra.anchors import anchor_point
from infra.bdrate import BdRate
from infra.evaluation_results import BdRow, Evaluation, FramePoint, Point, SequenceResult
from infra.evaluation_scores import bd_table, scores_of
from infra.pictures import write_picture
from infra.report import nearest_in_rate, write_report
from tests.infra.moving_clips import moving_frames, moving_source


def _point(source: object, qp: int, size: int, quality: float) -> Point:
    frames = [FramePoint(i, "P" if i else "I", size // 4, quality, quality, quality, quality, None) for i in range(4)]
    details = {
        "exact": True, "estimate_error_percent": 0.25, "container_bytes_per_frame": 8, "header_bytes": 60,
        "decoder_peak_mb": 300.0,
    }  # fmt: skip
    return Point.of("bitreel", qp, size, source, frames, 1.0, 2.0, details)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("report")
    source = moving_source(folder, 64, 64, 4)
    write_picture(folder / "pictures" / "source.webp", next(source.frames()), source.format)
    anchors = [anchor_point(source, "x265-medium", qp, folder / "cache")[0] for qp in (42, 37, 32, 27, 22)]
    points = [_point(source, 12 * i, int(a.bytes * 1.5), a.psnr_yuv + 0.1) for i, a in enumerate(anchors)]
    sequence = SequenceResult(source, points, {"x265-medium": anchors}, "pictures/source.webp", 2)
    table = bd_table([sequence])
    model = {"name": "cams <b>1</b>", "family": "innvc", "hash": "ab" * 32, "complexity": {"parameters": 264337.0}}
    settings = {
        "qps": [p.qp for p in points], "anchors": ["x265-medium"], "frames": 4, "intra_period": -1, "field": True,
        "notes": ["a note for the reader"],
    }  # fmt: skip
    return Evaluation(model, settings, [sequence], table, scores_of([sequence], table), folder)


def test_page_is_whole_and_needs_nothing_else(evaluation: Evaluation, tmp_path: Path) -> None:
    page = write_report(evaluation, tmp_path / "deep" / "report.html").read_text()
    addresses = re.findall(r'(?:src|href|xlink:href)="([^"]+)"', page) + re.findall(r"url\(([^)]+)\)", page)
    assert addresses and all(a.startswith(("data:image/webp;base64,", "#")) for a in addresses)
    assert page.count("<script") == page.count("<script>") == 1 and "@import" not in page and "fetch(" not in page
    assert page.count("<svg") == page.count("</svg>") == 2 + 2 + 1  # mean and sequence, two metrics each; frames
    assert "cams &lt;b&gt;1&lt;/b&gt;" in page
    assert "a note for the reader" in page and "264,337" in page


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.webp", "pictures/../../secret.webp", "results.json"])
def test_no_other_file_gets_into_the_page(path: str, evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.webp").write_bytes(b"a person's own")
    (sequence,) = evaluation.sequences
    told = dataclasses.replace(
        evaluation, folder=tmp_path / "in", sequences=[dataclasses.replace(sequence, source_picture=path)]
    )
    with pytest.raises(BitreelError, match="which is none of its own"):
        write_report(told, tmp_path / "report.html")


def test_the_champion_is_named_and_comes_first(evaluation: Evaluation, tmp_path: Path) -> None:
    settings = evaluation.settings | {"champion": {"name": "cams@3", "hash": "cd" * 32}}
    scores = evaluation.scores | {"bd_rate_vs_champion": -12.34}
    against = dataclasses.replace(evaluation, settings=settings, scores=scores)
    page = write_report(against, tmp_path / "report.html").read_text()
    assert "champion is\ncams@3, model hash <code>cdcdcdcdcdcdcdcd</code>" in page
    assert page.index("BD-rate over the champion, cams@3") < page.index("BD-rate over x265-medium")
    assert '<b class="good">−12.3 %</b>' in page


def test_rates_are_labelled_with_plain_numbers(evaluation: Evaluation, tmp_path: Path) -> None:
    page = write_report(evaluation, tmp_path / "report.html").read_text()
    assert re.search(r">(0\.)?[125]</text>", page) and "mathdefault" not in page


@pytest.mark.slow
def test_a_browser_shows_the_pictures_side_by_side(evaluation: Evaluation, tmp_path: Path) -> None:
    browser = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    shown = evaluation.sequences[0].points[0]
    picture = dataclasses.replace(shown, picture=evaluation.sequences[0].source_picture)
    sequence = dataclasses.replace(evaluation.sequences[0], points=[picture, *evaluation.sequences[0].points[1:]])
    page = write_report(dataclasses.replace(evaluation, sequences=[sequence]), tmp_path / "report.html")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}", page.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout
    assert '<div class="viewer">' in dom, "it is shown once the pictures are read"
    assert re.search(r'<canvas width="64" height="64"', dom)


def test_figures_on_the_page_are_the_measured_ones(evaluation: Evaluation, tmp_path: Path) -> None:
    page = write_report(evaluation, tmp_path / "report.html").read_text()
    percent = evaluation.scores["bd_rate.x265-medium"]
    assert percent == pytest.approx(50.0, abs=5.0)
    assert f"+{percent:.1f} %" in page
    for point in evaluation.sequences[0].points:
        assert f"<td>{point.bytes}</td>" in page and f"<td>{point.psnr_yuv:.2f}</td>" in page
    assert evaluation.sequences[0].anchors["x265-medium"][0].details["encoder"] in page
    assert "preset medium" in page


def test_refusals_are_shown_with_reasons(evaluation: Evaluation, tmp_path: Path) -> None:
    refused = BdRow("x265-medium", "psnr_yuv", "40-48", "sequence", "moving", BdRate.refusal("too little in common"))
    evaluation.bd_rates.append(refused)
    page = write_report(evaluation, tmp_path / "report.html").read_text()
    assert "x265-medium, PSNR-YUV, 40-48, moving: too little in common" in page


def test_equal_bits_is_the_nearest_rate(evaluation: Evaluation) -> None:
    sequence = evaluation.sequences[0]
    anchors = sequence.anchors["x265-medium"]
    for point in sequence.points:
        nearest = nearest_in_rate(point, anchors)
        ratios = [max(point.bpp / a.bpp, a.bpp / point.bpp) for a in anchors]
        assert max(point.bpp / nearest.bpp, nearest.bpp / point.bpp) == min(ratios)


def test_colours_of_pictures(tmp_path: Path) -> None:
    source = moving_source(tmp_path, 64, 64, 1)
    frame = moving_frames(64, 64, 1)[0]
    grey = type(frame)(frame.y * 0 + 126, frame.u * 0 + 128, frame.v * 0 + 128)
    red = type(frame)(frame.y * 0 + 63, frame.u * 0 + 102, frame.v * 0 + 240)  # BT.709 red, limited range
    assert set(frame_to_rgb(grey, source.format).reshape(-1).tolist()) == {128}
    assert abs(frame_to_rgb(red, source.format)[0, 0].astype(int) - [255, 0, 0]).max() <= 2
