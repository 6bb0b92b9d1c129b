"""Trained models that ship with the package: one folder each below `codec/models/`, as `save_codec` writes it.

$BITREEL_MODELS may name further folders of models (separated as in $PATH); a model there goes before the package's of
the same name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from codec.errors import BitreelError

# Also the names of a checkpoint folder's files; here because loading by name needs both.
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

MODELS_VARIABLE = "BITREEL_MODELS"
_SHIPPED = Path(__file__).resolve().parent / "models"


def builtin_models() -> dict[str, Path]:
    """The checkpoint folder of each built-in model, by name in alphabetical order."""
    further = [Path(place) for place in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep) if place]
    found: dict[str, Path] = {}
    for place in (*further, _SHIPPED):
        for config in sorted(place.glob(f"*/{CONFIG_FILE}")):
            if (config.parent / WEIGHTS_FILE).is_file() and not config.parent.name.startswith("."):
                found.setdefault(config.parent.name, config.parent.absolute())
    return dict(sorted(found.items()))


def builtin_names() -> str:
    """The names as a message lists them."""
    return ", ".join(builtin_models()) or "none"


def stated_hash(folder: Path) -> str:
    """The model hash (hex) that a checkpoint folder's config states; `load_codec` checks that it is the weights'.

    Raises BitreelError where the config can't be read.
    """
    path = folder / CONFIG_FILE
    try:
        return str(json.loads(path.read_text())["model_hash"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BitreelError(f"'{path}' can't be read as a model's config") from error


def find_builtin(model_hash: str) -> Path | None:
    """The folder of the built-in model whose hash (hex) begins so, None where there is none."""
    for folder in builtin_models().values():
        if model_hash and stated_hash(folder).startswith(model_hash):
            return folder
    return None
