"""Fitting the post filter: less error than before on footage it did not see, and a file that the codec takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.api import create_codec, save_codec
from codec.inter.filter_sums import Sums
from codec.inter.post_filter import PostFilter, filter_weights
from tests.codec.test_post_filter import make_picture
from tests.trainers.small_store import make_store
from trainers.post_filter_fit import fit_filter, solve


@pytest.mark.parametrize("intra", [False, True])
def test_what_is_fitted_takes_error_away_from_other_pictures(intra: bool) -> None:
    sums = Sums()
    for seed in range(8):
        sums.add(*make_picture(30, intra, 20 * seed))
    post_filter = PostFilter(solve(sums))
    picture, source = make_picture(30, intra, 999)
    made = post_filter.apply(picture, np.ones((3, *picture.grid), np.uint8))
    for before, after, wanted in zip(picture.planes, made, source, strict=True):
        errors = [np.square(planes.astype(float) - wanted).mean() for planes in (before, after)]
        assert errors[1] < 0.8 * errors[0]


def test_bands_that_nothing_was_seen_of_change_nothing() -> None:
    sums = Sums()
    sums.add(*make_picture(30, True, 1))
    picture, _ = make_picture(55, True, 2)
    made = PostFilter(solve(sums)).apply(picture, np.ones((3, *picture.grid), np.uint8))
    assert np.array_equal(made[0], picture.planes[0])
    assert np.array_equal(made[1], picture.planes[1])


def test_a_file_is_made_from_a_model_and_a_store(tmp_path: Path) -> None:
    model, file = tmp_path / "model", tmp_path / "filter.npz"
    save_codec(create_codec("innvc", {"width": 16, "trunk_blocks": 1}), model)
    fit_filter(model, make_store(tmp_path / "store", frames=6), file, clips=2, crop=64)
    weights = filter_weights(file)
    assert set(weights) == {"luma_inter", "luma_intra", "chroma_inter", "chroma_intra"}
    assert any(each.any() for each in weights.values())
