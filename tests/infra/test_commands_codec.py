"""`bitreel encode`, `decode`, `inspect`, `evaluate` and `report` as a person uses them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from codec.api import EncodeOptions, create_codec, load_codec, save_codec
from codec.frames import Frame, VideoFormat, frames_digest
from infra.cli import run
from infra.registry import get_version, register_version, set_alias
from infra.tracking import start_run
from pipeline.decoders import open_video
from pipeline.y4m import Y4MSource
from tests.codec.stored_codec import packet_places
from tests.infra.moving_clips import moving_clip, moving_frames
from tests.infra.test_evaluation import save_small_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of odd size, two models, and the first one's stream of the clip."""
    home = tmp_path_factory.mktemp("codec")
    moving_clip(home / "clip.y4m", 67, 50, 4)
    save_small_model(home / "model")
    save_small_model(home / "other", seed=1)
    options = ["--model", str(home / "model"), "--qp", "40", "--json", str(home / "clip.json")]
    assert run(["encode", str(home / "clip.y4m"), str(home / "clip.brl"), *options]) == 0
    return home


def test_a_bitrate_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    codec = create_codec("dcvc-fm", {"width": 16, "hidden": 16, "context_blocks": 0, "decoder_blocks": 0})
    save_codec(codec, tmp_path / "model")
    moving_clip(tmp_path / "clip.y4m", 64, 48, 60)
    options = ["--model", str(tmp_path / "model"), "--bitrate", "150k", "--json", str(tmp_path / "f.json")]
    assert run(["encode", str(tmp_path / "clip.y4m"), str(tmp_path / "o.brl"), *options]) == 0
    assert abs(json.loads((tmp_path / "f.json").read_text())["bitrate"] / 150e3 - 1) < 0.05
    assert "off the bitrate" not in capsys.readouterr().out
    options[3] = "2"
    assert run(["encode", str(tmp_path / "clip.y4m"), str(tmp_path / "o.brl"), *options]) == 0
    assert "off the bitrate" in " ".join(capsys.readouterr().out.split())


def _reconstruction(place: Path) -> str:
    kept: list[Frame] = []
    with (place / "again").open("wb") as sink:
        load_codec(place / "model").encode(
            moving_frames(67, 50, 4),
            VideoFormat(67, 50),
            sink,
            EncodeOptions(qp=40),
            lambda _, frame: kept.append(frame),
        )
    return frames_digest(kept)


@pytest.mark.parametrize("suffix", ["y4m", "mkv"])
def test_decoded_frames_are_the_encoders(place: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    assert run(["decode", str(place / "clip.brl"), str(out), "--model", str(place / "model")]) == 0
    with open_video(out) as video:
        assert frames_digest(video) == _reconstruction(place)
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_encode_says_what_it_wrote(place: Path) -> None:
    figures = json.loads((place / "clip.json").read_text())
    assert figures["bytes"] == (place / "clip.brl").stat().st_size
    assert figures["frames"] == 4 and figures["bpp"] == 8 * figures["bytes"] / (67 * 50 * 4)
    assert figures["model_hash"] == load_codec(place / "model").model_hash().hex()


def test_raw_video_and_frame_limit(place: Path, tmp_path: Path) -> None:
    raw, out, model = tmp_path / "clip.yuv", tmp_path / "clip.brl", str(place / "model")
    raw.write_bytes(b"".join(f.to_bytes() for f in moving_frames(64, 48, 3)))
    options = ["--model", model, "--qp", "20", "--size", "64x48", "--frames", "2", "--json", str(tmp_path / "f.json")]
    assert run(["encode", str(raw), str(out), *options]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["frames"] == 2


def test_inspect(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(place / "clip.brl"), "--json", str(tmp_path / "i.json")]) == 0
    shown = json.loads((tmp_path / "i.json").read_text())
    assert (shown["width"], shown["height"], shown["frame_count"]) == (67, 50, 4)
    assert [f["type"] for f in shown["frames"]] == ["I", "P", "P", "P"]
    intra, *inter = [f["qp"] for f in shown["frames"]]
    assert intra > 40 and inter == [40, 40, 40]  # inter frames depend on the intra frame, so it is coded finer
    assert load_codec(place / "model").model_hash().hex().startswith(shown["model_hash"])
    assert shown["model_hash"] in capsys.readouterr().out
    assert [(run["frame"], run["offset"]) for run in shown["index"]] == [(0, shown["header_bytes"])]


def test_wrong_model_is_refused_and_nothing_is_left(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["decode", str(place / "clip.brl"), str(tmp_path / "o.y4m"), "--model", str(place / "other")]) == 1
    said = capsys.readouterr().err.strip()
    assert "clip.brl: this stream was made by model 'small'" in said and "\n" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "altered", "garbage", "empty"])
