"""The lifting transform: exactly invertible, and close to the orthonormal DCT."""

import numpy as np
import pytest
import torch

from codec.lifting import (
    dct_matrix,
    float_inverse,
    float_transform,
    forward_transform,
    inverse_transform,
    tensor_forward,
    tensor_inverse,
)


def _planes(seed: int, height: int = 48, width: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    luma = torch.randint(-255, 256, (height, width), generator=generator, dtype=torch.int32)
    chroma = torch.randint(-255, 256, (2, height // 2, width // 2), generator=generator, dtype=torch.int32)
    return luma, chroma


@pytest.mark.parametrize("fraction_bits", [0, 4])
def test_inverse_undoes_forward_exactly(fraction_bits: int) -> None:
    luma, chroma = _planes(1)
    back = inverse_transform(forward_transform(luma, chroma, fraction_bits), fraction_bits)
    assert torch.equal(back[0], luma)
    assert torch.equal(back[1], chroma)


@pytest.mark.parametrize(("height", "width"), [(48, 80), (8, 8), (16, 136)])
@pytest.mark.parametrize(("fraction_bits", "largest"), [(0, 255), (4, 255), (4, (1 << 31) - 1)])
def test_compiled_transform_is_the_tensors_own(height: int, width: int, fraction_bits: int, largest: int) -> None:
    """Even where numbers wrap, which no sound stream has."""
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(4)

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(-largest, largest + 1, shape, generator=generator).int()

    luma, chroma = whole(height, width), whole(2, height // 2, width // 2)
    assert torch.equal(forward_transform(luma, chroma, fraction_bits), tensor_forward(luma, chroma, fraction_bits))
    coefficients = whole(96, height // 8, width // 8)
    back, expected = inverse_transform(coefficients, fraction_bits), tensor_inverse(coefficients, fraction_bits)
    assert torch.equal(back[0], expected[0])
    assert torch.equal(back[1], expected[1])


def test_largest_input_does_not_overflow() -> None:
    luma, chroma = torch.full((16, 16), 255, dtype=torch.int32), torch.full((2, 8, 8), -255, dtype=torch.int32)
    coefficients = forward_transform(luma, chroma, 4)
    assert abs(int(coefficients.max()) - 255 * 8 * 16) <= 4
    assert torch.equal(inverse_transform(coefficients, 4)[0], luma)


def test_lifting_is_the_orthonormal_dct_up_to_rounding() -> None:
    luma, chroma = _planes(2)
    exact = float_transform(luma[None].double(), chroma[None].double())[0]
    lifted = forward_transform(luma, chroma, 4).double() / 16
    assert float((lifted - exact).square().mean()) < 0.01
    # With no fraction bits the rounding of the shears shows, but stays about one unit.
    assert float((forward_transform(luma, chroma, 0).double() - exact).square().mean()) < 2.5


def test_matrix_is_orthonormal() -> None:
    for size in (4, 8):
        assert np.allclose(dct_matrix(size) @ dct_matrix(size).T, np.eye(size))


def test_float_inverse_undoes_float_transform() -> None:
    luma, chroma = _planes(3)
    y, uv = float_inverse(float_transform(luma[None].double(), chroma[None].double()))
    assert torch.allclose(y[0], luma.double())
    assert torch.allclose(uv[0], chroma.double())
