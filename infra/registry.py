"""The model registry (MLflow): registering versions with their provenance, scores as tags, finding a model by name."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from codec.api import CONFIG_FILE, WEIGHTS_FILE, find_model, load_codec, save_codec
from codec.builtin import builtin_models, builtin_names
from codec.errors import BitreelError, UsageError
from infra.provenance import code_version, environment, manifest_hash
from infra.tracking import ask, connect, tracking_uri, without_login, without_logins
from trainers.recipe import Recipe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
JOURNAL_SUFFIX = ".promotions"  # of the registered model that is a model's journal of promotions
SCORE = "score."  # prefix of the tags that hold scores
# Tag, while an evaluation's scores take the place of another's: stopped in between, neither's count.
REPLACING = "scores_being_replaced"
COMPARED_WITH = "compared_with"  # tag: the champion that scores against the champion were measured with
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HASH = re.compile(r"[0-9a-f]{64}")
_TURNS = 5  # to put fetched files into the cache while others do the same


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model. scores: figure by name; aliases that point to it; tags: everything else noted."""

    name: str
    version: int
    run_id: str
    source: str
    created_ms: int
    aliases: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def model_hash(self) -> str:
        return self.tags.get("model_hash", "")


def register_version(
    name: str,
    checkpoint: Path,
    run_id: str,
    *,
    recipe: Recipe | None = None,
    store: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Register the codec of a checkpoint folder as the next version of `name` and give its number.

    The version keeps, as plain files below the run: weights, config, recipe, and provenance.json with the data's
    manifest hash, the code's version and the environment. Raises UsageError for a bad name, a built-in model's name or
    no model at `checkpoint`, BitreelError where the model is damaged or MLflow can't be reached.
    """
    check_free_name(name)
    codec = load_codec(checkpoint)
    codec.display_name = name  # streams carry it, so that their decoder finds the model again
    model_hash = codec.model_hash().hex()
    uri = tracking_uri()
    client = connect(uri)
    provenance = {
        "model_hash": model_hash,
        "manifest_hash": manifest_hash(store) if store else "",
        "code_version": code_version(),
        "environment": environment(),
    }
    place = f"versions/{model_hash[:16]}"

    def register() -> int:
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory(prefix="bitreel-register-") as scratch:
            folder = Path(scratch)
            save_codec(codec, folder)
            (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
            if recipe is not None:
                (folder / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=2) + "\n")
            client.log_artifacts(run_id, str(folder), place)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        noted = {key: str(provenance[key]) for key in ("model_hash", "manifest_hash", "code_version")}
        made = client.create_model_version(name, source, run_id, tags=noted | dict(tags or {}))
        return int(made.version)

    return ask(uri, register)


def record_scores(name: str, version: int, scores: Mapping[str, float], notes: Mapping[str, str] | None = None) -> None:
    """Write scores to a version (tags `score.NAME`), replacing ones of the same name; `notes` become plain tags.

    A score against the champion goes with the note `compared_with`, the champion's version at that time.
    """
    client = connect()

    def write() -> None:
        for key, value in scores.items():
            client.set_model_version_tag(name, str(version), SCORE + key, repr(float(value)))
        for key, text in (notes or {}).items():
            client.set_model_version_tag(name, str(version), key, text)

    ask(tracking_uri(), write)


def replace_scores(
    name: str, version: int, scores: Mapping[str, float], notes: Mapping[str, str] | None = None
) -> None:
    """`record_scores`, and what earlier evaluations left goes: it was measured on other videos, or against a champion
    that has been replaced since. Stopped in between, the version has no scores until an evaluation is noted whole."""
    client = connect()

    def drop() -> None:
        client.set_model_version_tag(name, str(version), REPLACING, "yes")
        tags = client.get_model_version(name, str(version)).tags
        stale = [key for key in tags if key.startswith(SCORE) and key.removeprefix(SCORE) not in scores]
        for key in [COMPARED_WITH] * (COMPARED_WITH in tags) + stale:
            client.delete_model_version_tag(name, str(version), key)

    ask(tracking_uri(), drop)
    record_scores(name, version, scores, notes)
    drop_tags(name, version, [REPLACING])


def drop_tags(name: str, version: int, keys: Sequence[str]) -> None:
    """Take tags of a version away."""
    client = connect()
    for key in keys:
        ask(tracking_uri(), partial(client.delete_model_version_tag, name, str(version), key))


def list_models() -> list[str]:
    """Names of all registered models; journals of promotions are none."""
    client = connect()
    found = ask(tracking_uri(), lambda: client.search_registered_models(max_results=1000))
    return sorted(model.name for model in found if not model.name.endswith(JOURNAL_SUFFIX))


def list_versions(name: str) -> list[ModelVersion]:
    """All versions, oldest first. Raises UsageError for an unknown model."""
    client = connect()
    aliases = _aliases(client, name)
    quoted = name.replace("'", "")
    found = ask(tracking_uri(), lambda: client.search_model_versions(f"name='{quoted}'", max_results=10_000))
    return sorted((_version(item, aliases) for item in found), key=lambda item: item.version)


def get_version(name: str, which: str | None) -> ModelVersion:
    """A version by number or alias; None is the newest. Raises UsageError naming what there is."""
    versions = list_versions(name)
    if not versions:
        raise UsageError(f"model '{name}' has no versions yet; `bitreel train --name {name}` makes one")
    if which is None:
        return versions[-1]
    for item in versions:
        if which == str(item.version) or which in item.aliases:
            return item
    aliases = sorted(alias for item in versions for alias in item.aliases)
    there = f"versions {', '.join(str(item.version) for item in versions)}; aliases {', '.join(aliases) or 'none'}"
    raise UsageError(f"model '{name}' has no version or alias '{which}'; it has {there}")


def set_alias(name: str, alias: str, version: int) -> None:
    """Point an alias to a version."""
    client = connect()
    ask(tracking_uri(), lambda: client.set_registered_model_alias(name, alias, str(version)))


def drop_alias(name: str, alias: str) -> None:
    """Take an alias away; nothing happens where there is none."""
    client = connect()
    ask(tracking_uri(), lambda: client.delete_registered_model_alias(name, alias))


def split_ref(ref: str) -> tuple[str, str | None]:
    """`name`, `name@alias`, `name@7`, `models:/name/7`, `models:/name@alias` → (name, version or alias or None)."""
    if ref.startswith("models:/"):
        rest = ref.removeprefix("models:/").strip("/")
        ref = rest.replace("/", "@", 1) if "@" not in rest else rest
    name, at, which = ref.partition("@")
    if not name or (at and not which):
        raise UsageError(f"model '{ref}': expected NAME, NAME@ALIAS, NAME@VERSION, models:/NAME/VERSION or a folder")
    return name, which or None


def resolve_model(ref: str) -> Path:
    """The checkpoint folder of a REF, which means, in this order: a checkpoint folder at that path; with `@` or
    `models:/`, a registered version; a built-in model; a registered model's champion. Registered versions are fetched
    into the cache and checked against their hash.

    So a built-in model hides a registered one of the same name from bare names (`check_free_name` lets none come
    into being); `name@champion` still finds it.

    Raises UsageError for an unknown model, version or alias, BitreelError where MLflow can't be reached or the
    registered files are missing or damaged.
    """
    folder = local_model(ref)
    return folder if folder is not None else fetch_version(version_of(ref))


def local_model(ref: str) -> Path | None:
    """The folder of a REF that needs no registry, a path or a built-in model; None where the registry has to be asked.

    Raises UsageError for what is written as a path but holds no model.
    """
    folder = find_model(ref)
    if folder is None and (ref.startswith((".", "/", "~")) or ref.endswith("/")):
        raise UsageError(f"no model at '{ref}': a checkpoint folder holds {CONFIG_FILE} and {WEIGHTS_FILE}")
    return folder


def version_of(ref: str) -> ModelVersion:
    """The registered version that a REF of the registry means; a bare name is its champion. Raises UsageError."""
    name, which = split_ref(ref)
    check_no_journal(name)
    return get_version(name, which or CHAMPION)


def fetch_version(version: ModelVersion) -> Path:
    """A local folder with the version's files; kept in the cache by name and model hash. Raises as `resolve_model`.

    Files whose hash the registry does not tell are not taken. Name and hash become a folder's name, and are what
    anybody who can write to the registry says, so they have to look like what they are.
    """
    label = f"{version.name}@{version.version}"
    if not _NAME.fullmatch(version.name) or not _HASH.fullmatch(version.model_hash):
        raise BitreelError(
            f"{label}: the registry tells no proper model_hash for it, so its files can't be checked; register it anew"
        )
    cached = cache_folder() / f"{version.name}-{version.model_hash}"
    cached.parent.mkdir(parents=True, exist_ok=True)
    if not _holds(cached, version, label):
        scratch = Path(tempfile.mkdtemp(dir=cached.parent, prefix=".part-"))
        try:
            got = _download(version, label, scratch)
            _verify(got, version, label)
            for turn in range(_TURNS):
                if _take_place(got, cached, scratch / f"old-{turn}", version, label):
                    break
            else:
                _verify(cached, version, label)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return cached


def cache_folder() -> Path:
    """Where fetched models are kept: $XDG_CACHE_HOME/bitreel/models, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitreel" / "models"


def check_name(name: str) -> None:
    """Raises UsageError for a model name that a REF or a path could not carry."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"model name '{name}': use letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )


def check_no_journal(name: str) -> None:
    """Raises UsageError for the name of a model's journal of promotions, which the registry holds like a model."""
    if name.endswith(JOURNAL_SUFFIX):
        raise UsageError(f"model name '{name}': names that end with {JOURNAL_SUFFIX} are journals of promotions")


def check_free_name(name: str) -> None:
    """Raises UsageError for a name that a new model can't have: a bad one, or a built-in model's."""
    check_name(name)
    check_no_journal(name)
    if name in builtin_models():
        raise UsageError(f"model name '{name}' is a built-in model's; choose another")


def _download(version: ModelVersion, label: str, target: Path) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        got = ask(
            tracking_uri(),
            lambda: download_artifacts(
                artifact_uri=version.source, dst_path=str(target / "files"), tracking_uri=tracking_uri()
            ),
        )
    except (MlflowException, OSError, ValueError) as error:  # ValueError: MLflow, of a URI that makes no sense to it
        first = without_logins(str(error), tracking_uri()).splitlines()[0]
        where = without_login(version.source)
        raise BitreelError(f"the files of {label} can't be fetched from '{where}': {first}") from error
    # Some stores give the folder itself, others a folder that holds it.
    found = [Path(got), *Path(got).iterdir()] if Path(got).is_dir() else []
    for folder in found:
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise BitreelError(f"{label}: no {CONFIG_FILE} at '{version.source}'; register the model anew")


def _take_place(folder: Path, place: Path, aside: Path, version: ModelVersion, label: str) -> bool:
    """Rename `folder` to `place` unless a good copy, somebody else's, is there; False: a damaged one was, and went
    aside. Readers of a good copy never see it go."""
    try:
        folder.rename(place)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if _holds(place, version, label):
        return True
    with contextlib.suppress(FileNotFoundError):
        place.rename(aside)
    return False


def _holds(folder: Path, version: ModelVersion, label: str) -> bool:
    """Whether the version's files are there, undamaged."""
    try:
        _verify(folder, version, label)
    except BitreelError:
        return False
    return True


def _verify(folder: Path, version: ModelVersion, label: str) -> None:
    if not (folder / WEIGHTS_FILE).is_file():
        raise BitreelError(f"{label}: no {WEIGHTS_FILE} at '{version.source}'; register the model anew")
    found = load_codec(folder).model_hash().hex()
    if found != version.model_hash:
        raise BitreelError(f"{label}: the files are not the registered model (hash {found[:12]}); register it anew")


def _aliases(client: MlflowClient, name: str) -> dict[int, list[str]]:
    from mlflow.exceptions import MlflowException

    try:
        model = ask(tracking_uri(), lambda: client.get_registered_model(name))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        if name in builtin_models():
            raise UsageError(f"'{name}' is a built-in model and has no versions: name it alone") from error
        known = ", ".join(list_models()) or "none yet"
        raise UsageError(
            f"no model '{name}' in the registry; there: {known}; built-in models: {builtin_names()}"
        ) from error
    found: dict[int, list[str]] = {}
    for alias, number in model.aliases.items():
        found.setdefault(int(number), []).append(alias)
    return found


def _version(item: MlflowVersion, aliases: dict[int, list[str]]) -> ModelVersion:
    number = int(item.version)
    counting = {} if REPLACING in item.tags else item.tags
    scores = {key.removeprefix(SCORE): _number(text) for key, text in counting.items() if key.startswith(SCORE)}
    return ModelVersion(
        name=item.name,
        version=number,
        run_id=item.run_id or "",
        source=item.source or "",
        created_ms=int(item.creation_timestamp),
        aliases=tuple(sorted(aliases.get(number, ()))),
        scores=scores,
        tags={key: text for key, text in item.tags.items() if not key.startswith(SCORE)},
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
