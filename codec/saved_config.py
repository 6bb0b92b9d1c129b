"""The config that is saved beside a model's weights, and what it means once the codec has more settings.

A setting that a codec gets later would make every saved model unreadable, or worse, run it otherwise than it was made.
So the codec's config class names it in `ADDED`, with the value under which the codec is bit by bit what it was before:

    ADDED: ClassVar[Mapping[str, Any]] = {"sharpening": 0}

A model saved without the setting loads with that value. A model that has it is hashed and saved without the setting,
so hashes and streams of before stay good, and versions of before go on reading models that do not use it. What stands
in `ADDED` is therefore never changed. It need not be the default of new models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from codec.errors import BitreelError

FORMAT = 1  # of config.json


def saved_settings(config: Any) -> dict[str, Any]:
    """A config as it is saved and hashed: without the settings that stand as they were before they were added."""
    added = _added(type(config))
    settings = dataclasses.asdict(config)
    return {key: value for key, value in settings.items() if key not in added or value != added[key]}


def loaded_settings(config_class: type, saved: Mapping[str, Any], label: str) -> dict[str, Any]:
    """All settings of a saved config. label: the model, in messages.

    Raises BitreelError where it has settings that this version doesn't know, or lacks some that were always there.
    """
    known = {f.name for f in dataclasses.fields(config_class)}
    unknown = sorted(set(saved) - known)
    if unknown:
        raise BitreelError(
            f"{label} was saved by a newer version of bitreel (its config has {', '.join(unknown)}, which this one "
            "doesn't know); install that version"
        )
    settings = {**_added(config_class), **saved}
    missing = sorted(known - set(settings))
    if missing:
        raise BitreelError(
            f"{label} was made by another version of bitreel (its config has no {', '.join(missing)}); "
            "train it anew or use that version"
        )
    return settings


def check_origin(meta: Mapping[str, Any], families: Mapping[str, str], label: str) -> None:
    """Raises BitreelError where config.json has a format, or is of a codec family, that this version doesn't know."""
    if meta["format"] != FORMAT:
        raise BitreelError(
            f"{label} has format {meta['format']}, and this version of bitreel reads format {FORMAT}; "
            "install the version that saved it"
        )
    if meta["family"] not in families:
        raise BitreelError(
            f"{label} is of the codec '{meta['family']}', which this version of bitreel doesn't have (it has "
            f"{', '.join(sorted(families))}); install the version that saved it"
        )


def _added(config_class: type) -> Mapping[str, Any]:
    added: Mapping[str, Any] = getattr(config_class, "ADDED", {})
    return added
