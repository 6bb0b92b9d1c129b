"""Recipes: the shipped ones, overrides, and messages that name the file, the phase and the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codec.errors import UsageError
from tests.trainers.synthetic import tiny_recipe
from trainers.recipe import load_recipe, recipe_from_dict, recipe_names
from trainers.schedule import conditions_at, lambda_of, plan_rows, plan_table

SOUND = """
codec = { family = "innvc", config = { width = 8 } }
batch_size = 4
[[phases]]
name = "one"
steps = 10
learning_rate = [1e-3, 1e-4]
"""


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_sound_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert plan_rows(recipe)[0] == ("phase", *(phase.name for phase in recipe.phases))
    assert f"{recipe.total_steps} steps" in plan_table(recipe)


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SOUND)
    recipe = load_recipe(
        path,
        ["batch_size=2", "phases.0.steps=50", "codec.config.width=16", "phases.0.curve=linear", "scale_steps=0.1"],
    )
    assert (recipe.name, recipe.batch_size, recipe.codec_config) == ("mine", 2, {"width": 16})
    assert (recipe.phases[0].steps, recipe.phases[0].curve) == (5, "linear")
    assert load_recipe(path, ["phases.0.lambda=[0.001, 1]"]).phases[0].lambda_range == (0.001, 1.0)


def test_the_plan_says_which_checkpoint_is_the_best() -> None:
    assert "the best" not in plan_table(tiny_recipe())
    assert "the best by loss" in plan_table(tiny_recipe(keep_best="validation"))
    assert "the best by validation" in plan_table(tiny_recipe(keep_best="validation", validate_every=4))
    assert "the best by loss" in plan_table(tiny_recipe(keep_best="loss", validate_every=4))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("batch_size = 4", "batch_size = 0", "mine.toml.*batch_size must be a whole number, 1 or more"),
        ("batch_size = 4", "batchsize = 4", "unknown setting batchsize"),
        ("batch_size = 4", "log_every = 7", "checkpoint_every must be a multiple of log_every"),
        ("steps = 10", "", "phase 0 'one': steps is missing"),
        ("steps = 10", "steps = true", "phase 0 'one': steps must be a whole number"),
        ("steps = 10", "steps = 10\ncrop = 100", "phase 0 'one': crop must be a multiple of 16"),
        ("steps = 10", "steps = 10\nqp = [0, 64]", "phase 0 'one': qp must be 2 whole numbers from 0 to 63"),
        ("steps = 10", "steps = 10\nqp = [9, 3]", "phase 0 'one': qp must not fall"),
        ("steps = 10", "steps = 10\nlambda = [nan, 1]", "phase 0 'one': lambda must be 2 numbers"),
        ("steps = 10", "steps = 10\nmask_fraction = 1.5", "phase 0 'one': mask_fraction"),
        ("steps = 10", "steps = 10\nfrozen = 'x'", "phase 0 'one': frozen must be a list"),
        ("steps = 10", "steps = 10\ncurve = 'wavy'", "phase 0 'one': curve must be one of cosine, linear"),
        ("steps = 10", "steps = 10\nwarmup_steps = 11", "warmup_steps .11. is more than its steps"),
        ("steps = 10", "steps = 10\nspeed = 1", "phase 0 'one': unknown setting speed"),
        ("family", "famliy", "codec must be a table with `family`"),
        ("[[phases]]", "[phases]", "no phases"),
        ("[[phases]]", "[[phases]", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    assert old in SOUND
    path.write_text(SOUND.replace(old, new))
    with pytest.raises(UsageError, match=says):
        load_recipe(path)


def test_unknown_recipes_and_bad_overrides(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe 'nothing'; known: .*innvc-small"):
        load_recipe("nothing")
    with pytest.raises(UsageError, match=r"missing.toml' can't be read"):
        load_recipe(tmp_path / "missing.toml")
    path = tmp_path / "mine.toml"
    path.write_text(SOUND)
    for override in ("batch_size", "phases.3.steps=1", "phases.x.steps=1", "batch_size.x=1", "scale_steps=-1"):
        with pytest.raises(UsageError, match="--set"):
            load_recipe(path, [override])


def test_schedule_runs_from_the_first_value_to_the_last() -> None:
    recipe = tiny_recipe()
    steps = [conditions_at(recipe, step) for step in range(10)]
    assert [s.phase.name for s in steps] == ["one"] * 6 + ["two"] * 4
    assert [s.ends_phase for s in steps] == [step in (5, 9) for step in range(10)]
    assert [s.learning_rate for s in steps[:3]] == [5e-4, 1e-3, 1e-3]
    assert steps[9].learning_rate == pytest.approx(1e-4) and steps[6].learning_rate == 1e-3
    assert [s.mask_fraction for s in steps[6:]] == pytest.approx([1, 5 / 6, 4 / 6, 0.5])
    with pytest.raises(IndexError):
        conditions_at(recipe, 10)
    lambdas = lambda_of(torch.tensor([0, 31, 32, 63]), (7.5 / 128**2, 7.5))
    assert lambdas[0] == pytest.approx(4.58e-4, rel=1e-3) and lambdas[3] == pytest.approx(7.5)
    assert lambdas[1] * lambdas[2] == pytest.approx(float(lambdas[0] * lambdas[3]), rel=1e-5)
