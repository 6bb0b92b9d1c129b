"""The plain loop: exact resume, skipped steps, frozen parameters, logging."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from codec.api import CODECS, TrainingConditions, TrainingOutput, load_codec
from codec.errors import BitreelError, UsageError
from tests.trainers.synthetic import MadeUpBatches, Recorder, tiny_recipe
from tests.trainers.tiny_codec import Tiny
from trainers.averages import TIMES
from trainers.checkpoint import STATE_FILE, TENSORS_FILE, load_training_state
from trainers.loop import fresh_codec, train
from trainers.shares import draw_step, passes_of, share_of


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


def without_time(logs: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    return {s: {k: v for k, v in m.items() if k not in TIMES} for s, m in logs.items()}


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "micro_batch": 3}])
def test_resume_from_any_step_is_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Also from a step between two logs, where a notice asked for the checkpoint."""
    recipe = tiny_recipe(**changes)
    whole = Recorder(tmp_path)
    codec = fresh_codec(recipe)
    train(codec, recipe, MadeUpBatches(recipe), whole)
    assert whole.checkpoints == [4, 6, 8, 10]
    assert sorted(whole.logs) == [2, 4, 6, 8, 10]
    for step in (3, 5, 7):
        train(fresh_codec(recipe), recipe, MadeUpBatches(recipe), Recorder(tmp_path, stop_after=step))
    for step in (3, 4, 5, 6, 7, 8):
        resumed = Recorder()
        torch.rand(step)  # a process that resumes has drawn other numbers before
        other = fresh_codec(recipe)
        start = load_training_state(tmp_path / f"step-{step:06d}")
        train(other, recipe, MadeUpBatches(recipe), resumed, start=start)
        expected = {s: m for s, m in without_time(whole.logs).items() if s > step}
        assert without_time(resumed.logs) == expected
        assert other.model_hash() == codec.model_hash()
    assert load_codec(tmp_path / "step-000010").model_hash() == codec.model_hash()


def test_averaged_weights_are_what_is_kept_and_the_others_go_on(tmp_path: Path) -> None:
    """The average by its definition, from the weights of a training without one."""
    decay = 0.5
    recipe = tiny_recipe(ema_decay=decay)
    plain = tiny_recipe()
    averaged = fresh_codec(recipe)
    train(averaged, recipe, MadeUpBatches(recipe), Recorder(tmp_path / "a"))
    expected = {name: value.clone() for name, value in fresh_codec(plain).named_parameters()}
    for step in range(1, 11):
        train(codec := fresh_codec(plain), plain, MadeUpBatches(plain), Recorder(stop_after=step))
        now = min(decay, (1 + step) / (10 + step))
        for name, value in codec.named_parameters():
            expected[name] = now * expected[name] + (1 - now) * value.detach()
    for name, value in averaged.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name].detach())
    state = load_training_state(tmp_path / "a" / "step-000010")
    assert torch.equal(state.average["up.weight"], averaged.state_dict()["up.weight"])
    assert torch.equal(state.weights["up.weight"], codec.state_dict()["up.weight"])


def test_small_passes_give_the_same_training_up_to_rounding() -> None:
    recipe = tiny_recipe()
    curves = []
    for micro in (0, 1, 3):
        train(fresh_codec(recipe), recipe := tiny_recipe(micro_batch=micro), MadeUpBatches(recipe), seen := Recorder())
        curves.append([seen.logs[step]["loss"] for step in sorted(seen.logs)])
    assert curves[0] != curves[1]  # the sums really were made in another way
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-5)


def test_loss_falls_and_the_checkpoint_is_a_loadable_codec(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        phases=[{"name": "p", "steps": 60, "learning_rate": [3e-2, 3e-2], "qp": [63, 63], "crop": 32}],
        checkpoint_every=60,
    )
    seen = Recorder(tmp_path)
    codec = fresh_codec(recipe)
    train(codec, recipe, MadeUpBatches(recipe), seen)
    assert seen.logs[60]["psnr_yuv"] > seen.logs[2]["psnr_yuv"] + 3
    assert load_codec(tmp_path / "step-000060").model_hash() == codec.model_hash()


def test_frozen_parameters_do_not_move_and_later_move_again() -> None:
    phases = [
        {"name": "still", "steps": 2, "learning_rate": [1e-2, 1e-2], "crop": 16, "frozen": ["down."]},
        {"name": "free", "steps": 2, "learning_rate": [1e-2, 1e-2], "crop": 16},
    ]
    recipe = tiny_recipe(phases=phases)
    codec = fresh_codec(recipe)
    before = codec.down.weight.clone()  # type: ignore[operator, union-attr]
    train(codec, recipe, MadeUpBatches(recipe), stopped := Recorder(stop_after=2))
    assert stopped.checkpoints == [2]
    assert torch.equal(before, codec.down.weight)  # type: ignore[arg-type, union-attr]
    train(codec, recipe, MadeUpBatches(recipe), Recorder())
    assert not torch.equal(before, codec.down.weight)  # type: ignore[arg-type, union-attr]
    phases[0]["frozen"] = ["nothing_of_the_kind"]
    with pytest.raises(UsageError, match=r"phase 'still'.*nothing_of_the_kind"):
        train(codec, tiny_recipe(phases=phases), MadeUpBatches(recipe), Recorder())


