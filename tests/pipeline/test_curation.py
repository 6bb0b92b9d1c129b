"""Curation: static, black and barred clips, and near-duplicates found by hash; each rule only where it is asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from codec.frames import Frame
from pipeline.clips import Clip, ClipCutter, Geometry
from pipeline.curation import find_bars, is_black, perceptual_hash
from pipeline.decoders import open_video
from pipeline.ingest_calls import Curation, IngestSettings
from pipeline.ingest_worker import IngestWorker
from pipeline.manifest import create_or_check_store, read_manifest
from pipeline.near_duplicates import MOST_DIFFERENT_BITS, near_duplicates
from pipeline.store import store_stats
from pipeline.store_folder import open_store_folder
from pipeline.store_settling import settle_store
from pipeline.verification import verify_layout, verify_store

EVERYTHING = Curation(drop_static=True, drop_black=True, drop_near_duplicates=True, trim_bars=True)


def scene(seed: int, t: int = 0, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 220, (height // 8, width // 8 + 1), dtype=np.uint8)
    return np.roll(coarse.repeat(8, 0).repeat(8, 1)[:height, :width], -2 * t, axis=1)


def framed(luma: NDArray[np.uint8]) -> Frame:
    half = np.full((luma.shape[0] // 2, luma.shape[1] // 2), 128, np.uint8)
    return Frame(luma, half, half)


def cut(frames: list[NDArray[np.uint8]], rules: Curation) -> list[Clip]:
    found: list[Clip] = []
    height, width = frames[0].shape
    cutter = ClipCutter(Geometry.of(width, height, None, 1), 4, False, found.append, rules)
    for luma in frames:
        cutter.push([framed(luma)])
    cutter.finish()
    return found


def test_static_and_black_clips_are_dropped_only_where_asked() -> None:
    moving = [scene(1, t) for t in range(4)]
    still = [scene(2)] * 4
    black = [np.full((64, 96), 17, np.uint8)] * 4
    frames = [*moving, *still, *black]
    assert [clip.dropped for clip in cut(frames, Curation())] == ["", "", ""]
    assert [clip.dropped for clip in cut(frames, Curation(drop_static=True))] == ["", "static", "static"]
    assert [clip.dropped for clip in cut(frames, Curation(drop_black=True))] == ["", "", "black"]
    assert [clip.dropped for clip in cut(frames, EVERYTHING)] == ["", "static", "black"]


def test_night_is_not_black() -> None:
    night = np.full((3, 64, 96), 17, np.uint8)
    night[:, 30:34, 40:44] = 200  # a lamp
    assert not is_black(night)
    assert find_bars(night) == (0, 0, 0, 0)


def test_bars_are_found_and_trimmed_with_their_chroma() -> None:
    frames = []
    for t in range(4):
        barred = np.full((64, 96), 16, np.uint8)
        barred[11:54, 8:90] = scene(3, t)[11:54, 8:90]
        frames.append(barred)
    (clip,) = cut(frames, Curation(trim_bars=True))
    assert clip.bars == (12, 10, 8, 6)
    height, width = 64 - 22, 96 - 14
    assert clip.array.shape == (4, height * 3 // 2, width)
    assert np.array_equal(clip.array[2, :height], frames[2][12:54, 8:90])
    assert (clip.array[2, height:] == 128).all()
    assert cut(frames, Curation())[0].bars == (0, 0, 0, 0)


def test_the_hash_survives_coding_and_scaling_and_tells_scenes_apart() -> None:
    hashes = {}
    for seed in range(12):
        luma = scene(seed).repeat(6, 0).repeat(6, 1)
        noisy = np.clip(luma.astype(int) + np.random.default_rng(seed).integers(-6, 7, luma.shape), 0, 255)
        hashes[seed] = perceptual_hash([luma, luma])
        for other in (noisy.astype(np.uint8), luma[::2, ::2], (luma * 0.9).astype(np.uint8)):
            assert bits(hashes[seed], perceptual_hash([other, other])) <= MOST_DIFFERENT_BITS
    apart = [bits(hashes[a], hashes[b]) for a in hashes for b in hashes if a < b]
    assert min(apart) > 2 * MOST_DIFFERENT_BITS


def test_the_hash_on_real_footage(real_clips: Path, tmp_path: Path) -> None:
    names = ("aquarium.mp4", "camel.mp4", "foreman.mkv", "kitten.mp4", "news.mkv", "wolf.mp4")
    found = {}
    for name in names:
        with open_video(real_clips / name) as source:
            frames = [frame for frame, _ in zip(source, range(8), strict=False)]
        again = recoded(frames, tmp_path / f"{name}.mp4")
        found[name] = perceptual_hash([frames[4].y, frames[7].y])
        assert bits(found[name], perceptual_hash([again[4].y, again[7].y])) <= MOST_DIFFERENT_BITS
    apart = [bits(found[a], found[b]) for a in names for b in names if a < b]
    assert min(apart) > 2 * MOST_DIFFERENT_BITS


def recoded(frames: list[Frame], path: Path) -> list[Frame]:
    """The frames at half the size, by x264 at CRF 30."""
    width, height = frames[0].width // 4 * 2, frames[0].height // 4 * 2
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(25), options={"crf": "30"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            flat = np.frombuffer(frame.to_bytes(), np.uint8).reshape(-1, frame.width)
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(flat, format="yuv420p").reformat(width, height)))
        sink.mux(stream.encode(None))
    with open_video(path) as source:
        return list(source)


def bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_near_duplicates_leave_one_and_keep_held_out_clips() -> None:
    rng = np.random.default_rng(0)
    base = [int.from_bytes(rng.bytes(16), "big") for _ in range(200)]
    near = base[0] ^ (1 << 5) ^ (1 << 77)
    far = base[1] ^ int("1" * (MOST_DIFFERENT_BITS + 1), 2)
    rows = [("a", base[0], "train"), ("b", near, "train"), ("c", base[0], "test"), ("d", far, "train")]
    rows += [("e", base[2], "train"), ("e", base[2], "train")]  # the same source twice: not compared
    rows += [(f"z{i}", value, "train") for i, value in enumerate(base[1:])]
    table = pa.table(
        {
            "source_checksum": [source for source, _, _ in rows],
            "phash": [f"{value:032x}" for _, value, _ in rows],
            "first_frame": list(range(len(rows))),
            "split": [split for _, _, split in rows],
        }
    )
    gone = near_duplicates(table)
    names = [rows[i][0] for i in np.flatnonzero(gone)]
    assert names == ["a", "b", "z1"]  # z1 looks like e
    shuffled = table.take(np.random.default_rng(1).permutation(len(rows)))
    again = near_duplicates(shuffled)
    assert sorted(shuffled.filter(pa.array(again))["source_checksum"].to_pylist()) == ["a", "b", "z1"]


@pytest.mark.parametrize("frames", [4])
def test_a_store_counts_what_was_left_out(tmp_path: Path, frames: int) -> None:
    store = tmp_path / "store"
    settings = {"pixels": "yuv420", "clip_frames": frames, "crop": None, "downscale": 1, "curation": EVERYTHING.names}
    create_or_check_store(store, settings)
    worker = IngestWorker(IngestSettings(str(store), frames, None, "yuv420", 1, None, 0.0, 0.0, EVERYTHING))
    still = [scene(2)] * 8
    for name, lumas in {"one": [scene(1, t) for t in range(8)], "same": [scene(1, t) for t in range(9)]}.items():
        path = tmp_path / f"{name}.mkv"
        with av.open(str(path), "w") as sink:
            stream = sink.add_stream("ffv1", rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for luma in [*lumas, *still]:
                flat = np.frombuffer(framed(luma).to_bytes(), np.uint8).reshape(-1, 96)
                sink.mux(stream.encode(av.VideoFrame.from_ndarray(flat, format="yuv420p")))
            sink.mux(stream.encode(None))
        found = worker.identify(str(path))
        assert not worker.ingest(str(path), found.checksum, found.stamp).error
    settle_store(open_store_folder(store), 0, near_duplicates=True)
    figures = store_stats(store)
    assert figures["clips"] == 2
    assert figures["dropped"] == {"static": 4, "near-duplicate": 2}
    assert figures["dropped_bytes"] > 0
    assert len(read_manifest(store)) == 2 and len(read_manifest(store, dropped=True)) == 8
    assert verify_store(store).problems == verify_layout(store).problems == []
    before = read_manifest(store, dropped=True)
    settle_store(open_store_folder(store), 0, near_duplicates=True)
    assert read_manifest(store, dropped=True).equals(before)
