"""Evaluation from videos to scores, with a small untrained InnVC, real Ray, real files and a real decoder process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from codec.api import create_codec, load_codec, save_codec
from codec.errors import BitreelError, UsageError, VideoError
from codec.frames import Frame, frames_digest
from infra.evaluation import _distinct, evaluate_model
from infra.evaluation_results import Evaluation, Point
from infra.evaluation_scores import rate_at_quality, scores_of
from infra.evaluation_source import downscale_factor, prepare_source, shrink
from infra.evaluation_streams import StreamSet, decode_elsewhere, measure_stream_set, source_digest
from infra.promotion import load_gate
from infra.shared_models import shared_model, shared_place
from tests.infra.moving_clips import moving_clip, moving_frames, moving_source

QPS = (10, 22, 34, 46, 58)


def save_small_model(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    codec = create_codec("innvc", {"width": 16, "trunk_blocks": 1})
    codec.display_name = "small"
    save_codec(codec, folder)
    return folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluation]:
    home = tmp_path_factory.mktemp("evaluation")
    clips = [moving_clip(home / "a.y4m", 64, 64, 5), moving_clip(home / "b" / "a.y4m", 128, 96, 3, seed=1)]
    steps: list[tuple[int, int, str]] = []
    result = evaluate_model(
        save_small_model(home / "model"), clips, qps=QPS, anchors=["x265-medium"], frames=4, out=home / "out",
        max_pixels=64 * 64, champion=save_small_model(home / "other", seed=1), cache=home / "cache",
        on_progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert steps[-1][0] == steps[-1][1] >= 2 * (2 * len(QPS) + 4)
    yield result


def test_tasks_are_given_models_that_all_machines_find(evaluation: Evaluation) -> None:
    """Not where they lay before, which may be a disk of one machine alone."""
    cache = evaluation.folder.parent / "cache"
    hashes = {evaluation.model["hash"], evaluation.settings["champion"]["hash"]}
    assert {path.name for path in (cache / "models").iterdir()} == hashes
    decoded = (cache / "points").glob("*/point.json")
    assert len(list(decoded)) == 2 * 2 * len(QPS)


def test_a_model_that_is_shared_is_whole(tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "model")
    digest = load_codec(model).model_hash().hex()
    place = shared_model(model, digest, tmp_path / "cache")
    assert load_codec(place).model_hash().hex() == digest and place == shared_place(digest, tmp_path / "cache")
    written = place.stat().st_ino
    assert shared_model(model, digest, tmp_path / "cache") == place and place.stat().st_ino == written
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    assert load_codec(shared_model(model, digest, tmp_path / "cache")).model_hash().hex() == digest
    assert [path.name for path in place.parent.iterdir()] == [digest], "nothing unfinished or damaged is left"


@pytest.mark.parametrize("side", [64, 63])
def test_frames_that_are_not_what_was_read_are_read_anew_and_never_measured_on(tmp_path: Path, side: int) -> None:
    video = moving_clip(tmp_path / "clip.y4m", side, side, 3)
    source = prepare_source(video, tmp_path / "cache", 3)
    raw, whole = Path(source.path), frames_digest(source.frames())
    assert whole == source.digest
    written = raw.stat().st_ino
    assert prepare_source(video, tmp_path / "cache", 3) == source and raw.stat().st_ino == written
    for damage in (bytes(100) + raw.read_bytes()[100:], raw.read_bytes()[:-1]):
        raw.write_bytes(damage)
        with pytest.raises(VideoError, match=r"is damaged|was cut short"):
            list(source.frames())
        model = save_small_model(tmp_path / "model")
        job = StreamSet("bitreel", str(model), "", source, (40,), -1, True, 0, 1)
        with pytest.raises(VideoError, match=r"is damaged|was cut short"):
            measure_stream_set(job, tmp_path / "points")
        assert not list((tmp_path / "points").iterdir())
        again = prepare_source(video, tmp_path / "cache", 3)
        assert again == source and frames_digest(again.frames()) == whole


def test_what_coding_starts_from_is_part_of_what_results_are_kept_under(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    digests = set()
    for name, text in (("a.py", "one"), ("a.py", "two"), ("inner/start.npz", "three"), ("inner/start.npz", "four")):
        (tmp_path / name).write_text(text)
        digests.add(source_digest(tmp_path))
    assert len(digests) == 4
    (tmp_path / "inner" / "notes.txt").write_text("of no matter")
    assert source_digest(tmp_path) in digests


def test_every_point_is_a_file_that_decodes_exactly(evaluation: Evaluation) -> None:
    for sequence in evaluation.sequences:
        assert [p.qp for p in sequence.points] == list(QPS)
        for point in sequence.points:
            path = evaluation.folder / "streams" / sequence.source.name / "bitreel" / f"qp{point.qp:02d}.brl"
            assert path.stat().st_size == point.bytes == point.details["reported_bytes"]
            assert point.bpp == 8 * point.bytes / (sequence.source.width * sequence.source.height * len(point.frames))
            assert point.details["exact"] and len(point.frames) == sequence.source.frame_count
            assert (evaluation.folder / str(point.picture)).is_file()
            codec = load_codec(evaluation.model["path"])
            with path.open("rb") as stream:
                assert frames_digest(codec.decode(stream)) == point.details["decoder_digest"]
    assert evaluation.scores["decode_hash_failures"] == 0
    assert evaluation.scores["bits_total"] == sum(8 * p.bytes for s in evaluation.sequences for p in s.points)


def test_sequences_are_the_asked_frames_and_say_what_was_done(evaluation: Evaluation) -> None:
    first, second = (s.source for s in evaluation.sequences)
    assert (first.name, first.frame_count, first.downscale) == ("a", 4, 1)
    assert (second.name, second.frame_count, second.downscale) == ("a-2", 3, 2)
    assert (second.width, second.height, second.original_width) == (64, 48, 128)
    notes = evaluation.settings["notes"]
    assert any("128x96 area-averaged by 2 to 64x48" in n for n in notes)
    assert any("has 3 frames only" in n for n in notes)
    assert first.digest == frames_digest(moving_frames(64, 64, 5)[:4])


def test_names_differ_though_a_video_is_called_like_another_ones_second() -> None:
    assert _distinct(["a", "a", "a-2"]) == ["a", "a-3", "a-2"]
    assert _distinct(["a-2", "a", "a", "a", "a-2"]) == ["a-2", "a", "a-3", "a-4", "a-2-2"]


def test_anchor_covers_our_range_on_all_sequences_alike(evaluation: Evaluation) -> None:
    qps = [[p.qp for p in s.anchors["x265-medium"]] for s in evaluation.sequences]
    assert qps[0] == qps[1] and len(qps[0]) >= 4
    for sequence in evaluation.sequences:
        anchor = [p.psnr_yuv for p in sequence.anchors["x265-medium"]]
        ours = [p.psnr_yuv for p in sequence.points]
        assert max(anchor) >= max(ours) or qps[0][-1] == 4
        assert min(anchor) <= min(ours) or qps[0][0] == 51


def test_scores(evaluation: Evaluation) -> None:
    scores = evaluation.scores
    main = [r for r in evaluation.bd_rates if r.anchor == "x265-medium" and r.metric == "psnr_yuv" and r.range == "all"]
    single = [r.result.percent for r in main if r.sequence]
    assert len(single) == 2
    for row in main:
        assert (row.result.percent is None) == (row.result.refused is not None)
    if all(s is not None for s in single):
        assert scores["bd_rate.x265-medium"] == pytest.approx(np.mean(single))
    else:
        assert "bd_rate.x265-medium" not in scores
    assert "bd_rate_vs_champion" in scores and abs(scores["bd_rate_vs_champion"]) < 50
    spans = [s.points[-1].psnr_yuv - s.points[0].psnr_yuv for s in evaluation.sequences]
    assert scores["psnr_range_db"] == min(spans)
    assert scores["header_bytes"] < 100
    against = [r for r in evaluation.bd_rates if r.anchor == "champion" and r.range == "all" and r.sequence]
    psnr = [r.result.percent for r in against if r.metric == "psnr_yuv"]
    assert scores["bd_rate_worst_vs_champion"] == max(p for p in psnr if p is not None)
    assert 100 < scores["decoder_peak_mb"] < 4000 and scores["decode_fps"] > 0 and scores["encode_fps"] > 0
    assert "chain_decay_db" not in scores, "the clips are too short to tell"


def test_the_gates_that_come_with_it_ask_for_scores_that_there_are(evaluation: Evaluation) -> None:
    there = {name.replace("x265-medium", "x265-ldp-psnr") for name in evaluation.scores}
    gates = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("gate-*.toml"))
    assert gates == ["gate-default", "gate-release"]
    for gate in gates:
        # Decay wants longer videos than these.
        assert {rule.score for rule in load_gate(gate)} - there <= {"chain_decay_db"}


def test_decay_is_what_the_anchor_does_not_lose(evaluation: Evaluation) -> None:
    def lasting(point: Point, late: float) -> Point:
        frame = point.frames[0]
        frames = [dataclasses.replace(frame, psnr_yuv=point.psnr_yuv + (late if t >= 64 else 0.0)) for t in range(96)]
        return dataclasses.replace(point, frames=frames)

    sequence = evaluation.sequences[0]
    ours = [lasting(p, -1.0) for p in sequence.points]
    anchor = [lasting(p, -0.25) for p in sequence.anchors["x265-medium"]]
    longer = dataclasses.replace(sequence, points=ours, anchors={"x265-medium": anchor})
    assert scores_of([longer], evaluation.bd_rates)["chain_decay_db"] == pytest.approx(-0.75)


def test_a_stream_that_decodes_to_other_pixels_is_counted(evaluation: Evaluation) -> None:
    sequences = [dataclasses.replace(s, points=list(s.points)) for s in evaluation.sequences]
    broken = sequences[0].points[1]
    sequences[0].points[1] = dataclasses.replace(broken, details={**broken.details, "exact": False})
    assert scores_of(sequences, evaluation.bd_rates)["decode_hash_failures"] == 1
    sequences[0].points[0], sequences[0].points[1] = sequences[0].points[1], sequences[0].points[0]
    assert scores_of(sequences, evaluation.bd_rates)["monotonic"] == 0


def test_results_are_read_back_as_written(evaluation: Evaluation) -> None:
    again = Evaluation.load(evaluation.folder)
    assert json.loads(json.dumps(again.to_json())) == json.loads(json.dumps(evaluation.to_json()))
    table = pq.read_table(evaluation.folder / "results.parquet").to_pylist()
    points = [p for s in evaluation.sequences for c in (s.points, *s.anchors.values()) for p in c]
    assert len(table) == sum(len(p.frames) for p in points)
    assert {row["codec"] for row in table} == {"bitreel", "champion", "x265-medium"}
    with pytest.raises(UsageError, match=r"results\.json is missing"):
        Evaluation.load(evaluation.folder / "streams")


def test_a_measured_point_is_found_again_until_something_changes(tmp_path: Path) -> None:
    source = moving_source(tmp_path, 64, 64, 2)
    model = save_small_model(tmp_path / "model")
    digest = load_codec(model).model_hash().hex()
    job = StreamSet("bitreel", str(model), digest, source, (40,), -1, True, 0, 1)
    (first,) = measure_stream_set(job, tmp_path / "points")
    written = first.stream.stat().st_mtime_ns
    assert measure_stream_set(job, tmp_path / "points") == [first]
    more = measure_stream_set(dataclasses.replace(job, qps=(20, 40)), tmp_path / "points")
    assert more[1] == first and first.stream.stat().st_mtime_ns == written and more[0].point.qp == 20
    (other,) = measure_stream_set(dataclasses.replace(job, intra_period=1), tmp_path / "points")
    assert other.stream != first.stream
    (crowned,) = measure_stream_set(dataclasses.replace(job, label="champion"), tmp_path / "points")
    assert crowned == dataclasses.replace(first, point=dataclasses.replace(first.point, codec="champion"))
    assert first.point.codec == "bitreel" and first.stream.stat().st_mtime_ns == written
    good = first.stream.read_bytes()
    for damaged in (b"cut short", bytes([*good[:-1], good[-1] ^ 1])):
        first.stream.write_bytes(damaged)
        (again,) = measure_stream_set(job, tmp_path / "points")
        assert again.stream.read_bytes() == good, "a damaged one is measured anew"


def test_a_point_that_another_evaluation_made_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, model, points = (
        moving_source(tmp_path, 64, 64, 2),
        save_small_model(tmp_path / "model"),
        tmp_path / "points",
    )
    job = StreamSet("bitreel", str(model), load_codec(model).model_hash().hex(), source, (40,), -1, True, 0, 1)
    theirs: list[tuple[Path, int]] = []

    def slow_decoding(*given: Any) -> list[dict[str, Any]]:
        monkeypatch.setattr("infra.evaluation_streams.decode_elsewhere", decode_elsewhere)
        (kept,) = measure_stream_set(job, points)
        theirs.append((kept.stream, kept.stream.stat().st_ino))
        return decode_elsewhere(*given)

    monkeypatch.setattr("infra.evaluation_streams.decode_elsewhere", slow_decoding)
    (kept,) = measure_stream_set(job, points)
    assert theirs == [(kept.stream, kept.stream.stat().st_ino)]
    assert len(list(points.iterdir())) == 1, "nothing unfinished is left"


def test_a_decoder_that_fails_is_an_error_with_its_reason(tmp_path: Path) -> None:
    from infra.evaluation_worker import DecodeJob

    model = save_small_model(tmp_path / "model")
    source = moving_source(tmp_path, 64, 64, 2)
    job = StreamSet("bitreel", str(model), "", source, (40,), -1, True, 0, 1)
    (kept,) = measure_stream_set(job, tmp_path / "points")
    stream = tmp_path / "qp40.brl"
    stream.write_bytes(kept.stream.read_bytes()[:-20])
    streams = [(40, str(stream), str(tmp_path / "p.webp"))]
    with pytest.raises(BitreelError, match=r"decoding moving in a fresh process failed: .*truncated"):
        decode_elsewhere(DecodeJob(str(model), source, streams, 0, 1), tmp_path)


def _failing_at_first(count: Path, times: int) -> Callable[[StreamSet, Path], list[Any]]:
    """`measure_stream_set` as a Ray task that raises `times` times; each try adds a dot to the file `count`."""

    def measure(job: StreamSet, points: Path) -> list[Any]:
        with count.open("a") as tries:
            tries.write(".")
        if count.stat().st_size <= times:
            raise BitreelError(f"encoding {job.source.name} failed: the disk went away")
        return measure_stream_set(job, points)

    return measure


@pytest.mark.parametrize("times", [1, 2])
def test_a_task_that_fails_is_tried_again_and_then_reported(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = tmp_path / "tries"
    monkeypatch.setattr("infra.evaluation_tasks.measure_stream_set", _failing_at_first(tries, times))
    told: list[str] = []

    def evaluate() -> Evaluation:
        return evaluate_model(
            save_small_model(tmp_path / "model"), [moving_clip(tmp_path / "a.y4m", 64, 64, 2)], qps=(20, 40),
            anchors=[], frames=2, out=tmp_path / "out", cache=tmp_path / "cache",
            on_progress=lambda done, total, what: told.append(what),
        )  # fmt: skip

    if times == 1:
        assert [point.qp for point in evaluate().sequences[0].points] == [20, 40]
    else:
        with pytest.raises(BitreelError, match="encoding a failed: the disk went away"):
            evaluate()
        assert not (tmp_path / "out" / "results.json").exists(), "a score with missing points is never a score"
    assert tries.read_text() == ".."
    assert [what for what in told if "trying again" in what] == [
        "bitreel on a failed (encoding a failed: the disk went away); trying again"
    ]


def test_area_average_and_factor() -> None:
    frame = Frame(
        np.arange(48, dtype=np.uint8).reshape(6, 8), np.full((3, 4), 7, np.uint8), np.full((3, 4), 9, np.uint8)
    )
    small = shrink(frame, 2)
    assert small.y.shape == (2, 4) and small.u.shape == (1, 2)
    assert small.y[0, 0] == round((0 + 1 + 8 + 9) / 4 + 0.01) and small.v[0, 0] == 9
    assert [downscale_factor(1920, 1080, n) for n in (None, 2_100_000, 520_000, 230_400)] == [1, 1, 2, 3]


def test_source_is_read_once_and_a_missing_one_is_named(tmp_path: Path) -> None:
    clip = moving_clip(tmp_path / "c.y4m", 64, 48, 6)
    source = prepare_source(clip, tmp_path / "cache", 4)
    assert [f.to_bytes() for f in source.frames()] == [f.to_bytes() for f in moving_frames(64, 48, 6)[:4]]
    digest = hashlib.sha256(Path(source.path).read_bytes()).hexdigest()
    assert source.digest == digest
    written = Path(source.path).stat().st_mtime_ns
    assert prepare_source(clip, tmp_path / "cache", 4) == source
    assert Path(source.path).stat().st_mtime_ns == written
    with pytest.raises(VideoError, match=r"nothing\.mp4"):
        prepare_source(tmp_path / "nothing.mp4", tmp_path, 4)


@pytest.mark.parametrize("damage", ["", "[]", '{"width": 64}', '{"width": '])
def test_a_damaged_note_on_a_source_is_written_anew(damage: str, tmp_path: Path) -> None:
    clip = moving_clip(tmp_path / "c.y4m", 64, 48, 2)
    source = prepare_source(clip, tmp_path / "cache", 2)
    (note,) = (tmp_path / "cache").glob("*.json")
    whole = note.read_text()
    note.write_text(damage)
    assert prepare_source(clip, tmp_path / "cache", 2) == source and note.read_text() == whole
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"qps": [64]}, "0..63"), ({"frames": 0}, "frames"), ({"intra_period": 0}, "intra period"),
     ({"anchors": ["h264"]}, "unknown anchor 'h264'")],
)  # fmt: skip
def test_wrong_settings_are_refused(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate_model(tmp_path, [tmp_path / "x.mp4"], out=tmp_path / "out", **changed)  # type: ignore[arg-type]


def test_rate_at_quality(evaluation: Evaluation) -> None:
    points = evaluation.sequences[0].anchors["x265-medium"]
    assert rate_at_quality(points, points[1].psnr_yuv) == pytest.approx(points[1].bpp)
    assert rate_at_quality(points, 200.0) is None
