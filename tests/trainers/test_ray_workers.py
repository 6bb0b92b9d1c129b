"""How a cluster is divided among a training's workers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import ray

from codec.errors import UsageError
from trainers.ray_workers import Workers, choose_resources


def cluster(monkeypatch: pytest.MonkeyPatch, cpus: Sequence[int]) -> None:
    """A cluster of machines with so many CPUs each."""
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)} if count else {}} for count in cpus]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0}}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(sum(cpus))})


@pytest.mark.parametrize(
    ("cpus", "workers", "each"),
    [
        ((8, 8, 8), 3, 8),
        ((8, 8, 8), 4, 4),
        ((8, 8, 8), (1, 8), 8),
        ((0, 8, 8, 8), (1, 8), 8),  # a head that nothing is placed on
        ((0, 8, 8, 8), (1, 4), 8),
        ((8, 4), (1, 2), 4),
    ],
)
def test_workers_get_the_cpus_that_let_all_of_them_run(
    monkeypatch: pytest.MonkeyPatch, cpus: tuple[int, ...], workers: Workers, each: int
) -> None:
    cluster(monkeypatch, cpus)
    assert choose_resources(workers).cpus == each


def test_more_workers_than_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, (0, 2, 2))
    with pytest.raises(UsageError, match="--workers 5: this Ray cluster has 4 CPUs"):
        choose_resources(5)
