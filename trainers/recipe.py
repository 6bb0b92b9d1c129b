"""A training recipe: which codec, and the phases it goes through in order. Recipes are data (TOML), never code."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from codec.api import QP_COUNT
from codec.errors import UsageError
from trainers.recipe_checks import Check, fill_dataclass, numbers, one_of, text, texts, whole, whole_numbers, yes_or_no

LAMBDA_LOWEST = 7.5 / 128**2  # bits per squared 8-bit error at QP 0; QP 63 is 128² times as strict
LAMBDA_HIGHEST = 7.5
CURVES = ("cosine", "linear")
LOSSES = ("cascaded", "pictures", "per-frame", "motion")
PRECISIONS = ("float32", "bf16")
KEEP_BEST = ("validation", "loss")


@dataclass(frozen=True)
class Phase:
    """One stretch of training. Pairs run from the phase's first step to its last, unless said otherwise.

    steps: optimizer steps.
    mask_fraction: share of latent channels alive at QP 0, first → last step.
    qp: lowest and highest QP, both included; each sample draws its own.
    qp_values: draw from only so many QPs, evenly spread over the range; 0 draws from all of them.
    lambda_range: λ at QP 0 and at QP 63 (bits per squared 8-bit error), log-interpolated between. TOML key `lambda`.
    balance: samples weigh λ^-balance, so that bits saved at low and at high QP count alike; 0 counts each bit the same.
    clip_frames, crop: frames of a training clip, and its side in luma pixels (a multiple of 16).
    learning_rate: first → last step along `curve`, after `warmup_steps` of rising from 0.
    field_dropout: chance that a sample trains without the conditioning field.
    frozen: parameters whose names start with one of these do not move.
    grad_clip: largest gradient norm; steeper gradients are scaled down to it.
    loss: "cascaded" carries gradients from a frame to those before it, "pictures" also through decoded frames
        (dcvc-fm), "per-frame" neither. "motion" (dcvc-fm-base) codes nothing: it trains the motion network alone, on
        frames moved by a known flow, by its end-point error in pixels.
    """

    name: str
    steps: int
    learning_rate: tuple[float, float]
    mask_fraction: tuple[float, float] = (1.0, 1.0)
    qp: tuple[int, int] = (0, QP_COUNT - 1)
    qp_values: int = 0
    lambda_range: tuple[float, float] = (LAMBDA_LOWEST, LAMBDA_HIGHEST)
    balance: float = 0.45
    clip_frames: int = 2
    crop: int = 128
    curve: str = "cosine"
    warmup_steps: int = 0
    field_dropout: float = 0.0
    frozen: tuple[str, ...] = ()
    grad_clip: float = 1.0
    loss: str = "cascaded"


@dataclass(frozen=True)
class Recipe:
    """A whole training.

    name: how runs of it are called.
    codec, codec_config: codec family, and the settings that differ from the family's defaults.
    phases: in order.
    seed: decides weights, batches, QPs and every other draw.
    batch_size: clips per step over all workers together.
    segment_frames: how many frames one intra frame and one field stand for in the objective.
    weight_decay: of AdamW.
    log_every, checkpoint_every, pictures_every: steps between; the last two are multiples of the first, so that
        no curve point is ever half finished when a checkpoint is taken. The end of a phase does all but pictures.
    keep_checkpoints: how many of the newest stay on disk.
    keep_best: beside them the best one, see `keeps_by`; "" for none.
    keep_every_hours: beside them one every so many hours; 0 for none.
    ema_decay: checkpoints hold weights averaged over about 1 / (1 - ema_decay) steps; 0 holds them as they are.
    micro_batch: clips of a forward pass, so that a large batch fits: gradients add up over a rank's share; 0: all.
    precision: "bf16" runs those networks of the codec in bfloat16 that don't have to be exact; else "float32".
    recompute: networks of a frame run once more in the backward pass, rather than being kept until then.
    validate_every: steps between validations with real bitstreams, a multiple of checkpoint_every; 0 is never. The end
        of training is one, too.
    validate_qps, validate_clips, validate_frames, validate_crop: QPs to code at; how many held-out clips, of how many
        frames, and how many luma pixels wide and high at most.
    compile: through torch.compile where the codec has networks that it may help.
    """

    name: str
    codec: str
    phases: tuple[Phase, ...]
    codec_config: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    batch_size: int = 8
    segment_frames: int = 16
    weight_decay: float = 0.0
    log_every: int = 10
    checkpoint_every: int = 100
    pictures_every: int = 100
    keep_checkpoints: int = 2
    keep_best: str = ""
    keep_every_hours: float = 0.0
    ema_decay: float = 0.0
    micro_batch: int = 0
    precision: str = "float32"
    recompute: bool = False
    compile: bool = False
    validate_every: int = 0
    validate_qps: tuple[int, ...] = (0, 9, 18, 27, 36, 45, 54, 63)
    validate_clips: int = 8
    validate_frames: int = 8
    validate_crop: int = 256

    @property
    def total_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    @property
    def keeps_by(self) -> str:
        """What the checkpoint that is kept as the best has the least of: "validation", the cost of real files, where
        `keep_best` wants that and checkpoints are validated; else "loss", training's own in its phase; or ""."""
        return "loss" if self.keep_best and not self.validate_every else self.keep_best

    def identity(self) -> dict[str, Any]:
        """What must not change between start and resume: all but what only decides how the work is done."""
        return {key: value for key, value in self.to_dict().items() if key not in _HOW}

    def to_dict(self) -> dict[str, Any]:
        """The recipe with every default filled in, as `recipe_from_dict` and JSON take it."""
        plain = dataclasses.asdict(self)
        plain["codec"] = {"family": self.codec, "config": plain.pop("codec_config")}
        for phase in plain["phases"]:
            phase["lambda"] = phase.pop("lambda_range")
        return _lists(plain)


