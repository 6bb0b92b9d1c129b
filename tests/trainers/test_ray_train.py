"""The loop on real Ray Train workers: a whole run, workers that are killed, failures that a person must mend."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from codec.api import CODECS, create_codec, load_codec, save_codec
from codec.errors import BitreelError, UsageError
from tests.trainers.curve_file import CurveFile
from tests.trainers.small_store import make_store
from tests.trainers.synthetic import tiny_recipe
from trainers.ray_train import TrainingResult, train_on_ray
from trainers.ray_worker import checkpoint_folder
from trainers.ray_workers import Workers
from trainers.recipe import Recipe
from trainers.run_events import read_events
from trainers.validation import BEST, ValidationResult, best_result

pytestmark = pytest.mark.timeout(900)  # each run starts workers several times over

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


Curve = dict[int, dict[str, float]]
Unbroken = tuple[TrainingResult, Curve]


def run(recipe: Recipe, store: Path, name: str, storage: Path, workers: Workers = 2) -> tuple[TrainingResult, Curve]:
    """The result, and the curve as rank 0 logged it, without times; a step logged twice had the same figures twice."""
    spec = CurveFile(storage / f"{name}.curve")
    result = train_on_ray(recipe, store, name, storage=storage, workers=workers, tracking=spec)
    return result, spec.curve()


@pytest.fixture(scope="module")
def unbroken(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """The tiny recipe on two workers, to which nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")
        return run(tiny_recipe(), store, "whole", tmp_path_factory.mktemp("unbroken"))


def test_two_workers_train_to_the_end_and_wrong_uses_are_refused(
    store: Path, tmp_path: Path, unbroken: Unbroken
) -> None:
    recipe = tiny_recipe()
    result, curve = unbroken
    storage = result.checkpoint.parent.parent.parent
    assert curve[10]["loss"] == result.metrics["loss"] and result.run_id == "curve"
    assert load_codec(result.checkpoint).family == "tiny"
    assert result.checkpoint == storage / "whole" / "checkpoints" / "step-00000010"
    assert sorted(path.name for path in result.checkpoint.parent.iterdir()) == ["step-00000008", "step-00000010"]

    for bad, says in (
        ({"recipe": tiny_recipe(seed=9)}, "started with another recipe"),
        ({"workers": 3}, "use no more workers"),
        ({"recipe": tiny_recipe(batch_size=1)}, "batch_size 1 is too small for 2 workers"),
        ({"store": tmp_path / "none"}, "not a clip store"),
        ({"init_from": tmp_path / "none"}, "no model at"),
    ):
        arguments = {"recipe": recipe, "store": store, "workers": 2} | bad
        with pytest.raises(UsageError, match=says):
            train_on_ray(name="whole", storage=storage, **arguments)  # type: ignore[arg-type]
    save_codec(create_codec("tiny", {"width": 7}), tmp_path / "wide")
    with pytest.raises(UsageError, match="with other settings than recipe 'tiny'"):
        train_on_ray(recipe, store, "new", storage=tmp_path, workers=2, init_from=tmp_path / "wide")


@pytest.mark.slow
def test_killed_workers_change_nothing(store: Path, tmp_path: Path, deaths: Path, unbroken: Unbroken) -> None:
    """Rank 0 is killed before the first checkpoint, rank 1 after it; the curve and the end are bit for bit those of an
    unbroken run."""
    recipe, (finished, whole) = tiny_recipe(), unbroken
    (deaths / "0-3").touch()
    (deaths / "1-6").touch()
    killed, curve = run(recipe, store, "killed", tmp_path)
    assert not list(deaths.glob("*-*"))
    assert int((deaths / "calls").read_text()) < recipe.total_steps  # the last attempt went on from a checkpoint
    assert sorted(whole) == [2, 4, 6, 8, 10] and curve == whole
    assert load_codec(killed.checkpoint).model_hash() == load_codec(finished.checkpoint).model_hash()


@pytest.mark.slow
def test_sigterm_to_a_worker_or_the_driver_saves_all_that_was_done(
    store: Path, tmp_path: Path, deaths: Path, unbroken: Unbroken
) -> None:
    """A worker that is told to go at its 5th step saves the 5th, not the 4th, and the run goes on by itself; a driver
    that is told to go says how to go on. The curve is that of an unbroken run."""
    recipe, (_, whole) = tiny_recipe(), unbroken
    (deaths / "1-5").write_text("15")
    _, curve = run(recipe, store, "told", tmp_path)
    events = read_events(tmp_path / "told")[0]
    assert curve == whole
    assert [e["step"] for e in events if e["event"] == "started"] == [0, 5]
    assert [e["rank"] for e in events if e["event"] == "leaving"] == [1]

    (deaths / "0-3").write_text(str(os.getpid()))  # this process: the driver
    with pytest.raises(BitreelError, match=r"'driver' was stopped at step \d+ of 10; go on with --resume driver"):
        run(recipe, store, "driver", tmp_path)
    assert run(recipe, store, "driver", tmp_path)[1] == whole


