"""Training goes on from a model's weights under the settings that these fit, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codec.api import create_codec, save_codec
from codec.errors import UsageError
from trainers.recipe import Phase, Recipe, load_recipe
from trainers.starting_codec import starting_codec

SMALL = {"width": 16, "trunk_blocks": 0, "field_features": 4, "state_channels": 4}


def _recipe(**settings: object) -> Recipe:
    return Recipe("on", "innvc", (Phase("one", 1, (1e-4, 1e-4)),), codec_config={**SMALL, **settings})


def test_settings_that_weights_fit_may_change(tmp_path: Path) -> None:
    given = create_codec("innvc", SMALL)
    save_codec(given, tmp_path)
    codec = starting_codec(_recipe(activity=8, intra_boost=3), tmp_path)
    assert codec.config.activity == 8
    assert codec.config.intra_boost == 3
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in given.state_dict().items())
    with pytest.raises(UsageError, match="width 16, not 24"):
        starting_codec(_recipe(width=24), tmp_path)


def test_the_recipe_for_structural_similarity_goes_on_from_the_small_model() -> None:
    small, ssim = load_recipe("innvc-small"), load_recipe("innvc-small-ssim")
    differing = {k for k, v in ssim.codec_config.items() if small.codec_config.get(k) != v}
    assert differing == {"activity"}
