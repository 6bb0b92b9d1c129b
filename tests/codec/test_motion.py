"""Motion: known shifts are found, vectors survive coding, prediction is whole numbers."""

import pytest
import torch

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.motion_coding import decode_motion, encode_motion
from codec.motion_compensation import compensate
from codec.motion_search import Motion, SearchSettings, search_motion


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
    motion = search_motion(current, reference, torch.tensor([1.0]), SearchSettings(reach=16))
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


def test_motion_survives_coding() -> None:
    generator = torch.Generator().manual_seed(3)
    split = torch.rand(1, 5, 7, generator=generator) < 0.4
    vectors = torch.randint(-300, 300, (1, 2, 5, 7), generator=generator)
    wide = vectors.repeat_interleave(2, 2).repeat_interleave(2, 3)
    own = torch.randint(-300, 300, (1, 2, 10, 14), generator=generator)
    wide = torch.where(split.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None], own, wide)
    coder = SymbolEncoder()
    encode_motion(coder, Motion(wide, split))
    back = decode_motion(SymbolDecoder(coder.finish()), 5, 7)
    assert torch.equal(back.vectors, wide)
    assert torch.equal(back.split, split)
