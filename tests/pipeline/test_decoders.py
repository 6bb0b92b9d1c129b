"""Reading and writing videos: exact planes, odd files that must work, and bad ones that must be refused clearly."""

from __future__ import annotations

import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codec.colour import frame_to_rgb, rgb_to_frame
from codec.errors import UsageError, VideoError
from codec.frames import Frame, VideoFormat, frames_digest
from codec.metrics import psnr_rgb
from pipeline.decoders import open_video
from pipeline.decord_source import DecordSource, has_open_gop, open_rgb
from pipeline.video_files import open_writer

MakeVideo = Callable[..., Path]
RandomFrames = Callable[..., list[Frame]]


@pytest.mark.parametrize("suffix", [".y4m", ".yuv", ".mkv", ".mp4"])
@pytest.mark.parametrize("full_range", [False, True])
def test_what_is_written_is_read_back(
    tmp_path: Path, random_frames: RandomFrames, suffix: str, full_range: bool
) -> None:
    fmt = VideoFormat(64, 48, Fraction(30000, 1001), "bt709", full_range)
    frames = random_frames(fmt, 3)
    path = tmp_path / f"video{suffix}"
    with open_writer(path, fmt) as writer:
        for frame in frames:
            writer.write(frame)
    with open_video(path, size=(64, 48)) as source:
        assert frames_digest(source) == frames_digest(frames)
        assert frames_digest(source) == frames_digest(frames)  # a second pass starts anew
        if suffix != ".yuv":  # which has planes only
            assert source.format.fps == fmt.fps
            assert source.format.full_range == full_range
        if suffix in (".mkv", ".mp4"):
            assert source.format == fmt
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".y4m", ".yuv", ".mkv"])
def test_odd_sizes_and_single_frames_stay_exact(tmp_path: Path, random_frames: RandomFrames, suffix: str) -> None:
    fmt = VideoFormat(35, 21, matrix="bt601")
    frames = random_frames(fmt, 1)
    with open_writer(tmp_path / f"odd{suffix}", fmt) as writer:
        writer.write(frames[0])
    with open_video(tmp_path / f"odd{suffix}", size=(35, 21)) as source:
        assert (source.format.width, source.format.height) == (35, 21)
        assert frames_digest(source) == frames_digest(frames)


def test_a_failed_write_leaves_no_file(tmp_path: Path, random_frames: RandomFrames) -> None:
    fmt = VideoFormat(64, 48)
    with pytest.raises(ValueError, match="in a 64x48 video"), open_writer(tmp_path / "video.mkv", fmt) as writer:
        writer.write(random_frames(fmt, 1)[0])
        writer.write(random_frames(VideoFormat(32, 48), 1)[0])
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must end in"):
        open_writer(tmp_path / "video.gif", VideoFormat(64, 48))
    with pytest.raises(UsageError, match="even sizes only"):
        open_writer(tmp_path / "video.mp4", VideoFormat(63, 48))


def test_rotation_tag_is_applied_and_noted(make_video: MakeVideo) -> None:
    plain = make_video("plain.mp4")
    turned = plain.with_name("turned.mp4")
    # The very same packets: x264 does not always make the same ones of the same pictures.
    with av.open(str(plain)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with open_video(plain) as a, open_video(turned) as b:
        assert (b.format.width, b.format.height) == (48, 64)
        assert any("rotation" in note for note in b.notes)
        for upright, frame in zip(a, b, strict=True):
            for before, after in zip(upright.planes, frame.planes, strict=True):
                # FFmpeg's tag counts counter-clockwise, as rot90 does.
                assert np.array_equal(np.rot90(before), after)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "tolerance"),
    [("libx265", "yuv420p10le", 2.0), ("ffv1", "yuv444p", 2.0), ("ffv1", "yuv422p", 2.0), ("ffv1", "gray", 40.0)],
)
def test_other_pixel_formats_are_converted_and_noted(
    make_video: MakeVideo, codec: str, pix_fmt: str, tolerance: float
) -> None:
    options = {"x265-params": "qp=4"} if codec == "libx265" else None
    path = make_video("other.mkv", codec=codec, pix_fmt=pix_fmt, options=options)
    with open_video(make_video("plain.mkv", codec="ffv1")) as plain, open_video(path) as source:
        assert source.pixel_format == pix_fmt
        assert f"converted from {pix_fmt} to yuv420p" in source.notes
        for a, b in zip(plain, source, strict=True):
            assert np.abs(a.y.astype(int) - b.y).mean() < tolerance  # grey is full range, the others are the same


def test_full_range_is_carried_and_not_squeezed(make_video: MakeVideo) -> None:
    for pix_fmt in ("yuvj420p", "yuvj444p"):
        path = make_video(f"{pix_fmt}.mp4", pix_fmt=pix_fmt, full_range=True, options={"qp": "4"})
        with open_video(path) as source, open_video(make_video("limited.mp4", options={"qp": "4"})) as limited:
            assert source.format.full_range
            spread = np.ptp(next(iter(source)).y.astype(int))
            assert spread > 1.1 * np.ptp(next(iter(limited)).y.astype(int))


