"""The loop on real Ray Train workers: a whole run, workers that are killed, failures that a person must mend."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from codec.api import CODECS, create_codec, load_codec, save_codec
from codec.errors import BitreelError, UsageError
from tests.trainers.small_store import make_store
from tests.trainers.synthetic import tiny_recipe
from trainers.ray_train import TrainingResult, train_on_ray
from trainers.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that tells workers when to die; see tests/trainers/tiny_codec.py."""
    return tmp_path_factory.mktemp("deaths")


@pytest.fixture(scope="module", autouse=True)
def _ray(deaths: Path) -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={
            "worker_process_setup_hook": "tests.trainers.tiny_codec.install",
            "env_vars": {"PYTHONPATH": str(ROOT), "TINY_DEATHS": str(deaths)},
        },
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("clips") / "store")


def run(recipe: Recipe, store: Path, name: str, storage: Path) -> tuple[TrainingResult, dict[int, float]]:
    """The result, and the losses by step as far as the driver saw them."""
    losses: dict[int, float] = {}

    def note(step: int, metrics: dict[str, float]) -> None:
        losses[step] = metrics["loss"]

    return train_on_ray(recipe, store, name, storage=storage, workers=2, on_progress=note), losses


def test_two_workers_train_to_the_end_and_wrong_uses_are_refused(store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    result, losses = run(recipe, store, "whole", tmp_path)
    assert losses[10] == result.metrics["loss"] and result.run_id == ""
    assert load_codec(result.checkpoint).family == "tiny"
    assert result.checkpoint.parent == tmp_path / "whole"

    for bad, says in (
        ({"recipe": tiny_recipe(seed=9)}, "started with another recipe"),
        ({"workers": 1}, "started with another workers"),
        ({"workers": 3}, "use no more workers"),
        ({"recipe": tiny_recipe(batch_size=3)}, "can't be split evenly over 2 workers"),
        ({"store": tmp_path / "none"}, "not a clip store"),
        ({"init_from": tmp_path / "none"}, "no model at"),
    ):
        arguments = {"recipe": recipe, "store": store, "workers": 2} | bad
        with pytest.raises(UsageError, match=says):
            train_on_ray(name="whole", storage=tmp_path, **arguments)  # type: ignore[arg-type]
    save_codec(create_codec("tiny", {"width": 7}), tmp_path / "wide")
    with pytest.raises(UsageError, match="with other settings than recipe 'tiny'"):
        train_on_ray(recipe, store, "new", storage=tmp_path, workers=2, init_from=tmp_path / "wide")


@pytest.mark.slow
def test_killed_workers_change_nothing(store: Path, tmp_path: Path, deaths: Path) -> None:
    """Rank 0 is killed before the first checkpoint, rank 1 after it; the end is bit for bit that of an unbroken run."""
    recipe = tiny_recipe()
    unbroken, _ = run(recipe, store, "unbroken", tmp_path)
    (deaths / "0-3").touch()
    (deaths / "1-6").touch()
    killed, _ = run(recipe, store, "killed", tmp_path)
    assert not list(deaths.glob("*-*"))
    assert int((deaths / "calls").read_text()) < recipe.total_steps  # the last attempt went on from a checkpoint
    assert killed.metrics["loss"] == unbroken.metrics["loss"]
    assert load_codec(killed.checkpoint).model_hash() == load_codec(unbroken.checkpoint).model_hash()


@pytest.mark.slow
def test_a_run_that_gave_up_goes_on_under_its_name(store: Path, tmp_path: Path, deaths: Path) -> None:
    recipe = tiny_recipe()
    unbroken, _ = run(recipe, store, "unbroken", tmp_path)
    for call in (1, 2, 3, 5):  # one death more than a run survives; the last one after the first checkpoint
        (deaths / f"1-{call}").touch()
    with pytest.raises(BitreelError, match="'stopped' failed 4 times and gave up"):
        run(recipe, store, "stopped", tmp_path)
    assert not list(deaths.glob("*-*"))
    resumed, _ = run(recipe, store, "stopped", tmp_path)
    assert load_codec(resumed.checkpoint).model_hash() == load_codec(unbroken.checkpoint).model_hash()


@pytest.mark.slow
def test_a_run_goes_on_from_the_weights_it_began_with(store: Path, tmp_path: Path) -> None:
    """Also where it stopped before its first checkpoint, and the model it started from is gone."""
    recipe = tiny_recipe(phases=[{"name": "still", "steps": 4, "learning_rate": [0.0, 0.0], "crop": 32}])
    given, other = create_codec("tiny", {"width": 6}), create_codec("tiny", {"width": 6})
    save_codec(given, tmp_path / "given")
    save_codec(other, tmp_path / "other")
    began = train_on_ray(recipe, store, "from", storage=tmp_path, workers=2, init_from=tmp_path / "given")
    assert load_codec(began.checkpoint).model_hash() == given.model_hash()  # the learning rate is 0
    with pytest.raises(UsageError, match="started with another init_from"):
        train_on_ray(recipe, store, "from", storage=tmp_path, workers=2, init_from=tmp_path / "other")

    shutil.rmtree(tmp_path / "given")
    for entry in (tmp_path / "from").iterdir():
        if entry.name not in ("run.json", "start"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    resumed, losses = run(recipe, store, "from", tmp_path)
    assert 4 in losses and load_codec(resumed.checkpoint).model_hash() == given.model_hash()


@pytest.mark.slow
def test_a_failure_in_a_worker_that_a_person_must_mend_is_told_as_it_is(store: Path, tmp_path: Path) -> None:
    phases = [{"name": "p", "steps": 2, "learning_rate": 1e-3, "crop": 32, "frozen": ["no_such"]}]
    with pytest.raises(UsageError, match="phase 'p': frozen: no parameter's name starts with no_such"):
        run(tiny_recipe(phases=phases), store, "bad", tmp_path)
    damaged = tmp_path / "store"
    shutil.copytree(store, damaged)
    (shard,) = (damaged / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(BitreelError, match="shorter than the manifest says"):
        run(tiny_recipe(), damaged, "damaged", tmp_path)
