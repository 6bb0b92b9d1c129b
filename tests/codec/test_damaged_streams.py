"""Damaged and forged streams: noticed, and never a crash. `benchmarks/fuzz_streams.py` does the same at length."""

from __future__ import annotations

import io
from random import Random

import numpy as np
import pytest

from benchmarks.fuzz_streams import LIMIT_S, Bench
from benchmarks.stream_mutations import DAMAGE, FORGERY, LARGER, Pipe, Reading, judge, parsed, resealed
from codec.api import EncodeOptions
from codec.errors import StreamError
from codec.frames import Frame, VideoFormat
from codec.stream_reader import StreamReader

KINDS = {**DAMAGE, **FORGERY, **LARGER}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(seed=0)


def test_mutations_of_every_kind(bench: Bench) -> None:
    outcomes = set()
    for number in range(10 * len(KINDS)):
        trial = bench.run(number)
        assert not trial.bad and trial.seconds < LIMIT_S, trial
        outcomes.add(trial.outcome)
    assert outcomes >= {"refused", "refused late"}


def test_judgement_tells_what_must_not_be(bench: Bench) -> None:
    """The fuzz run's own eyes: a stream that decodes to something else unnoticed, and a crash."""
    sample = bench.samples[0]
    assert judge(bench.codec, sample, sample.sibling, Reading(), False).outcome == "UNNOTICED"
    assert judge(bench.codec, sample, sample.data, Reading(), False).outcome == "UNNOTICED"
    assert judge(bench.codec, sample, sample.data, Reading(), True).outcome == "harmless"
    header, packets = parsed(sample.data)
    assert resealed(header, packets) == sample.data
    forged = resealed(header, [packets[0], (packets[1][0], b"\x55" * 40), *packets[2:]])
    assert judge(bench.codec, sample, forged, Reading(), True).outcome in ("refused", "refused late")
    crashing = Bench(seed=0).codec
    crashing.decode_frames = lambda *_: iter([1 // 0])  # type: ignore[method-assign]
    assert judge(crashing, sample, sample.data, Reading(), True).outcome == "CRASH"


def test_every_byte_counts(bench: Bench) -> None:
    """Each byte of a stream changed once: its frame and those after it are not given."""
    fmt = VideoFormat(16, 16)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frames = [Frame(np.roll(ramp, t), ramp[::2, ::2].copy(), ramp[1::2, 1::2].copy()) for t in range(2)]
    sink = io.BytesIO()
    bench.codec.encode(frames, fmt, sink, EncodeOptions(8))
    data = sink.getvalue()
    shown = [frame.to_bytes() for frame in bench.codec.decode(io.BytesIO(data))]
    ends = [packet.offset + packet.bytes for packet in StreamReader(io.BytesIO(data)).packets()]
    generator = Random(5)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= generator.randrange(1, 256)
        got: list[bytes] = []
        with pytest.raises(StreamError):
            for frame in bench.codec.decode(Pipe(bytes(changed))):
                got.append(frame.to_bytes())
        assert got == shown[: sum(end <= place for end in ends)]