class Broken(Tiny):
    """Gives NaN at high QPs."""

    bad_above = 31

    def forward(
        self, luma: torch.Tensor, chroma: torch.Tensor, qp: torch.Tensor, conditions: TrainingConditions
    ) -> TrainingOutput:
        out = super().forward(luma, chroma, qp, conditions)
        out.bits = out.bits * torch.where(qp > self.bad_above, float("nan"), 1.0)[:, None]
        return out


def test_non_finite_steps_are_skipped_counted_and_end_a_hopeless_run(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = [{"name": "p", "steps": 40, "learning_rate": [1e-3, 1e-3], "crop": 16}]
    recipe = tiny_recipe(phases=phases, batch_size=1, checkpoint_every=40)
    codec = Broken(fresh_codec(recipe).config)
    seen = Recorder()
    train(codec, recipe, MadeUpBatches(recipe), seen)
    expected = sum(int(draw_step(recipe, s, 1).qps[0]) > 31 for s in range(40))
    assert 0 < expected < 40
    assert seen.logs[40]["skipped_steps"] == expected
    assert all(torch.isfinite(p).all() for p in codec.parameters())
    monkeypatch.setattr(Broken, "bad_above", -1)
    with pytest.raises(BitreelError, match="diverged at step 24"):
        train(codec, recipe, MadeUpBatches(recipe), Recorder())


def test_draws_follow_from_seed_and_step_alone() -> None:
    phases = [{"name": "p", "steps": 9, "learning_rate": 1e-3, "qp": [10, 12], "crop": 16}]
    recipe = tiny_recipe(phases=phases, batch_size=64)
    first = draw_step(recipe, 5, 1)
    assert set(first.qps.tolist()) == {10, 11, 12}
    many = draw_step(recipe, 5, 3)
    assert torch.equal(first.qps, many.qps)
    assert (first.clip_seeds, first.step_seed) == (many.clip_seeds, many.step_seed)
    assert len(set(first.clip_seeds)) == 64 and len(set(many.noise_seeds)) == 3
    for other in (draw_step(recipe, 6, 1), draw_step(tiny_recipe(phases=phases, batch_size=64, seed=2), 5, 1)):
        assert not torch.equal(first.qps, other.qps) and first.clip_seeds != other.clip_seeds


def test_a_batch_is_dealt_out_evenly_and_whole() -> None:
    for batch, world in ((6, 1), (6, 2), (7, 3), (5, 5)):
        shares = [share_of(batch, rank, world) for rank in range(world)]
        assert [clip for share in shares for clip in range(batch)[share]] == list(range(batch))
        sizes = [share.stop - share.start for share in shares]
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(UsageError, match="batch_size 2 is too small for 3 workers"):
        share_of(2, 0, 3)
    assert [range(5)[part] for part in passes_of(5, 2)] == [range(2), range(2, 4), range(4, 5)]
    assert passes_of(5, 0) == [slice(0, 5)]


def test_few_qp_values_are_spread_over_the_range() -> None:
    phases = [{"name": "few", "steps": 40, "learning_rate": 1e-3, "qp": [0, 63], "qp_values": 4, "crop": 16}]
    recipe = tiny_recipe(phases=phases, batch_size=16)
    drawn = {int(qp) for step in range(40) for qp in draw_step(recipe, step, 1).qps}
    assert drawn == {0, 21, 42, 63}


def test_a_checkpoint_of_another_recipe_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    train(fresh_codec(recipe), recipe, MadeUpBatches(recipe), Recorder(tmp_path, stop_after=4))
    folder = tmp_path / "step-000004"
    start = load_training_state(folder)
    with pytest.raises(UsageError, match="seed is 2 here, 1 there"):
        train(fresh_codec(recipe), tiny_recipe(seed=2), MadeUpBatches(recipe), Recorder(), start=start)
    for name in (TENSORS_FILE, STATE_FILE, "model.safetensors", "config.json"):
        whole = (folder / name).read_bytes()
        middle = len(whole) // 2
        for broken in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
            (folder / name).write_bytes(broken)
            with pytest.raises(BitreelError, match=f"damaged: {name}"):
                load_training_state(folder)
        (folder / name).write_bytes(whole)
    (folder / TENSORS_FILE).unlink()
    with pytest.raises(UsageError, match="can't be resumed"):
        load_training_state(folder)


def test_the_loop_needs_neither_ray_nor_mlflow() -> None:
    code = (
        "import sys, json, trainers.loop; print(json.dumps([m for m in ('ray', 'mlflow', 'av') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
