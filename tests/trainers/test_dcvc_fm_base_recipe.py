"""DCVC-FM base's recipe goes through the plain loop."""

from __future__ import annotations

import torch

from tests.codec.test_dcvc_fm_base import NARROW
from tests.trainers.synthetic import MadeUpBatches, Recorder
from trainers.loop import fresh_codec, train
from trainers.recipe import load_recipe, recipe_from_dict


def test_recipe_goes_through_its_phases() -> None:
    """The shipped recipe on a narrow model, a step a phase, on small crops of short clips."""
    plain = load_recipe("dcvc-fm-base").to_dict()
    plain["codec"]["config"] = {k: list(v) if isinstance(v, tuple) else v for k, v in NARROW.items()}
    plain |= {"batch_size": 2, "log_every": 1, "checkpoint_every": 1, "pictures_every": 100}
    for phase in plain["phases"]:
        phase |= {"steps": 1, "warmup_steps": 0, "crop": 48, "clip_frames": min(phase["clip_frames"], 3)}
    recipe = recipe_from_dict(plain)
    codec, recorder = fresh_codec(recipe), Recorder()
    first = {name: p.detach().clone() for name, p in codec.named_parameters()}
    single = [phase.loss for phase in recipe.phases if phase.clip_frames == 1]
    assert single == ["cascaded", "cascaded", "motion"]
    recorder.stop_after = len(single)
    train(codec, recipe, MadeUpBatches(recipe), recorder)
    moved = {name for name, p in codec.named_parameters() if not torch.equal(p, first[name])}
    of_motion = {name for name in moved if name.startswith("inter.estimation.")}
    assert of_motion and moved > of_motion and all(name.startswith("intra.") for name in moved - of_motion)
    recorder = Recorder()
    train(codec, recipe, MadeUpBatches(recipe), recorder)
    assert len(recorder.logs) == len(recipe.phases)
    for figures, phase in zip(recorder.logs.values(), recipe.phases, strict=True):
        assert figures["skipped_steps"] == 0 and (figures["bpp"] == 0) == (phase.loss == "motion")
