"""Coding of motion: it survives, both sides learn the same, damaged motion is other motion or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, StreamError
from codec.motion import LARGEST_VECTOR, MOST_REFERENCES, NO_SECOND, Motion
from codec.motion_chances import MotionChances, new_mixer
from codec.motion_coding import decode_motion, encode_motion, estimate_motion_bits, motion_intervals

DISTANCES = (1, 2, 5, 9, 30)


def _random_motion(rows: int, columns: int, largest: int, seed: int, references: int = MOST_REFERENCES) -> Motion:
    """Blocks of which some equal their neighbours, some are split, some come from two frames."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(height: int, width: int) -> torch.Tensor:
        shape = (1, 2, height, width)
        vectors = [torch.randint(-largest, largest + 1, shape, generator=generator) for _ in range(2)]
        which = torch.randint(0, references, shape, generator=generator)
        both = (torch.rand(1, 1, height, width, generator=generator) < 0.3) & (references > 1)
        second = torch.where(
            both, torch.cat([vectors[1], which[:, 1:]], dim=1), torch.tensor([0, 0, NO_SECOND]).view(3, 1, 1)
        )
        return torch.cat([vectors[0], which[:, :1], second], dim=1)

    split = torch.rand(1, rows, columns, generator=generator) < 0.4
    blocks = drawn(rows, columns)
    blocks = torch.where(torch.rand(1, 1, rows, columns, generator=generator) < 0.5, blocks[:, :, :1, :1], blocks)
    wide = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    own = drawn(2 * rows, 2 * columns)
    own = torch.where(torch.rand(1, 1, 2 * rows, 2 * columns, generator=generator) < 0.5, wide, own)
    return Motion(torch.where(split.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None], own, wide), split)


def _coded(motion: Motion, references: int = MOST_REFERENCES) -> SymbolEncoder:
    coder = SymbolEncoder()
    encode_motion(coder, motion, DISTANCES[:references], MotionChances())
    return coder


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (1, 1), (1, 6), (6, 1)])
@pytest.mark.parametrize("largest", [0, 1, 9, 300, LARGEST_VECTOR])
@pytest.mark.parametrize("references", [1, 2, MOST_REFERENCES])
def test_motion_survives_coding(rows: int, columns: int, largest: int, references: int) -> None:
    motion = _random_motion(rows, columns, largest, rows + largest, references)
    coder = _coded(motion, references)
    coder.encode_uniform(3, 9)
    payload = coder.finish()
    decoder = SymbolDecoder(payload)
    back = decode_motion(decoder, rows, columns, DISTANCES[:references], MotionChances())
    assert decoder.decode_uniform(9) == 3
    decoder.finish()
    assert torch.equal(back.blocks, motion.blocks)
    assert torch.equal(back.split, motion.split)
    assert coder.estimated_bits - 4 < len(payload) * 8 < coder.estimated_bits + 32


def _assert_same(one: MotionChances, other: MotionChances) -> None:
    assert np.array_equal(one.chances, other.chances)
    assert np.array_equal(one.seen, other.seen)
    for name in ("chances", "seen", "weights", "steps"):
        assert np.array_equal(getattr(one.mixer, name), getattr(other.mixer, name))
    assert (one.before is None) == (other.before is None)
    assert one.before is None or np.array_equal(one.before, other.before)


@pytest.mark.parametrize("references", [1, 3, MOST_REFERENCES])
def test_what_is_learned_goes_on_from_frame_to_frame_on_both_sides(references: int) -> None:
    motions = [_random_motion(4, 6, largest, seed, references) for seed, largest in enumerate((9, 9, 700, 0))]
    sending, receiving = MotionChances(), MotionChances()
    for motion in motions:
        coder, before = SymbolEncoder(), sending.copy()
        encode_motion(coder, motion, DISTANCES[:references], sending)
        back = decode_motion(SymbolDecoder(coder.finish()), 4, 6, DISTANCES[:references], receiving)
        assert torch.equal(back.blocks, motion.blocks)
        assert torch.equal(back.split, motion.split)
        _assert_same(sending, receiving)
        assert not np.array_equal(sending.chances, before.chances)
        assert not np.array_equal(sending.mixer.weights, before.mixer.weights)
    kept = sending.before
    assert kept is not None
    assert np.array_equal(kept[:2], motions[-1].vectors(DISTANCES[:references])[0].numpy())
    assert np.array_equal(kept[2:4], motions[-1].blocks[0, 2::3].numpy())
    assert np.array_equal(kept[4, ::2, ::2] > 0, motions[-1].split[0].numpy())


def test_motion_like_that_of_the_frame_before_is_cheap() -> None:
    learned, motion = MotionChances(), _random_motion(8, 8, 60, seed=4)
    bits = [16 * len(found) - np.log2(found >> 16).sum() for found in (
        motion_intervals(motion, DISTANCES, learned) for _ in range(6)
    )]  # fmt: skip
    other = motion_intervals(_random_motion(8, 8, 60, seed=5), DISTANCES, learned)
    assert bits[-1] < 0.8 * bits[0]
    assert bits[-1] < 0.8 * (16 * len(other) - np.log2(other >> 16).sum())


