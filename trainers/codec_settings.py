"""Whether a recipe's settings mean anything to its codec: told before a training begins, not in its third phase."""

from __future__ import annotations

from collections.abc import Iterator

from codec.api import Codec
from codec.errors import UsageError
from trainers.recipe import Phase, Recipe
from trainers.step_passes import free_modules


def check_settings(recipe: Recipe, codec: Codec) -> None:
    """Raises UsageError naming the phase and the first setting that `codec` can't follow, or would pass over."""
    for wanted, purpose in ((recipe.compile, "compile = true"), (recipe.precision == "bf16", "precision = 'bf16'")):
        if wanted:
            free_modules(codec, purpose)
    for phase in recipe.phases:
        _check_frozen(codec, phase)
        if phase.clip_frames < codec.least_clip_frames:
            raise UsageError(
                f"phase '{phase.name}': clip_frames must be {codec.least_clip_frames} or more for codec "
                f"'{codec.family}': a clip's first frame has nothing to train there"
            )
        for setting, condition in _asked_for(phase):
            if condition not in codec.training_conditions:
                raise UsageError(
                    f"phase '{phase.name}': {setting} means nothing to codec '{codec.family}'; leave it out"
                )


def trains(phase: Phase, codec: Codec, name: str) -> bool:
    """Whether the phase moves the parameter of that name."""
    asked = phase.loss != "motion" or name.startswith(codec.motion_network)
    return asked and not name.startswith(phase.frozen)


def _asked_for(phase: Phase) -> Iterator[tuple[str, str]]:
    """Settings that some codecs know alone, where they are not at rest, and the condition that each turns into."""
    if phase.mask_fraction != (1.0, 1.0):
        yield "mask_fraction", "mask_fraction"
    if phase.field_dropout:
        yield "field_dropout", "field_dropout"
    if phase.loss == "pictures":
        yield "loss = 'pictures'", "picture_gradients"
    if phase.loss == "motion":
        yield "loss = 'motion'", "motion_only"


def _check_frozen(codec: Codec, phase: Phase) -> None:
    names = [name for name, _ in codec.named_parameters()]
    idle = [prefix for prefix in phase.frozen if not any(name.startswith(prefix) for name in names)]
    if idle:
        raise UsageError(f"phase '{phase.name}': frozen: no parameter's name starts with {', '.join(idle)}")
    if not any(trains(phase, codec, name) for name in names):
        raise UsageError(f"phase '{phase.name}': frozen: nothing is left to train")
