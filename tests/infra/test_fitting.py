"""Fitting videos on a real Ray with a small codec that really fits: streams, gains, what happens when things end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from codec.api import CODECS, EncodeOptions, FitSettings, load_codec, save_codec
from codec.errors import BitreelError, UsageError, VideoError
from codec.folder_lock import only_writer
from codec.frames import VideoFormat
from codec.metrics import frame_quality
from codec.stream_reader import StreamReader
from infra.bdrate import Curve, bd_rate
from infra.cli import run
from infra.fitting import fit_videos
from infra.fitting_results import FitReport
from infra.fitting_run import MAX_ATTEMPTS
from infra.fitting_worker import SourceFrames
from tests.codec.stored_codec import StoredCodec
from tests.infra.fittable_codec import FAMILY, PLACE, FittableCodec, announce, order
from tests.infra.moving_clips import moving_clip, moving_frames, moving_source

QPS = (36, 44, 52, 60)


@pytest.fixture(scope="module", autouse=True)
def _ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray whose workers, and their decoder processes, know the codec."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        orders = tmp_path_factory.mktemp("orders")
        patch.setenv("FIT_ORDERS", str(orders))
        patch.setenv("PYTHONPATH", announce(tmp_path_factory.mktemp("site") / "site"))
        patch.setitem(CODECS, FAMILY, PLACE)
        patch.setitem(CODECS, "stored", "tests.codec.stored_codec:StoredCodec")
        ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_codec(FittableCodec(), folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def report(home: Path, model: Path) -> FitReport:
    """One good video under two names, and one that is none, at four QPs."""
    clip = moving_clip(home / "a.y4m", 64, 64, 5)
    shutil.copyfile(clip, home / "again.y4m")
    broken = home / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    told: list[tuple[int, int, str]] = []
    found = fit_videos(
        model, [clip, broken, home / "again.y4m", home / "gone.mp4"], qps=QPS, out=home / "out",
        settings=FitSettings(steps=3), on_progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert told[-1][:2] == (8, 8)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    return found


def test_both_files_are_real_and_the_unfitted_model_decodes_them(report: FitReport, model: Path) -> None:
    (video,) = report.fitted
    source = moving_frames(64, 64, 5)
    codec = load_codec(model)
    for point in video.points:
        folder = report.folder / "a"
        for measured, path in (
            (point.fitted, folder / f"qp{point.qp:02d}.brl"),
            (point.one_pass, folder / "one-pass" / f"qp{point.qp:02d}.brl"),
        ):
            assert path.stat().st_size == measured.bytes
            assert measured.bpp == 8 * measured.bytes / (64 * 64 * 5)
            with path.open("rb") as stream:
                assert StreamReader(stream).header.model_hash == codec.model_hash()[:16]
            with path.open("rb") as stream:
                decoded = list(codec.decode(stream))
            quality = [frame_quality(s, d).psnr_yuv for s, d in zip(source, decoded, strict=True)]
            assert measured.psnr_yuv == pytest.approx(np.mean(quality))
            assert measured.details["exact"]
        assert point.fitted.bytes < point.one_pass.bytes
        assert point.fitted.psnr_yuv == point.one_pass.psnr_yuv
        assert len(point.losses) == 3 and point.fit_seconds > 0


def test_gain_is_the_bd_rate_of_the_two_files(report: FitReport) -> None:
    (video,) = report.fitted
    one_pass, fitted = (
        Curve.of([getattr(p, way).bpp for p in video.points], [getattr(p, way).psnr_yuv for p in video.points])
        for way in ("one_pass", "fitted")
    )
    gain = report.mean_gain()
    assert gain.percent == bd_rate(one_pass, fitted).percent and gain.percent is not None and gain.percent < -1
    assert not video.is_long
    assert report.mean_gain(only_long=True).refused == "no clip of 96 frames or more"
    written = json.loads((report.folder / "fit.json").read_text())
    assert written == json.loads(json.dumps(report.to_json()))
    assert written["bd_rate_mean"]["percent"] == gain.percent
    first = written["videos"][0]
    assert first["at_least_96_frames"] is False and first["fit_seconds"] == video.fit_seconds
    for point in first["points"]:
        for way in ("one_pass", "fitted"):
            assert (report.folder / point[way]["stream"]).stat().st_size == point[way]["bytes"]


def test_what_can_not_be_read_is_named_and_the_same_content_is_done_once(report: FitReport, home: Path) -> None:
    reasons = {Path(v.video).name: v.failure for v in report.failed}
    assert set(reasons) == {"broken.mp4", "gone.mp4"}
    assert all(name in reason for name, reason in reasons.items())
    assert report.duplicates == {str(home / "again.y4m"): str(home / "a.y4m")}
    assert (report.points_found, report.points_measured, report.worker_deaths) == (0, 4, 0)


def test_run_again_only_what_is_missing_is_done(report: FitReport, home: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(home / "out", out)
    renamed = tmp_path / "elsewhere.y4m"  # found by content
    shutil.copyfile(home / "a.y4m", renamed)
    other = moving_clip(tmp_path / "other" / "a.y4m", 48, 32, 3, seed=1)  # of the same name
    (out / "a" / "qp44.brl").unlink()
    times = {path: path.stat().st_mtime_ns for path in (out / "a").glob("*.brl")}
    again = fit_videos(model, [renamed, other], qps=[36, 44], out=out, settings=FitSettings(steps=3))
    assert (again.points_found, again.points_measured) == (1, 3)
    assert [v.name for v in again.fitted] == ["a", "a-2"]
    assert all(path.stat().st_mtime_ns == at for path, at in times.items())
    assert again.fitted[0].points[0] == report.fitted[0].points[0]
    assert again.fitted[0].points[1].fitted.bytes == report.fitted[0].points[1].fitted.bytes
    assert again.fitted[0].gain().refused == "2 QPs given; 4 or more are needed"
    weaker = fit_videos(model, [renamed], qps=[36], out=out, settings=FitSettings(steps=1))
    assert (weaker.points_found, weaker.points_measured) == (0, 1)
    assert weaker.fitted[0].points[0].fitted.bytes == weaker.fitted[0].points[0].one_pass.bytes
    assert not leftovers(out)


def test_stopped_after_a_point_a_run_goes_on_there(model: Path, tmp_path: Path) -> None:
    clip, out = moving_clip(tmp_path / "c.y4m", 64, 48, 3), tmp_path / "out"
    hold = order("wait", 64, 40)  # the second point does not come before the stop

    def stop(done: int, total: int, what: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_videos(model, [clip], qps=[24, 40], out=out, on_progress=stop)
    hold.unlink()
    first = (out / "c" / "qp24.json").stat().st_mtime_ns
    assert not (out / "c" / "qp40.json").exists() and not (out / "fit.json").exists()
    report = fit_videos(model, [clip], qps=[24, 40], out=out)
    assert (report.points_found, report.points_measured) == (1, 1)
    assert (out / "c" / "qp24.json").stat().st_mtime_ns == first
    assert [p.qp for p in report.fitted[0].points] == [24, 40] and not leftovers(out)


def test_a_dead_worker_costs_its_point_only_and_one_that_always_dies_its_video(model: Path, tmp_path: Path) -> None:
    clips = [moving_clip(tmp_path / f"{width}.y4m", width, 32, 2) for width in (48, 80)]
    order("die", 48, 40)
    always = order("die", 80, 24, times=99)
    report = fit_videos(model, clips, qps=[24, 40], out=tmp_path / "out")
    assert [v.name for v in report.fitted] == ["48"]
    assert [v.name for v in report.failed] == ["80"] and f"{MAX_ATTEMPTS} workers died" in report.failed[0].failure
    assert report.worker_deaths == 1 + MAX_ATTEMPTS == 1 + 99 - int(always.read_text())
    assert report.points_measured == 2 and not leftovers(tmp_path / "out")


def test_a_video_that_fails_is_status_1_and_the_others_are_printed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for width in (32, 48, 64):
        moving_clip(tmp_path / "videos" / f"clip{width}.y4m", width, 32, 2)
    order("fail", 48, 30)
    order("lie", 64, 30)
    answer = tmp_path / "answer.json"
    out = tmp_path / "out"
    arguments = ["fit", str(tmp_path / "videos"), "--model", str(model), "--qps", "30", "--out", str(out)]
    assert run([*arguments, "--frames", "1", "--steps", "2", "--workers", "2", "--json", str(answer)]) == 1
    said = capsys.readouterr()
    assert "clip32" in said.out and "1 QP given; 4 or more are needed" in said.out
    assert "clip48: RuntimeError: told to fail" in said.out and "clip64: decoding clip64" in said.out
    assert "2 of 3 videos failed" in said.err
    figures = json.loads(answer.read_text())
    assert figures["settings"]["steps"] == 2 and figures["settings"]["frames"] == 1
    assert [v["frames"] for v in figures["videos"] if "failure" not in v] == [1]
    assert not (out / "clip64" / "qp30.json").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qps": [64]}, "0..63"),
        ({"frames": 0}, "frames"),
        ({"videos": []}, "no videos"),
        ({"settings": FitSettings(steps=0)}, "steps"),
        ({"workers": 3}, "--workers 3"),
    ],
)
def test_wrong_settings_are_refused(changed: dict[str, object], message: str, model: Path, tmp_path: Path) -> None:
    clip = moving_clip(tmp_path / "c.y4m", 32, 32, 1)
    arguments = {"videos": [clip], "out": tmp_path / "out", **changed}
    with pytest.raises(UsageError, match=message):
        fit_videos(model, **arguments)  # type: ignore[arg-type]


def test_a_codec_that_can_not_be_fitted_says_so_before_any_work(tmp_path: Path) -> None:
    save_codec(StoredCodec(), tmp_path / "model")
    clip = moving_clip(tmp_path / "c.y4m", 32, 32, 1)
    with pytest.raises(UsageError, match="codec 'stored' can't be fitted"):
        fit_videos(tmp_path / "model", [clip], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="codec 'stored' can't be fitted"):
        StoredCodec().fit(moving_frames(32, 32, 1), VideoFormat(32, 32), EncodeOptions(30), FitSettings())


def test_two_runs_do_not_write_to_one_folder(model: Path, tmp_path: Path) -> None:
    clip = moving_clip(tmp_path / "c.y4m", 32, 32, 1)
    (tmp_path / "out").mkdir()
    with only_writer(tmp_path / "out", ""), pytest.raises(BitreelError, match="another fit is writing"):
        fit_videos(model, [clip], out=tmp_path / "out")


def test_source_frames_at_random_access(tmp_path: Path) -> None:
    source = moving_source(tmp_path, 50, 38, 4)
    frames = SourceFrames(source)
    expected = [f.to_bytes() for f in moving_frames(50, 38, 4)]
    assert len(frames) == 4 and [f.to_bytes() for f in frames] == expected
    assert frames[-1].to_bytes() == expected[3] and [f.to_bytes() for f in frames[2:9]] == expected[2:]
    with pytest.raises(IndexError):
        frames[4]
    os.truncate(source.path, 9000)
    with pytest.raises(VideoError, match="cut short"):
        frames[3]


@pytest.mark.slow
def test_control_c_on_the_command_and_again(model: Path, tmp_path: Path) -> None:
    moving_clip(tmp_path / "videos" / "c.y4m", 64, 48, 3)
    hold, out = order("wait", 64, 40), tmp_path / "out"
    arguments = ["fit", str(tmp_path / "videos"), "--model", str(model), "--qps", "24,40", "--out", str(out)]
    command = [sys.executable, "-m", "infra.cli", *arguments]
    running = subprocess.Popen(command, start_new_session=True)
    first = out / "c" / "qp24.json"
    until = time.monotonic() + 120
    while not first.exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: every process of the command gets it
    assert running.wait(60) == 130
    hold.unlink()
    assert not leftovers(out) and not (out / "c" / "qp40.json").exists()
    written = first.stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 points measured, 1 found from before" in done.stdout
    assert first.stat().st_mtime_ns == written and not leftovers(out)


def leftovers(out: Path) -> list[Path]:
    """Hidden files and folders below `out` but the lock."""
    return [path for path in out.rglob(".*") if path.name != ".lock"]
