"""Fitting the map of the filter's gains: a file that InnVC takes, made from its own coded clips only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.api import create_codec, save_codec
from codec.errors import UsageError
from codec.innvc import filter_gains
from codec.innvc.filter_gains import CHANNELS, PARTS, gains_of, trained
from codec.innvc.segment_filter import gather, weigh
from codec.inter.post_filter import GAIN, PartSums
from tests.codec.test_filter_gains import GRID
from tests.trainers.small_store import make_store
from trainers.filter_gains_fit import Segment, fit_gains, fit_map


def test_the_map_learns_what_places_want() -> None:
    """Some places want half of the close pairs, others half as much again: one channel comes to stand for that."""
    draw, segments = np.random.default_rng(0), []
    for _ in range(6):
        planes = []
        wanted = np.where(draw.random(GRID) < 0.5, 0.5, 1.5)
        for _ in range(3):
            parts = draw.normal(0, 6, (*GRID, 100, PARTS))
            missing = parts.sum(-1) + (wanted[..., None] - 1) * parts[..., 0]
            squares = np.einsum("yxnp,yxnq->yxpq", parts, parts)
            planes.append(PartSums(squares, np.einsum("yxnp,yxn->yxp", parts, missing)))
        plain = np.full((*GRID, PARTS), GAIN, np.int32)
        segments.append(Segment(gather([weigh(planes, 30)], (plain, plain)), 1e4))
    shares: list[float] = []
    basis, _ = fit_map(segments, lambda share: shares.append(share))
    assert shares[-1] > 1.02 * shares[0] > 0
    leading = basis[np.abs(basis).sum((1, 2)).argmax()]
    assert abs(leading[:, 0]).min() > 4 * abs(leading[:, 1:]).max()


def test_a_file_is_made_from_a_model_and_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, file = tmp_path / "model", tmp_path / "gains.npz"
    save_codec(create_codec("innvc", {"width": 16, "trunk_blocks": 1}), model)
    fit_gains(model, make_store(tmp_path / "store", frames=16), file, clips=2, crop=64)
    monkeypatch.setattr(filter_gains, "FILTER_GAINS", file)
    trained.cache_clear()
    try:
        assert trained()["basis"].any()
        assert ((trained()["chances"] > 0) & (trained()["chances"] < 65536)).all()
        gains = gains_of(np.ones((CHANNELS, *GRID), np.int64), trained()["basis"])
        assert gains[0].shape == gains[1].shape == (*GRID, PARTS)
    finally:
        trained.cache_clear()


def test_other_families_are_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_codec(create_codec("dcvc-fm", {"width": 16}), model)
    with pytest.raises(UsageError, match="only innvc"):
        fit_gains(model, tmp_path / "store", tmp_path / "gains.npz")
