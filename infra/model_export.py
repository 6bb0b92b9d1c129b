"""A model as a folder to hand on: weights and config, and beside them the recipe, the data and the curve that made it.

config.json, model.safetensors    the model; the folder's name is its name
recipe.toml                       `bitreel train recipe.toml` trains it again
data.json                         the sources of the clips it was trained on, by file name and checksum
curve.json                        training figures over steps
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.api import WEIGHTS_FILE, load_codec, save_codec
from codec.atomic_files import write_atomically, write_json_atomically
from codec.errors import UsageError
from infra.provenance import manifest_hash
from infra.registry import check_name, fetch_version, local_model, version_of
from infra.tracking import ask, connect, find_training_run, tracking_uri
from pipeline.manifest import STORE_FILE, read_manifest
from trainers.checkpoint import STATE_FILE
from trainers.ray_train import RUN_FILE

RECIPE, DATA, CURVE = "recipe.toml", "data.json", "curve.json"
CURVE_POINTS = 400
FIGURES = ("loss", "bpp", "psnr_yuv", "learning_rate")


@dataclass(frozen=True)
class ExportedModel:
    """made_of: hash of the model as it was; beside: files that were written with it; lacking: what is not, and why."""

    folder: Path
    name: str
    model_hash: str
    made_of: str
    bytes: int
    beside: list[str]
    lacking: list[str]


def export_model(ref: str, folder: Path, *, half: bool = True) -> ExportedModel:
    """Write the model of a REF to `folder`, a new or empty one. half: parameters as float16, see `save_codec`.

    Files that lie beside a checkpoint are taken as they are; else the recipe comes from the checkpoint, data and curve
    from its training run in MLflow and that run's store, as far as they can be found.

    Raises UsageError where `folder` holds something or its name is no model's, and as `resolve_model` does.
    """
    name = folder.absolute().name
    check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"'{folder}' holds something already; give a new folder")
    source, run_id = _find(ref)
    codec = load_codec(source)
    made_of = codec.model_hash().hex()
    codec.display_name = name
    folder.mkdir(parents=True, exist_ok=True)
    given = {entry for entry in (RECIPE, DATA, CURVE) if (source / entry).is_file()}
    lacking: list[str] = []
    for entry in given:
        shutil.copyfile(source / entry, folder / entry)
    if RECIPE not in given:
        recipe = _recipe_of(source)
        if recipe is None:
            lacking.append(f"{RECIPE}: the checkpoint holds no recipe")
        else:
            write_atomically(folder / RECIPE, recipe_toml(recipe).encode())
    if not given >= {DATA, CURVE}:
        lacking += _write_run(source, run_id, folder, {DATA, CURVE} - given)
    save_codec(codec, folder, half)
    kept = load_codec(folder)  # proves that what was written is sound
    beside = [entry for entry in (RECIPE, DATA, CURVE) if (folder / entry).is_file()]
    size = (folder / WEIGHTS_FILE).stat().st_size
    return ExportedModel(folder, name, kept.model_hash().hex(), made_of, size, beside, lacking)


def recipe_toml(recipe: dict[str, Any]) -> str:
    """A recipe, as `Recipe.to_dict` gives it, in the form that `load_recipe` reads."""
    plain = dict(recipe)
    codec, phases = plain.pop("codec"), plain.pop("phases")
    blocks = [("", plain), ("[codec]", {"family": codec["family"]})]
    if codec.get("config"):
        blocks += [("[codec.config]", codec["config"])]
    blocks += [("[[phases]]", phase) for phase in phases]
    # What recipes hold (texts, numbers, truth values, lists of them) JSON and TOML write alike.
    lines = [
        "\n".join(
            [title] * bool(title) + [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in block.items()]
        )
        for title, block in blocks
    ]
    return "\n\n".join(lines) + "\n"


def _find(ref: str) -> tuple[Path, str | None]:
    """The folder of a REF, and the training run's MLflow id where it is known."""
    folder = local_model(ref)
    if folder is None:
        version = version_of(ref)
        return fetch_version(version), version.run_id
    # A training's checkpoints lie below its run's folder, its best one right in it.
    runs = [place for place in list(folder.absolute().parents)[:2] if (place / RUN_FILE).is_file()]
    if not runs:
        return folder, None
    found = find_training_run(runs[0].name)
    return folder, found[0].run_id if found else None


def _recipe_of(source: Path) -> dict[str, Any] | None:
    """From a registered version's recipe.json, or a checkpoint's training state."""
    for entry in ("recipe.json", STATE_FILE):
        if (source / entry).is_file():
            data: dict[str, Any] = json.loads((source / entry).read_text())
            return data.get("recipe", data)
    return None


def _write_run(source: Path, run_id: str | None, folder: Path, wanted: set[str]) -> list[str]:
    """Write what the training run knows of what is wanted; gives what it does not know, and why."""
    if run_id is None:
        return [f"{entry}: no training run of '{source}' in MLflow" for entry in sorted(wanted)]
    from mlflow.exceptions import MlflowException

    client = connect()

    def read() -> tuple[dict[str, str], dict[str, list[tuple[int, float]]]]:
        histories = {key: client.get_metric_history(run_id, key) for key in FIGURES}
        series = {key: [(point.step, point.value) for point in history] for key, history in histories.items()}
        return client.get_run(run_id).data.params, series

    try:
        params, series = ask(tracking_uri(), read)
    except MlflowException as error:
        first = str(error).splitlines()[0]
        return [f"{entry}: run {run_id} can't be read: {first}" for entry in sorted(wanted)]
    lacking = []
    if CURVE in wanted:
        curve = {key: thinned(points) for key, points in series.items() if points}
        if curve:
            write_json_atomically(folder / CURVE, {"run": run_id, "curves": curve})
        else:
            lacking.append(f"{CURVE}: run {run_id} has no figures")
    if DATA in wanted:
        store = Path(params.get("store", ""))
        if (store / STORE_FILE).is_file():
            write_json_atomically(folder / DATA, data_list(store))
        else:
            lacking.append(f"{DATA}: the run's store '{store}' is not here")
    return lacking


def data_list(store: Path) -> dict[str, Any]:
    """The training sources of a store as it is now, by file name and checksum (BLAKE3), with the clips and frames that
    each gave."""
    sources: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_manifest(store, ["source", "source_checksum", "split", "frames"]).to_pylist():
        if row["split"] != "train":
            continue
        name, checksum = str(row["source"]).rsplit("/", 1)[-1], str(row["source_checksum"])
        entry = sources.setdefault((name, checksum), {"name": name, "checksum": checksum, "clips": 0, "frames": 0})
        entry["clips"] += 1
        entry["frames"] += row["frames"]
    return {"manifest_hash": manifest_hash(store), "sources": [sources[key] for key in sorted(sources)]}


def thinned(points: list[tuple[int, float]], most: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """(step, value) in order, neighbours averaged into at most `most` points, each at its last step."""
    points = sorted(points)
    size = -(-len(points) // most) or 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
