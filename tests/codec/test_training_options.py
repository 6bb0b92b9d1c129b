"""What a recipe may ask of a training pass: less memory changes no bit, a per-frame loss cuts gradients, exact
networks stay out of bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.api import Codec, TrainingConditions, create_codec, load_codec
from codec.draws import ClipDraws, draw_each, draw_together, draws_from, seeds_each
from codec.errors import UsageError
from tests.trainers.synthetic import tiny_recipe
from trainers.step_passes import computing_as

CODECS = ("innvc-small", "dcvc-fm-small")


def clips() -> tuple[Tensor, Tensor, Tensor]:
    """Two clips of three frames that move by two pixels a frame, and their QPs."""
    draw = torch.Generator().manual_seed(0)
    still = torch.randint(0, 256, (2, 1, 3, 8, 8), generator=draw, dtype=torch.uint8)
    still = still.repeat_interleave(8, -1).repeat_interleave(8, -2)
    clip = torch.cat([torch.roll(still, -2 * t, -1) for t in range(3)], dim=1)
    return clip[:, :, :1].contiguous(), clip[:, :, 1:, ::2, ::2].contiguous(), torch.tensor([10, 50])


def gradients(codec: Codec, conditions: TrainingConditions) -> tuple[Tensor, dict[str, Tensor]]:
    codec.zero_grad(set_to_none=True)
    with draws_from([1, 2], step_seed=4):  # no refresh in the last frame
        output = codec(*clips(), conditions)
    (output.bits.sum() + 0.01 * output.sse.sum() + output.field_bits.sum()).backward()
    found = {name: p.grad.clone() for name, p in codec.named_parameters() if p.grad is not None}
    return output.bits.detach(), found


def same(here: dict[str, Tensor], there: dict[str, Tensor]) -> bool:
    return here.keys() == there.keys() and all(torch.equal(here[key], there[key]) for key in here)


@pytest.mark.parametrize("name", CODECS)
def test_recomputing_changes_no_bit_and_a_per_frame_loss_cuts_gradients(name: str) -> None:
    codec = load_codec(name).train()
    bits, plain = gradients(codec, TrainingConditions())
    again = gradients(codec, TrainingConditions(recompute=True))
    assert torch.equal(bits, again[0]) and same(plain, again[1])
    cut = gradients(codec, TrainingConditions(cascaded=False))
    assert torch.equal(bits, cut[0]) and not same(plain, cut[1])
    assert same(cut[1], gradients(codec, TrainingConditions(cascaded=False, recompute=True))[1])


def test_bfloat16_keeps_to_networks_that_need_not_be_exact() -> None:
    codec = load_codec("innvc-small").train()
    bits, _ = gradients(codec, TrainingConditions())
    seen: list[torch.dtype] = []
    inner = next(m for m in codec.get_submodule("field_encoder").modules() if isinstance(m, torch.nn.Conv2d))
    watch = inner.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    exact = next(m for m in codec.get_submodule("prior").modules() if not list(m.children()))
    exact.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with computing_as(tiny_recipe(precision="bf16"), codec, torch.device("cpu")):
        inside, found = gradients(codec, TrainingConditions())
    assert seen[0] == torch.bfloat16 and set(seen[1:]) <= {torch.bfloat16, torch.float32} and torch.float32 in seen
    assert all(bool(torch.isfinite(g).all()) and g.dtype == torch.float32 for g in found.values())
    assert torch.isclose(inside.sum(), bits.sum(), rtol=0.02)
    seen.clear()
    assert torch.equal(gradients(codec, TrainingConditions())[0], bits)  # and afterwards all is as before
    assert torch.bfloat16 not in seen
    watch.remove()


def test_a_codec_without_such_networks_says_so() -> None:
    codec = create_codec("dcvc-fm", {"encoder_blocks": 0})
    for changes, says in (({"precision": "bf16"}, "precision = 'bf16'"), ({"compile": True}, "compile = true")):
        with (
            pytest.raises(UsageError, match=f"{says}: every network of this codec 'dcvc-fm' has to be exact"),
            computing_as(tiny_recipe(**changes), codec, torch.device("cpu")),
        ):
            pass


def test_draws_belong_to_clips_however_they_are_dealt_out() -> None:
    with draws_from([5, 6, 7], 9):
        whole, together = [draw_each(3), draw_each(3, 2)], draw_together()
    with draws_from([6, 7], 9):
        part, also = [draw_each(2), draw_each(2, 2)], draw_together()
        with pytest.raises(ValueError, match="draws for 3 clips in a pass of 2"):
            draw_each(3)
    assert all(torch.equal(a[1:], b) for a, b in zip(whole, part, strict=True)) and together == also
    with draws_from([5, 6, 7], 9):
        seeds = seeds_each(3)
    assert torch.equal(ClipDraws(seeds).draw(4), ClipDraws(seeds).draw(4)) and len({*seeds}) == 3
    with draws_from([7], 9):
        assert seeds_each(1) == seeds[-1:]
    torch.manual_seed(1)
    first = draw_each(3)
    torch.manual_seed(1)
    assert torch.equal(first, torch.rand(3))
