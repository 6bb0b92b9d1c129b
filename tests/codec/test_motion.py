"""Motion: known shifts are found, vectors survive coding, prediction is whole numbers."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, StreamError
from codec.motion_coding import decode_motion, encode_motion, estimate_motion_bits
from codec.motion_compensation import (
    CHROMA_TAPS,
    LUMA_TAPS,
    _compiled_plane,
    compensate,
    compensate_plane,
    overlap_weights,
)
from codec.motion_search import Motion, search_motion
from codec.motion_search_batched import search_batch


def _texture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(1, 1, height // 4, width // 4, generator=generator) * 255
    return torch.round(torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic").clamp(0, 255))[0]


@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-12, 9)])
def test_search_finds_a_whole_shift(shift: tuple[int, int]) -> None:
    scene = _texture(160, 192)
    dy, dx = shift
    reference = scene[:, 32:128, 32:160]
    current = scene[:, 32 + dy : 128 + dy, 32 + dx : 160 + dx]
    motion = search_motion(current, reference, torch.tensor([1.0]), reach=16)
    inner = motion.vectors[0, :, 2:-2, 2:-2]
    assert (inner[0] == 4 * dy).float().mean() > 0.95
    assert (inner[1] == 4 * dx).float().mean() > 0.95
    predicted, _ = compensate(reference, torch.zeros(1, 2, 48, 64), motion.vectors)
    assert torch.equal(predicted[0, 16:-16, 16:-16], current[0, 16:-16, 16:-16])


def test_prediction_is_whole_numbers_and_repeats_the_border() -> None:
    luma = _texture(32, 32)
    chroma = torch.stack([_texture(16, 16)[0], _texture(16, 16)[0]])[None]
    far = torch.full((1, 2, 4, 4), -4 * 1000 + 1, dtype=torch.int64)
    y, uv = compensate(luma, chroma, far)
    assert torch.equal(y, torch.full_like(y, float(luma[0, 0, 0])))
    assert torch.equal(uv, chroma[:, :, :1, :1].expand_as(uv))
    odd = torch.randint(-40, 40, (1, 2, 4, 4), generator=torch.Generator().manual_seed(1))
    y, uv = compensate(luma, chroma, odd)
    assert torch.equal(y, torch.round(y))
    assert torch.equal(uv, torch.round(uv))


@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize(("block", "taps"), [(8, LUMA_TAPS), (4, CHROMA_TAPS)])
def test_compiled_compensation_is_the_tensors_own(
    block: int, taps: tuple[tuple[int, ...], ...], overlapped: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    plane = torch.randint(0, 256, (2, 64, 96), generator=generator).float()
    vectors = torch.randint(-900, 900, (2, 2, 64 // block, 96 // block), generator=generator)
    vectors[0, :, :, :4] = 5  # neighbours alike, and far ones beyond the border
    expected = compensate_plane(plane, vectors, block, taps, overlapped)
    assert torch.equal(_compiled_plane(plane, vectors, block, taps, overlapped), expected)
    assert torch.equal(expected, torch.round(expected))


def test_overlap_of_equal_vectors_changes_nothing() -> None:
    plane = _texture(48, 64)
    vectors = torch.full((1, 2, 6, 8), 6)
    plain, mixed = (compensate_plane(plane, vectors, 8, LUMA_TAPS, each) for each in (False, True))
    assert torch.equal(plain, mixed)
    assert (overlap_weights(8).sum(0) == 8).all()
    assert overlap_weights(8).min() >= 0


def test_search_without_compiled_code_finds_the_same_shift() -> None:
    scene = _texture(160, 192)
    reference, current = scene[:, 32:128, 32:160], scene[:, 35:131, 27:155]
    vectors, _ = search_batch(current, reference, torch.tensor([1.0]), 16, None)
    inner = vectors[0, :, 2:-2, 2:-2]
    assert (inner[0] == 12).float().mean() > 0.95
    assert (inner[1] == -20).float().mean() > 0.95


def test_coarser_steps_spend_less_on_vectors() -> None:
    generator = torch.Generator().manual_seed(9)
    reference = _texture(96, 128)
    current = (reference.roll((1, 2), (1, 2)) + torch.randn(1, 96, 128, generator=generator) * 6).clamp(0, 255).round()
    bits = [
        float(estimate_motion_bits(search_motion(current, reference, torch.tensor([step]), 16))[0])
        for step in (2.0, 16.0, 90.0)
    ]
    assert bits[0] > bits[1] > bits[2]


def _random_motion(rows: int, columns: int, largest: int, seed: int) -> Motion:
    """Vectors of which some equal their neighbours, some blocks split."""
    generator = torch.Generator().manual_seed(seed)
    split = torch.rand(1, rows, columns, generator=generator) < 0.4
    vectors = torch.randint(-largest, largest + 1, (1, 2, rows, columns), generator=generator)
    vectors = torch.where(torch.rand(1, 1, rows, columns, generator=generator) < 0.5, vectors[:, :, :1, :1], vectors)
    wide = vectors.repeat_interleave(2, 2).repeat_interleave(2, 3)
    own = torch.randint(-largest, largest + 1, (1, 2, 2 * rows, 2 * columns), generator=generator)
    own = torch.where(torch.rand(1, 1, 2 * rows, 2 * columns, generator=generator) < 0.5, wide, own)
    return Motion(torch.where(split.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None], own, wide), split)


def _coded(motion: Motion) -> SymbolEncoder:
    coder = SymbolEncoder()
    encode_motion(coder, motion)
    return coder


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (1, 1), (1, 6), (6, 1)])
@pytest.mark.parametrize("largest", [0, 1, 9, 300, 1 << 14])
def test_motion_survives_coding(rows: int, columns: int, largest: int) -> None:
    motion = _random_motion(rows, columns, largest, seed=rows + largest)
    coder = _coded(motion)
    coder.encode_uniform(3, 9)
    payload = coder.finish()
    decoder = SymbolDecoder(payload)
    back = decode_motion(decoder, rows, columns)
    assert decoder.decode_uniform(9) == 3
    decoder.finish()
    assert torch.equal(back.vectors, motion.vectors)
    assert torch.equal(back.split, motion.split)
    assert coder.estimated_bits - 4 < len(payload) * 8 < coder.estimated_bits + 32


def test_motion_that_no_stream_holds_is_refused() -> None:
    motion = _random_motion(3, 3, 1 << 14, seed=0)
    motion.vectors[0, 1, 0, 0] = (1 << 14) + 1
    motion.split[0, 0, 0] = True
    with pytest.raises(BitreelError, match="outside the picture"):
        _coded(motion)
    motion = Motion(torch.zeros(1, 2, 4, 4, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.bool))
    motion.vectors[0, 0, 3, 3] = 1
    with pytest.raises(BitreelError, match="not split"):
        _coded(motion)


def test_any_bytes_give_motion_or_are_refused() -> None:
    generator = np.random.default_rng(0)
    payload = _coded(_random_motion(6, 8, 40, seed=1)).finish()
    refused = 0
    for trial in range(600):
        damaged = bytearray(generator.bytes(int(generator.integers(0, 400))) if trial % 2 else payload)
        if damaged:
            damaged[int(generator.integers(len(damaged)))] ^= 1 << int(generator.integers(8))
        try:
            motion = decode_motion(SymbolDecoder(bytes(damaged)), 6, 8)
            assert int(motion.vectors.abs().max()) <= 1 << 14
        except StreamError:
            refused += 1
    assert refused > 0


def test_a_still_frame_costs_a_few_bytes() -> None:
    still = Motion(torch.zeros(1, 2, 2 * 68, 2 * 120, dtype=torch.int64), torch.zeros(1, 68, 120, dtype=torch.bool))
    assert len(_coded(still).finish()) <= 8  # 1080p


def test_estimate_is_what_coding_takes() -> None:
    motions = [_random_motion(16, 16, largest, seed=largest) for largest in (0, 3, 40, 1000)]
    batch = Motion(torch.cat([m.vectors for m in motions]), torch.cat([m.split for m in motions]))
    estimates = estimate_motion_bits(batch)
    assert estimates.dtype == torch.float32
    for motion, estimate in zip(motions, estimates.tolist(), strict=True):
        assert estimate == pytest.approx(_coded(motion).estimated_bits, rel=0.02, abs=4)


def test_estimate_is_what_coding_real_motion_takes(real_clips: Path) -> None:
    known = 0
    for name in ("foreman.mkv", "dogs_jump.mp4", "akiyo.mkv"):
        if not (real_clips / name).is_file():
            continue
        with av.open(str(real_clips / name)) as container:
            frames = [frame.to_ndarray(format="gray") for frame in islice(container.decode(video=0), 3)]
        luma = torch.from_numpy(np.stack(frames)).float()[:, :192, :256]
        for weight in (2.0, 30.0):
            motion = search_motion(luma[1:], luma[:-1], torch.full((2,), weight), reach=16)
            for n, estimate in enumerate(estimate_motion_bits(motion).tolist()):
                one = Motion(motion.vectors[n : n + 1], motion.split[n : n + 1])
                assert estimate == pytest.approx(_coded(one).estimated_bits, rel=0.05, abs=6)
                known += 1
    if not known:
        pytest.skip("none of the clips this test knows is there")


def test_training_needs_no_compiler() -> None:
    """The estimate, and all that training imports of coding, work where there is only PyTorch and NumPy."""
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch\n"
        "from codec.motion_coding import Motion, estimate_motion_bits\n"
        "motion = Motion(torch.zeros(2, 2, 4, 4, dtype=torch.int64), torch.zeros(2, 2, 2, dtype=torch.bool))\n"
        "print(len(estimate_motion_bits(motion)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "2", done.stderr