def test_variable_frame_rate_keeps_every_frame(make_video: MakeVideo) -> None:
    with open_video(make_video("vfr.mp4", times=[0, 1, 2, 6, 7, 12, 13, 14])) as source:
        assert len(list(source)) == 8
        assert any("variable frame rate" in note for note in source.notes)


def test_steady_frame_rates_are_not_called_variable(real_clips: Path) -> None:
    for name in ("stream_water.webm", "nasa_13013.mp4", "cars_320x240.mkv"):
        with open_video(real_clips / name) as source:
            assert sum(len(frames) for frames in source.views()) > 0
            assert not any("variable" in note for note in source.notes)


def write_audio(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    return path


def write_without_frames(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def test_bad_files_are_refused_in_one_line(tmp_path: Path, make_video: MakeVideo) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(20000))
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    cases = {
        tmp_path / "missing.mp4": "no such file",
        tmp_path / "empty.mp4": "empty file",
        tmp_path / "garbage.mp4": "FFmpeg",
        tmp_path / "text.mp4": "FFmpeg|no video stream",
        tmp_path: "is a folder",
        write_audio(tmp_path / "sound.wav"): "no video stream; it holds only audio",
        write_without_frames(tmp_path / "none.mkv"): "no frames",
    }
    for path, words in cases.items():
        with pytest.raises(VideoError, match=words) as caught:
            open_video(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("index-last.mp4", "libx264", {}),
        ("video.mkv", "libx264", {}),
        ("video.webm", "libvpx", {}),
        ("video.avi", "mpeg4", {}),
        ("video.y4m", "rawvideo", {}),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_are_refused(
    make_video: MakeVideo, name: str, codec: str, options: dict[str, str], share: float
) -> None:
    if name.endswith(".y4m"):
        options = {"strict": "-1"}
    path = make_video(name, codec=codec, frames=20, options=options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(VideoError, match=r"truncated|damaged"), open_video(path) as source:
        list(source)


def test_an_mp4_with_its_index_first_is_refused_when_cut(tmp_path: Path, make_video: MakeVideo) -> None:
    whole = make_video("whole.mp4", frames=20)
    path = tmp_path / "faststart.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with open_video(path) as video:
        assert len(list(video)) == 20
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(VideoError, match=r"truncated: .* bytes of at least"):
        open_video(path)


def test_a_raw_file_needs_its_size(tmp_path: Path) -> None:
    path = tmp_path / "planes.yuv"
    path.write_bytes(bytes(64 * 48 * 3 // 2 * 2 + 100))
    with pytest.raises(UsageError, match="--size"):
        open_video(path)
    with pytest.raises(VideoError, match="truncated"), open_video(path, size=(64, 48)) as source:
        list(source)


def test_decord_and_pyav_agree_on_rgb(make_video: MakeVideo) -> None:
    path = make_video("video.mp4", options={"g": "4"})
    with DecordSource(path) as source, open_video(path) as reference:
        pictures = list(reference.rgb())
        assert np.array_equal(np.stack(list(source.rgb())), np.stack(pictures))
        assert np.array_equal(source.frame(5), pictures[5])
        assert np.array_equal(source.frame(2), pictures[2])


def test_open_gop_hevc_goes_to_pyav(make_video: MakeVideo) -> None:
    params = "keyint=5:min-keyint=5:bframes=3:open-gop={}"
    opened = make_video("open.mp4", codec="libx265", frames=20, options={"x265-params": params.format(1)})
    closed = make_video("closed.mp4", codec="libx265", frames=20, options={"x265-params": params.format(0)})
    assert has_open_gop(opened)
    assert not has_open_gop(closed)
    with open_rgb(opened) as source:
        assert source.decoder.startswith("pyav")
        assert any("open-GOP" in note for note in source.notes)
        assert len(list(source.rgb())) == 20
    with open_rgb(closed) as source:
        assert source.decoder.startswith("decord")


def test_files_that_decord_gets_wrong_go_to_pyav(make_video: MakeVideo) -> None:
    path = make_video("deep.mkv", codec="libx265", pix_fmt="yuv420p10le")
    with open_rgb(path) as source:
        assert source.decoder.startswith("pyav")
    with pytest.raises(VideoError, match="more than 8 bits"):
        DecordSource(path)


def test_stored_rgb_becomes_full_range_bt601(tmp_path: Path) -> None:
    """And comes back nearer than through FFmpeg's usual conversion."""
    rows, columns = np.mgrid[0:48, 0:64]
    waves = [128 + 100 * np.sin(rows / 9 + k) * np.cos(columns / 7 - k) for k in range(3)]
    rgb = np.stack(waves, axis=-1).astype(np.uint8)
    path = tmp_path / "rgb.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    with open_video(path) as source:
        frame, fmt = next(iter(source)), source.format
        assert np.array_equal(next(iter(source.rgb())), rgb)
    assert (fmt.matrix, fmt.full_range) == ("bt601", True)
    assert frames_digest([frame]) == frames_digest([rgb_to_frame(rgb, "bt601", True)])
    usual = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
    assert psnr_rgb(rgb, frame_to_rgb(frame, fmt)) > psnr_rgb(rgb, usual.reformat(format="rgb24").to_ndarray()) + 0.5