# A run may go on with others of these: the machines it finds may have less memory or disk.
_HOW = (
    *("keep_checkpoints", "keep_best", "keep_every_hours", "micro_batch", "recompute", "compile"),
    *("validate_every", "validate_qps", "validate_clips", "validate_frames", "validate_crop"),
)
_SHARE = numbers(0.0, 1.0)
_PHASE_CHECKS: dict[str, Check] = {
    "name": text(),
    "steps": whole(1),
    "mask_fraction": numbers(0.01, 1.0, count=2),
    "qp": numbers(0, QP_COUNT - 1, count=2, integer=True, rising=True),
    "qp_values": whole(0),
    "lambda": numbers(1e-9, 1e9, count=2, rising=True),
    "balance": numbers(0.0, 1.0),
    "clip_frames": whole(1),
    "crop": whole(16, multiple_of=16),
    "learning_rate": numbers(0.0, 1.0, count=2),
    "curve": one_of(CURVES),
    "warmup_steps": whole(0),
    "field_dropout": _SHARE,
    "frozen": texts(),
    "grad_clip": numbers(1e-9, 1e9),
    "loss": one_of(LOSSES),
}
_RECIPE_CHECKS: dict[str, Check] = {
    "seed": whole(0),
    "batch_size": whole(1),
    "segment_frames": whole(1),
    "weight_decay": numbers(0.0, 10.0),
    "log_every": whole(1),
    "checkpoint_every": whole(1),
    "pictures_every": whole(1),
    "keep_checkpoints": whole(1),
    "keep_best": one_of(("", *KEEP_BEST)),
    "keep_every_hours": numbers(0.0, 1e6),
    "ema_decay": numbers(0.0, 0.999999),
    "micro_batch": whole(0),
    "precision": one_of(PRECISIONS),
    "recompute": yes_or_no(),
    "compile": yes_or_no(),
    "validate_every": whole(0),
    "validate_qps": whole_numbers(0, QP_COUNT - 1),
    "validate_clips": whole(1),
    "validate_frames": whole(1),
    "validate_crop": whole(16, multiple_of=16),
}
_SPECIAL = ("name", "codec", "phases")  # checked by hand below


