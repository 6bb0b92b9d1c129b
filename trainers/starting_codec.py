"""The codec that a training begins with: fresh, or with the weights of another one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from codec.api import Codec, load_codec
from codec.errors import UsageError
from trainers.codec_settings import check_settings
from trainers.loop import fresh_codec
from trainers.recipe import Recipe


def starting_codec(recipe: Recipe, init_from: Path | None) -> Codec:
    """The codec before its first step: fresh, or with the weights of a checkpoint of the very same codec.

    Raises UsageError where the checkpoint's codec is another than the recipe's, or as `check_settings`.
    """
    codec = fresh_codec(recipe)
    check_settings(recipe, codec)
    if init_from is None:
        return codec
    given = load_codec(init_from)
    differing = differing_settings(given, codec)
    if differing:
        raise UsageError(
            f"'{init_from}' holds a {given.family} with other settings than recipe '{recipe.name}' asks for: "
            f"{', '.join(differing)}; give the recipe the same codec settings"
        )
    codec.load_state_dict(given.state_dict())
    return codec


def differing_settings(given: Codec, wanted: Codec) -> list[str]:
    """Where two codecs' settings differ, as `key 96, not 192`; empty where weights of one fit the other.

    Settings that a codec's config names in RETUNABLE may differ: training goes on from the same weights under new ones.
    """
    if given.family != wanted.family:
        return [f"family {given.family}, not {wanted.family}"]
    here, there = dataclasses.asdict(given.config), dataclasses.asdict(wanted.config)
    free = getattr(wanted.config, "RETUNABLE", ())
    return [f"{k} {value!r}, not {there[k]!r}" for k, value in here.items() if value != there[k] and k not in free]
