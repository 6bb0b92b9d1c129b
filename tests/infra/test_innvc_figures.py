"""The figures script: QPs that every quality range asks for, and bits that add up to the payload."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.innvc_bits import stream_bits
from benchmarks.innvc_figures import WANTED_DB, choose_qps
from codec.api import load_codec
from codec.builtin import builtin_models
from codec.frames import Frame, VideoFormat
from codec.streams import EncodeOptions


def test_every_range_gets_its_points() -> None:
    curves = [
        {qp: start + slope * qp for qp in (0, 12, 24, 36, 48, 60)}
        for start, slope in ((27, 0.45), (31, 0.5), (24, 0.6))
    ]
    chosen = choose_qps(curves)
    assert chosen[0] == 0
    assert chosen[-1] == 63
    for curve in curves:
        probed = sorted(curve)
        quality = [float(np.interp(qp, probed, [curve[p] for p in probed])) for qp in chosen if qp <= 60]
        for low, high in WANTED_DB:
            assert sum(low <= db <= high for db in quality) >= 4


def test_bits_of_a_stream_add_up(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    picture = draw.integers(0, 256, (64, 64), np.uint8)
    chroma = picture[::2, ::2].copy()
    noise = (draw.integers(0, 24, (64, 64), np.uint8) for _ in range(3))
    frames = [Frame(picture, chroma, chroma), *(Frame(picture // 2 + n, chroma, chroma) for n in noise)]
    with (tmp_path / "a.brl").open("wb") as sink:
        load_codec(builtin_models()["innvc-small"]).encode(frames, VideoFormat(64, 64), sink, EncodeOptions(30))
    found = stream_bits(str(builtin_models()["innvc-small"]), tmp_path / "a.brl", tmp_path / "bits.json")
    assert (found["I"].frames, found["P"].frames) == (1, 3)
    assert not found["I"].channels
    inter = found["P"]
    assert inter.payload > 1000
    assert 0.8 * inter.payload < inter.coefficients
    assert set(found["I"].parts) == {"intra", "field", "gains", "filter"} and set(inter.parts) == {"vectors"}
    assert found["I"].parts["intra"] > 0.9 * found["I"].payload
    assert inter.parts["vectors"] > 1 and found["I"].parts["field"] > 0
    for bits in found.values():  # a payload is rounded up to whole bytes, and the post filter's switches are little
        assert 0 <= bits.other < 40 * bits.frames
    assert stream_bits(str(builtin_models()["innvc-small"]), tmp_path / "a.brl", tmp_path / "bits.json") == found