def load_recipe(ref: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe of that name from configs/, or the TOML file at that path, and apply `key=value` overrides.

    Overrides name a setting by its dotted path (`batch_size=4`, `phases.0.steps=50`, `codec.config.width=32`) and give
    a TOML value; `scale_steps=0.1` makes every phase that much shorter. Raises UsageError for an unknown recipe, bad
    TOML, an unknown setting or a value out of its range.
    """
    text_, where, name = _read(ref)
    try:
        data = tomllib.loads(text_)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"recipe {where}: not valid TOML: {error}") from error
    data.setdefault("name", name)
    for override in overrides:
        _apply_override(data, override)
    return recipe_from_dict(data, where)


def recipe_from_dict(data: dict[str, Any], where: str = "recipe") -> Recipe:
    """A checked recipe from plain data; `where` names its origin in messages. Raises UsageError."""
    data = dict(data)
    unknown = sorted(set(data) - set(_RECIPE_CHECKS) - set(_SPECIAL))
    if unknown:
        known = ", ".join(sorted([*_RECIPE_CHECKS, *_SPECIAL]))
        raise UsageError(f"{where}: unknown setting {', '.join(unknown)}; known: {known}")
    name = text()(data.pop("name", "recipe"), f"{where}: name")
    codec, config = _codec_of(data.pop("codec", None), where)
    phases = data.pop("phases", None)
    if not isinstance(phases, list) or not phases:
        raise UsageError(f"{where}: no phases; a recipe has at least one [[phases]] block")
    recipe = Recipe(
        name=name,
        codec=codec,
        codec_config=config,
        phases=tuple(_phase(phase, index, where) for index, phase in enumerate(phases)),
        **fill_dataclass(data, _RECIPE_CHECKS, where),
    )
    for key in ("checkpoint_every", "pictures_every"):
        if getattr(recipe, key) % recipe.log_every:
            raise UsageError(f"{where}: {key} must be a multiple of log_every ({recipe.log_every})")
    if recipe.validate_every % recipe.checkpoint_every:
        raise UsageError(f"{where}: validate_every must be a multiple of checkpoint_every ({recipe.checkpoint_every})")
    return recipe


def _phase(data: Any, index: int, where: str) -> Phase:
    if not isinstance(data, dict):
        raise UsageError(f"{where}: phase {index} must be a [[phases]] block")
    place = f"{where}: phase {index}" + (f" '{data['name']}'" if isinstance(data.get("name"), str) else "")
    unknown = sorted(set(data) - set(_PHASE_CHECKS))
    if unknown:
        raise UsageError(f"{place}: unknown setting {', '.join(unknown)}; known: {', '.join(sorted(_PHASE_CHECKS))}")
    missing = [key for key in ("name", "steps", "learning_rate") if key not in data]
    if missing:
        raise UsageError(f"{place}: {', '.join(missing)} is missing")
    values = fill_dataclass(data, _PHASE_CHECKS, place)
    if "lambda" in values:
        values["lambda_range"] = values.pop("lambda")
    phase = Phase(**values)
    if phase.warmup_steps > phase.steps:
        raise UsageError(f"{place}: warmup_steps ({phase.warmup_steps}) is more than its steps ({phase.steps})")
    return phase


def _codec_of(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, dict) or not isinstance(value.get("family"), str) or set(value) - {"family", "config"}:
        raise UsageError(f"{where}: codec must be a table with `family` and, optionally, `config`")
    config = value.get("config", {})
    if not isinstance(config, dict):
        raise UsageError(f"{where}: codec.config must be a table")
    return value["family"], dict(config)


def _read(ref: str | Path) -> tuple[str, str, str]:
    """(text, the place for messages, recipe name)."""
    path = Path(ref)
    named = "/" not in str(ref) and path.suffix != ".toml"
    source = resources.files("configs").joinpath(f"{ref}.toml") if named else path
    try:
        return source.read_text(encoding="utf-8"), f"'{ref}'", path.stem if not named else str(ref)
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe '{ref}' is not a text file") from error
    except OSError as error:
        if not named:
            raise UsageError(f"recipe '{ref}' can't be read: {error.strerror}") from error
        raise UsageError(f"no recipe '{ref}'; known: {', '.join(recipe_names())}; or give a .toml path") from error


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package (gate files, which share the folder, left out)."""
    names = (entry.name for entry in resources.files("configs").iterdir())
    return sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml") and not n.startswith("gate-"))


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError(f"--set '{override}': expected key=value")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    if key == "scale_steps":
        _scale_steps(data, value)
        return
    *parents, last = key.split(".")
    node: Any = data
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UsageError(f"--set '{override}': '{parents[-1]}' has no settings of its own")


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if not isinstance(node, dict):
        raise UsageError(f"--set '{override}': there is no '{part}' here")
    return node.setdefault(part, {})


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise UsageError(f"--set '{override}': '{part}' is not a number from 0 to {len(node) - 1}")
    return int(part)


def _scale_steps(data: dict[str, Any], factor: Any) -> None:
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1e6:
        raise UsageError(f"--set scale_steps={factor}: expected a number above 0")
    phases = data.get("phases")
    for phase in phases if isinstance(phases, list) else []:
        for key, least in (("steps", 1), ("warmup_steps", 0)):
            if isinstance(phase, dict) and isinstance(phase.get(key), int):
                phase[key] = max(least, round(phase[key] * factor))


def _lists(value: Any) -> Any:
    """Tuples as lists, so that a recipe equals itself after JSON."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