def test_what_is_learned_stays_where_coding_fails() -> None:
    learned = MotionChances(new_mixer())
    motion_intervals(_random_motion(3, 3, 40, seed=1), DISTANCES, learned)
    before = learned.copy()
    motion = _random_motion(3, 3, 40, seed=2)
    motion.blocks[0, 3, -1, -1] = 4 * LARGEST_VECTOR
    motion.split[0, -1, -1] = True
    with pytest.raises(BitreelError, match="outside the picture"):
        motion_intervals(motion, DISTANCES, learned)
    _assert_same(learned, before)


def test_every_vote_stays_among_its_own_contexts() -> None:
    """Whatever motion is like: run without compiling, places compared with what each vote has room for."""
    program = """
import numpy as np
import codec.motion_context_kernels as contexts
import codec.motion_difference_kernels as differences
import codec.motion_kernels as kernels
from codec.entropy_coding import SymbolDecoder
from codec.errors import StreamError
from codec.motion import LARGEST_VECTOR
from codec.motion_chances import MotionChances
from codec.motion_coding import decode_motion, motion_intervals
from tests.codec.test_motion_coding import DISTANCES, _random_motion

most = np.full(contexts.SIZES.shape, -1)

def looked_at(mixer, kind, *votes):
    assert min(votes) >= 0, (kind, votes)
    most[kind] = np.maximum(most[kind], votes)
    contexts.place_votes(mixer, kind, *votes)

kernels.place_votes = differences.place_votes = looked_at
learned = MotionChances()
for largest in (0, 1, 3, 40, 300, LARGEST_VECTOR, LARGEST_VECTOR, 2, 0):
    motion_intervals(_random_motion(4, 4, largest, largest), DISTANCES, learned)
draw, received = np.random.default_rng(0), MotionChances()
for trial in range(40):
    try:
        decode_motion(SymbolDecoder(draw.bytes(400)), 3, 4, DISTANCES, received if trial % 2 else MotionChances())
    except StreamError:
        pass
assert (most < contexts.SIZES).all(), np.argwhere(most >= contexts.SIZES)
print((most >= 0.6 * (contexts.SIZES - 1)).mean())
"""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.9  # the far ends were reached


def test_motion_that_no_stream_holds_is_refused() -> None:
    motion = _random_motion(3, 3, LARGEST_VECTOR, seed=0)
    motion.blocks[0, 1, 0, 0] = LARGEST_VECTOR + 1
    motion.split[0, 0, 0] = True
    with pytest.raises(BitreelError, match="outside the picture"):
        _coded(motion)
    motion = Motion.still(1, 32, 32)
    motion.blocks[0, 0, 3, 3] = 1
    with pytest.raises(BitreelError, match="not split"):
        _coded(motion)
    motion = Motion.still(1, 32, 32)
    motion.blocks[0, 2] = 2
    with pytest.raises(BitreelError, match="not kept"):
        _coded(motion, references=2)
    motion = Motion.still(1, 32, 32)
    motion.blocks[0, 5] = 0
    with pytest.raises(BitreelError, match="two frames"):
        _coded(motion, references=1)


def test_any_bytes_give_motion_or_are_refused() -> None:
    """Vectors that point too far are, and nothing is learned from them; after frames that have some as far as may be,
    many do."""
    generator = np.random.default_rng(0)
    payload = _coded(_random_motion(6, 8, 40, seed=1)).finish()
    learned, refused = MotionChances(), 0
    for seed in range(2):
        motion_intervals(_random_motion(6, 8, LARGEST_VECTOR, seed), DISTANCES, learned)
    for trial in range(600):
        damaged = bytearray(generator.bytes(int(generator.integers(0, 400))) if trial % 2 else payload)
        if damaged:
            damaged[int(generator.integers(len(damaged)))] ^= 1 << int(generator.integers(8))
        before = MotionChances() if trial % 4 < 2 else learned
        trying = before.copy()
        try:
            motion = decode_motion(SymbolDecoder(bytes(damaged)), 6, 8, DISTANCES, trying)
        except StreamError as error:
            assert "outside the picture" in str(error)
            _assert_same(trying, before)
            refused += 1
            continue
        assert int(motion.blocks.abs().max()) <= LARGEST_VECTOR
        assert NO_SECOND <= int(motion.blocks[:, 2::3].min()) <= int(motion.blocks[:, 2::3].max()) < MOST_REFERENCES
    assert 50 < refused < 550


def test_a_still_frame_costs_a_few_bytes() -> None:
    still = Motion.still(1, 68 * 16, 120 * 16)
    assert len(_coded(still).finish()) <= 8  # 1080p


def test_estimate_is_what_coding_takes() -> None:
    motions = [_random_motion(16, 16, largest, seed=largest) for largest in (0, 3, 40, 1000)]
    batch = Motion(torch.cat([m.blocks for m in motions]), torch.cat([m.split for m in motions]))
    estimates = estimate_motion_bits(batch, DISTANCES)
    assert estimates.dtype == torch.float32
    for motion, estimate in zip(motions, estimates.tolist(), strict=True):
        assert estimate == pytest.approx(_coded(motion).estimated_bits, rel=1e-4)


def test_training_needs_no_compiler() -> None:
    """The estimate, and all that training imports of coding, work where there is only PyTorch and NumPy."""
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch\n"
        "from codec.motion import Motion\n"
        "from codec.motion_coding import estimate_motion_bits\n"
        "print(len(estimate_motion_bits(Motion.still(2, 32, 32), (1,))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "2", done.stderr