def test_damaged_streams_are_refused(
    place: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((place / "clip.brl").read_bytes())
    data[len(data) // 2] ^= 0x40 if damage == "altered" else 0
    broken = {"truncated": data[:-30], "altered": data, "garbage": b"\x07" * 500, "empty": b""}[damage]
    stream, out = tmp_path / "broken.brl", tmp_path / "o.mkv"
    stream.write_bytes(broken)
    for command in (["decode", str(stream), str(out), "--model", str(place / "model")], ["inspect", str(stream)]):
        assert run(command) == 1
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("bitreel: ") and "broken.brl: " in last
    assert [p.name for p in tmp_path.iterdir()] == ["broken.brl"]


def _pipe_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def _y4m_digest(data: bytes) -> str:
    return frames_digest(Y4MSource(io.BytesIO(data)))


def _long_stream(place: Path) -> Path:
    """Seven frames, an intra frame every three."""
    out = place / "long.brl"
    if not out.exists():
        moving_clip(place / "long.y4m", 67, 50, 7)
        options = ["--model", str(place / "model"), "--qp", "30", "--intra-period", "3"]
        assert run(["encode", str(place / "long.y4m"), str(out), *options]) == 0
    return out


def test_pipes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    model = ["--model", str(place / "model")]
    _pipe_in(monkeypatch, (place / "clip.y4m").read_bytes())
    assert run(["encode", "-", "-", *model, "--qp", "40", "--json", str(tmp_path / "p.json")]) == 0
    stream, said = capsysbinary.readouterr()
    assert b"standard output: 4 frames" in said
    assert json.loads((tmp_path / "p.json").read_text())["bytes"] == len(stream)
    assert len(stream) == (place / "clip.brl").stat().st_size
    _pipe_in(monkeypatch, stream)
    assert run(["decode", "-", "-", *model]) == 0
    video, said = capsysbinary.readouterr()
    assert _y4m_digest(video) == _reconstruction(place) and b"4 frames" in said
    _pipe_in(monkeypatch, stream)
    assert run(["inspect", "-"]) == 0


@pytest.mark.slow  # starts three processes
def test_real_pipes_and_a_reader_that_goes_away(place: Path) -> None:
    tool = [sys.executable, "-m", "infra.cli"]
    model = ["--model", str(place / "model")]
    with (place / "clip.y4m").open("rb") as video:
        encode = subprocess.Popen(
            [*tool, "encode", "-", "-", *model, "--qp", "40"],
            stdin=video,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        decode = subprocess.run([*tool, "decode", "-", "-", *model], stdin=encode.stdout, capture_output=True)
        assert encode.stdout and encode.stderr
        assert encode.wait() == 0 and decode.returncode == 0
        assert _y4m_digest(decode.stdout) == _reconstruction(place)
        encode.stdout.close(), encode.stderr.close()
    with subprocess.Popen(
        [*tool, "decode", str(place / "clip.brl"), "-", *model], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as gone:
        assert gone.stdout and gone.stderr
        gone.stdout.close()
        said = gone.stderr.read()
        assert gone.wait() == 1 and b"Traceback" not in said and b"Broken" not in said and b"bitreel:" not in said


def test_from_frame(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream, model = str(_long_stream(place)), ["--model", str(place / "model")]
    for out, options in (("all.y4m", []), ("part.y4m", ["--from-frame", "4", "--frames", "2"])):
        assert run(["decode", stream, str(tmp_path / out), *model, *options]) == 0
    with open_video(tmp_path / "all.y4m") as video:
        frames = list(video)
    with open_video(tmp_path / "part.y4m") as video:
        assert frames_digest(video) == frames_digest(frames[4:6])
    assert run(["decode", stream, str(tmp_path / "none.y4m"), *model, "--from-frame", "7"]) == 2
    assert "frame 7 is past the stream's end: it has 7 frames" in capsys.readouterr().err
    assert not (tmp_path / "none.y4m").exists()


def test_unfinished_streams(
    place: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _long_stream(place).read_bytes()
    stream, out, model = tmp_path / "cut.brl", tmp_path / "cut.y4m", ["--model", str(place / "model")]
    cut = packet_places(data)[5][0] + 4
    stream.write_bytes(data[:cut])
    assert run(["decode", str(stream), str(out), *model]) == 1
    assert b"ends within frame 5" in capsysbinary.readouterr().err and not out.exists()
    assert run(["decode", str(stream), "-", *model]) == 1
    got = capsysbinary.readouterr().out
    assert run(["decode", str(stream), str(out), *model, "--follow", "0"]) == 0
    assert b"5 frames, 67x50; the stream is unfinished" in b" ".join(capsysbinary.readouterr().out.split())
    assert out.read_bytes() == got and len(list(Y4MSource(io.BytesIO(got)))) == 5
    stream.write_bytes(data[: packet_places(data)[0][0] + 9])
    assert run(["decode", str(stream), str(tmp_path / "no.y4m"), *model, "--follow", "0"]) == 1
    assert b"no whole frame yet" in capsysbinary.readouterr().err and not (tmp_path / "no.y4m").exists()


def test_following_a_stream_that_grows(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _long_stream(place).read_bytes()
    stream, out, model = tmp_path / "growing.brl", tmp_path / "out.y4m", ["--model", str(place / "model")]
    stream.write_bytes(data[:100])

    def grow() -> None:
        with stream.open("ab") as sink:
            for at in range(100, len(data), 1 + len(data) // 5):
                time.sleep(0.2)
                sink.write(data[at : at + 1 + len(data) // 5])
                sink.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        assert run(["decode", str(stream), str(out), *model, "--follow", "60"]) == 0
    finally:
        writer.join()
    assert "7 frames" in (said := " ".join(capsys.readouterr().out.split())) and "unfinished" not in said


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["encode", "none.mp4", "o.brl", "--model", "MODEL", "--qp", "3"], 1, "none.mp4"),
        (["encode", "text.mp4", "o.brl", "--model", "MODEL", "--qp", "3"], 1, "text.mp4"),
        (["encode", "none.mp4", "o.brl", "--model", "MODEL", "--qp", "64"], 2, "--qp 64"),
        (["encode", "none.mp4", "o.mp4", "--model", "MODEL", "--qp", "3"], 2, ".brl"),
        (["encode", "none.mp4", "o.brl", "--model", "./none", "--qp", "3"], 2, "./none"),
        (["encode", "a.yuv", "o.brl", "--model", "MODEL", "--qp", "3", "--size", "64"], 2, "--size '64'"),
        (["encode", "none.mp4", "o.brl", "--model", "MODEL"], 2, "either --qp"),
        (["encode", "none.mp4", "o.brl", "--model", "MODEL", "--qp", "3", "--bitrate", "1M"], 2, "either --qp"),
        (["encode", "none.mp4", "o.brl", "--model", "MODEL", "--bitrate", "fast"], 2, "--bitrate 'fast'"),
        (["decode", "none.brl", "o.y4m"], 2, "none.brl"),
        (["inspect", "none.brl"], 2, "none.brl"),
        (["decode", "none.brl", "o.gif"], 2, "o.gif"),
        (["evaluate", "--model", "MODEL", "--videos", "none.mp4"], 2, "none.mp4"),
        (["report", "./none", "--out", "r.html"], 2, "./none"),
    ],
)
def test_wrong_use_is_one_clear_line(
    place: Path, mlflow_home: Path, arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.mp4").write_text("this is no video\n" * 50)
    arguments = [str(place / "model") if a == "MODEL" else a for a in arguments]
    assert run(arguments) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and not any("Traceback" in line for line in lines)
    assert not [p for p in mlflow_home.iterdir() if p.name.startswith(("o.", ".o.", "r."))]


def test_decode_finds_its_model_in_the_registry(
    place: Path, mlflow_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(mlflow_home / "cache"))
    stream = str(place / "clip.brl")
    assert run(["decode", stream, "o.y4m"]) == 2
    assert "'small'" in capsys.readouterr().err
    run_id = start_run("training").run_id
    register_version("small", place / "other", run_id)
    assert run(["decode", stream, "o.y4m"]) == 2
    assert "no version with that hash" in capsys.readouterr().err
    register_version("small", place / "model", run_id)
    register_version("small", place / "other", run_id)
    assert run(["decode", stream, "o.y4m"]) == 0
    with open_video("o.y4m") as video:
        assert frames_digest(video) == _reconstruction(place)


def test_evaluate_logs_beside_the_version_and_report_finds_it(
    place: Path, mlflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(mlflow_home / "cache"))
    run_id = start_run("training").run_id
    register_version("cams", place / "other", run_id)
    set_alias("cams", "champion", 1)
    register_version("cams", place / "model", run_id)
    arguments = ["evaluate", "--model", "cams@2", "--videos", str(place / "clip.y4m"), "--qps", "8,22,36,50"]
    assert run([*arguments, "--anchors", "x265-medium", "--frames", "2", "--out", "ev", "--json", "ev.json"]) == 0
    version = get_version("cams", "2")
    results = json.loads(Path("ev.json").read_text())
    assert version.scores == pytest.approx(results["scores"])
    assert version.scores["decode_hash_failures"] == 0 and "bd_rate_vs_champion" in version.scores
    assert version.tags["compared_with"] == "1" and version.tags["evaluation_run"] == results["mlflow_run"]
    for ref in ("cams@2", results["mlflow_run"], "ev"):
        assert run(["report", ref, "--out", "again.html"]) == 0
        assert Path("again.html").read_text() == Path("ev/report.html").read_text()
        Path("again.html").unlink()
    assert run(["report", "cams@1", "--out", "none.html"]) == 2
    assert not Path("none.html").exists()
