"""Each setting with each of the small codecs: it trains, or the training is refused with the setting's name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from codec.errors import UsageError
from tests.trainers.synthetic import MadeUpBatches, Recorder
from trainers.codec_settings import check_settings
from trainers.loop import fresh_codec, train
from trainers.recipe import Recipe, recipe_from_dict

CODECS: dict[str, dict[str, Any]] = {
    "innvc": {"width": 16, "trunk_blocks": 0, "field_features": 4, "state_channels": 4},
    "dcvc-fm": {"encoder_blocks": 1},
}
EVERYWHERE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the recipe, of its phase
    "accumulation": ({"micro_batch": 1}, {}),
    "averages": ({"ema_decay": 0.9}, {}),
    "recompute": ({"recompute": True}, {}),
    "bf16": ({"precision": "bf16"}, {}),
    "clip": ({}, {"grad_clip": 0.1}),
    "cascaded": ({}, {"loss": "cascaded"}),
    "per-frame": ({}, {"loss": "per-frame"}),
    "few QPs": ({}, {"qp_values": 4}),
}
FROZEN = {"innvc": "field_encoder", "dcvc-fm": "network.scalers"}


def recipe_of(family: str, config: dict[str, Any] | None = None, **phase: Any) -> Recipe:
    """Three steps on two clips of two frames; `phase` may hold settings of the whole recipe below "recipe"."""
    whole = phase.pop("recipe", {})
    settings = {"name": "only", "steps": 3, "learning_rate": 1e-3, "crop": 32} | phase
    codec = {"family": family, "config": CODECS[family] if config is None else config}
    every = {"batch_size": 2, "log_every": 1, "checkpoint_every": 3, "pictures_every": 3}
    return recipe_from_dict({"codec": codec, "phases": [settings], **every, **whole})


def curve_of(recipe: Recipe) -> list[float]:
    train(fresh_codec(recipe), recipe, MadeUpBatches(recipe), seen := Recorder())
    return [seen.logs[step]["loss"] for step in sorted(seen.logs)]


@pytest.mark.parametrize("setting", EVERYWHERE)
@pytest.mark.parametrize("family", CODECS)
def test_what_every_codec_follows(family: str, setting: str) -> None:
    whole, phase = EVERYWHERE[setting]
    curve = curve_of(recipe_of(family, recipe=whole, **phase))
    assert len(curve) == 3 and all(map(math.isfinite, curve))


@pytest.mark.parametrize("family", CODECS)
def test_frozen_parameters_stay(family: str) -> None:
    recipe = recipe_of(family, frozen=[FROZEN[family]])
    codec, before = fresh_codec(recipe), dict(fresh_codec(recipe).named_parameters())
    train(codec, recipe, MadeUpBatches(recipe), Recorder())
    moved = {name for name, value in codec.named_parameters() if not value.equal(before[name])}
    assert moved and not any(name.startswith(FROZEN[family]) for name in moved)


@pytest.mark.parametrize(
    ("family", "phase"),
    [("innvc", {"field_dropout": 0.5}), ("dcvc-fm", {"loss": "pictures"})],
)
def test_what_one_codec_follows_changes_its_training(family: str, phase: dict[str, Any]) -> None:
    alike = {"qp": [20, 40], "clip_frames": 3, "learning_rate": 1e-2}
    assert curve_of(recipe_of(family, **alike, **phase)) != curve_of(recipe_of(family, **alike))


@pytest.mark.parametrize(
    ("family", "phase", "says"),
    [
        ("innvc", {"loss": "pictures"}, "phase 'only': loss = 'pictures' means nothing to codec 'innvc'"),
        ("dcvc-fm", {"loss": "motion"}, "phase 'only': loss = 'motion' means nothing to codec 'dcvc-fm'"),
        ("dcvc-fm", {"mask_fraction": [1.0, 0.5]}, "phase 'only': mask_fraction means nothing to codec 'dcvc-fm'"),
        ("dcvc-fm", {"field_dropout": 0.1}, "phase 'only': field_dropout means nothing to codec 'dcvc-fm'"),
        ("dcvc-fm", {"clip_frames": 1}, "phase 'only': clip_frames must be 2 or more for codec 'dcvc-fm'"),
        ("dcvc-fm", {"frozen": ["netwerk"]}, "phase 'only': frozen: no parameter's name starts with netwerk"),
        ("dcvc-fm", {"frozen": ["network", "encoder"]}, "phase 'only': frozen: nothing is left to train"),
    ],
)
def test_what_a_codec_would_pass_over_is_refused(family: str, phase: dict[str, Any], says: str) -> None:
    recipe = recipe_of(family, **phase)
    with pytest.raises(UsageError, match=says):
        check_settings(recipe, fresh_codec(recipe))


@pytest.mark.slow
@pytest.mark.parametrize("family", CODECS)
def test_compiled_networks_train_alike(family: str) -> None:
    """Also in bfloat16 and run twice. Needs a C++ compiler, as torch.compile does."""
    plain = curve_of(recipe_of(family))
    assert curve_of(recipe_of(family, recipe={"compile": True})) == pytest.approx(plain, rel=1e-3)
    together = curve_of(recipe_of(family, recipe={"compile": True, "precision": "bf16", "recompute": True}))
    assert together == pytest.approx(plain, rel=2e-2)