@pytest.mark.slow
def test_the_best_checkpoint_by_validation_stays_though_validations_lag(tmp_path: Path) -> None:
    """The training ends long before its validations do; its weights are spoilt from step 6 on."""
    recipe = tiny_recipe(
        log_every=1, pictures_every=10, checkpoint_every=2, keep_checkpoints=1, keep_best="validation",
        validate_every=2, validate_qps=[0, 63], validate_clips=1, validate_frames=2, validate_crop=32,
        phases=[
            {"name": "good", "steps": 6, "learning_rate": [1e-3, 1e-3], "crop": 32},
            {"name": "spoilt", "steps": 4, "learning_rate": [0.5, 0.5], "crop": 32},
        ],
    )  # fmt: skip
    folder = checkpoint_folder(tmp_path / "run", recipe)
    there: dict[int, bool] = {}

    def validated(result: ValidationResult) -> None:
        there[result.step] = result.step in folder.steps()

    store = make_store(tmp_path / "store", held_out=3)
    train_on_ray(recipe, store, "run", storage=tmp_path, workers=1, on_validation=validated)
    assert there == dict.fromkeys((2, 4, 6, 8, 10), True)
    best = best_result(tmp_path / "run")
    assert best is not None and best.step <= 6
    assert folder.steps() == [best.step, 10]
    assert load_codec(folder.path(best.step)).model_hash() == load_codec(tmp_path / "run" / BEST).model_hash()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(store: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    finished, whole = unbroken
    storage = tmp_path / "copy"
    shutil.copytree(finished.checkpoint.parent.parent.parent, storage)
    weights = storage / finished.checkpoint.relative_to(finished.checkpoint.parent.parent.parent) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    repaired, curve = run(tiny_recipe(), store, "whole", storage)
    assert curve == whole and load_codec(repaired.checkpoint)
    assert [e["step"] for e in read_events(storage / "whole")[0] if e["event"] == "started"] == [0, 8]


@pytest.mark.slow
def test_a_run_that_gave_up_goes_on_under_its_name(
    store: Path, tmp_path: Path, deaths: Path, unbroken: Unbroken
) -> None:
    recipe, (finished, whole) = tiny_recipe(), unbroken
    for call in (1, 2, 3, 4):  # one death more than a run survives without a checkpoint
        (deaths / f"1-{call}").touch()
    with pytest.raises(BitreelError, match="'stopped' failed 4 times without a new checkpoint and gave up"):
        run(recipe, store, "stopped", tmp_path)
    assert not list(deaths.glob("*-*"))
    resumed, curve = run(recipe, store, "stopped", tmp_path)
    assert curve == whole
    assert load_codec(resumed.checkpoint).model_hash() == load_codec(finished.checkpoint).model_hash()


@pytest.mark.slow
def test_another_number_of_workers_goes_on_up_to_rounding(store: Path, tmp_path: Path, deaths: Path) -> None:
    """A batch of 5 on 2 workers, then on 1: the same clips, QPs and draws."""
    recipe = tiny_recipe(batch_size=5)
    _, whole = run(recipe, store, "unbroken", tmp_path, workers=1)
    for call in (5, 6, 7, 8):
        (deaths / f"1-{call}").touch()
    with contextlib.suppress(BitreelError):
        run(recipe, store, "stopped", tmp_path, workers=2)
    for order in deaths.glob("*-*"):
        order.unlink()
    _, curve = run(recipe, store, "stopped", tmp_path, workers=1)
    worlds = [event["workers"] for event in read_events(tmp_path / "stopped")[0] if event["event"] == "started"]
    assert worlds[0] == 2 and worlds[-1] == 1
    assert sorted(curve) == sorted(whole)
    for step, figures in whole.items():
        assert curve[step]["loss"] == pytest.approx(figures["loss"], rel=1e-4)
        assert curve[step]["bpp"] == pytest.approx(figures["bpp"], rel=1e-4)


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
    resumed, curve = run(recipe, store, "from", tmp_path)
    assert 4 in curve and load_codec(resumed.checkpoint).model_hash() == given.model_hash()


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
