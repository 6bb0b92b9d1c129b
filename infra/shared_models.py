"""A model where every machine of a cluster finds it: in the cache that tasks share, by its hash.

A registered version is fetched into a cache of the machine that asked for it, and a built-in one lies wherever bitreel
was installed; tasks on other machines have neither.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from codec.api import CONFIG_FILE, WEIGHTS_FILE, load_codec
from codec.errors import BitreelError, UsageError

_FOLDER = "models"  # of the cache


def shared_place(model_hash: str, cache: Path) -> Path:
    """Where `shared_model` puts a model."""
    return (cache / _FOLDER / model_hash).absolute()


def shared_model(model: Path, model_hash: str, cache: Path) -> Path:
    """A copy of the checkpoint folder `model` below `cache`, made now or found again whole, made anew where damaged.

    model_hash: hexadecimal, of its weights. Raises OSError where the copy can't be written.
    """
    place = shared_place(model_hash, cache)
    if _is_whole(place, model_hash):
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".part-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(model / name, made / name)
        with contextlib.suppress(OSError):  # there is none, or another process moves it away at this moment
            place.rename(Path(scratch) / "damaged")
        with contextlib.suppress(OSError):  # another process was faster, with the same model
            made.rename(place)
    return place


def _is_whole(folder: Path, model_hash: str) -> bool:
    try:
        return load_codec(folder).model_hash().hex() == model_hash
    except (BitreelError, UsageError, OSError):
        return False
