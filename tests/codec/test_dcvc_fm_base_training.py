"""DCVC-FM base as training sees it, and its size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from codec.api import Codec, TrainingConditions, create_codec
from codec.dcvc_fm_base import training_pass
from codec.dcvc_fm_base.complexity import measured_parts
from codec.dcvc_fm_base.model import DCVCFMBase
from codec.draws import draws_from
from codec.frames import Frame
from tests.codec.test_dcvc_fm_base import make_codec, make_frames


def clip_of(frames: list[Frame], copies: int = 1) -> tuple[Tensor, Tensor]:
    """A training batch: the same clip `copies` times."""
    luma = torch.from_numpy(np.stack([f.y for f in frames]))[None, :, None]
    chroma = torch.from_numpy(np.stack([np.stack([f.u, f.v]) for f in frames]))[None]
    return luma.repeat(copies, 1, 1, 1, 1), chroma.repeat(copies, 1, 1, 1, 1)


def test_every_parameter_learns_from_a_clip() -> None:
    """Ten frames meet all places of the hierarchy; each sample draws another QP."""
    codec = make_codec().train()
    luma, chroma = clip_of(make_frames(10, 64, 48), 2)
    output = codec(luma, chroma, torch.tensor([3, 50]), TrainingConditions())
    assert output.bits.shape == output.sse.shape == (2, 10) and output.field_bits.tolist() == [0, 0]
    assert output.luma.shape == luma.shape and output.chroma.shape == chroma.shape
    assert bool((output.bits > 0).all())
    ((output.bits + 0.01 * output.sse).sum() / luma.numel()).backward()  # type: ignore[no-untyped-call]
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def test_distortion_is_that_of_what_is_shown() -> None:
    codec = make_codec().train()
    with torch.no_grad():
        for last in ("intra.picture.weight", "inter.reconstruction.picture.weight"):
            codec.get_parameter(last).mul_(1e-3)  # about grey: what is shown is not cut off
    luma, chroma = clip_of(make_frames(2, 80, 48))
    output = codec(luma, chroma, torch.tensor([30]), TrainingConditions())
    y, uv = ((a.float() - b).square().flatten(2).sum(2) for a, b in ((luma, output.luma), (chroma, output.chroma)))
    assert float(output.luma.std()) > 0.5  # rounded, but not flat
    assert output.sse.detach().tolist() == [pytest.approx((0.75 * y + 0.5 * uv)[0].tolist(), rel=0.01)]


def losses(codec: Codec, frames: int) -> tuple[list[float], dict[str, Tensor]]:
    codec.zero_grad()
    torch.manual_seed(5)
    luma, chroma = clip_of(make_frames(frames, 64, 64))
    output = codec(luma, chroma, torch.tensor([30]), TrainingConditions())
    (output.bits + 0.01 * output.sse).sum().backward()  # type: ignore[no-untyped-call]
    return output.sse[0].tolist(), {n: p.grad.clone() for n, p in codec.named_parameters() if p.grad is not None}


def test_clips_computed_twice_to_save_memory_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec().train()
    values, gradients = losses(codec, 4)
    monkeypatch.setattr(training_pass, "_KEPT_SAMPLES", 0)
    again, recomputed = losses(codec, 4)
    assert again == pytest.approx(values, rel=1e-5)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max()) or 1.0
        assert float((recomputed[name] - gradient).abs().max()) <= 1e-3 * scale, name


def test_noise_belongs_to_clips_however_they_are_dealt_out() -> None:
    """Three workers' clips, the same pictures: noise differs between them, and is the same for whoever has the clip."""
    codec = make_codec().train()
    qp = torch.tensor([30, 30, 30])

    def bits(seeds: list[int]) -> Tensor:
        count = len(seeds)
        with torch.no_grad(), draws_from(seeds, 9):
            return codec(*clip_of(make_frames(3, 64, 64), count), qp[:count], TrainingConditions()).bits.flatten(1)

    whole = bits([5, 6, 7])
    assert len({tuple(clip) for clip in whole.tolist()}) == 3
    assert torch.equal(bits([5, 6, 7]), whole)
    for dealt in ([6, 7], [7]):
        torch.testing.assert_close(bits(dealt), whole[-len(dealt) :], rtol=1e-5, atol=0)


def test_places_weigh_gradients_not_values() -> None:
    values, gradients = losses(make_codec(place_weights=(1.0, 1.0, 1.0)).train(), 2)
    others, heavier = losses(make_codec(place_weights=(3.0, 3.0, 3.0)).train(), 2)
    assert others == pytest.approx(values, rel=1e-5)
    name = "inter.reconstruction.picture.weight"  # of distortion alone
    assert float(heavier[name].norm() / gradients[name].norm()) == pytest.approx(3, rel=1e-3)


def test_size_of_the_paper() -> None:
    codec = create_codec("dcvc-fm-base", {})
    assert isinstance(codec, DCVCFMBase)
    parts = measured_parts(codec)
    assert sum(p.parameters for p in parts) == sum(p.numel() for p in codec.parameters())  # every one in one part

    def total(of: Callable[..., float], model: str) -> float:
        return sum(of(p) for p in parts if p.model == model)

    assert total(lambda p: p.parameters, "intra") == pytest.approx(26.6e6, rel=0.1)
    assert total(lambda p: p.parameters, "inter") == pytest.approx(18.3e6, rel=0.1)
    assert total(lambda p: p.kmac, "inter") == pytest.approx(1137, rel=0.1)
    assert codec.complexity()["decoder_kmac_per_pixel_inter"] < total(lambda p: p.kmac, "inter")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_learns() -> None:
    torch.manual_seed(0)
    codec = create_codec("dcvc-fm-base", {}).train()
    luma, chroma = clip_of(make_frames(3, 64, 64))
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-4)
    found = []
    for _ in range(20):
        output = codec(luma, chroma, torch.tensor([32]), TrainingConditions())
        loss = (output.bits + 0.02 * output.sse).mean() / 64**2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 0.2)
        optimizer.step()
        found.append(loss.item())
    print("\nloss", " ".join(f"{value:.2f}" for value in found))
    assert max(found[-3:]) < 0.7 * min(found[:3])
    assert all(max(found[i : i + 5]) < max(found[i - 5 : i]) for i in (5, 10, 15))
