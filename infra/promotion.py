"""Promotion: an alias moves to a version only if every rule of a gate holds for the version's scores."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from codec.errors import UsageError
from infra.registry import CHAMPION, PREVIOUS, ModelVersion, get_version, list_versions, set_alias

DEFAULT_GATE = "gate-default"
COMPARED_WITH = "compared_with"  # tag: the champion that scores against the champion were measured with
_ALIAS = re.compile(r"(?!v\d+$|latest$|\d+$)[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Rule:
    """One condition on one score.

    score: the score's name. min, max: limits, both included. required: a missing score fails the rule.
    against: "champion" for a score that compares with the champion; such a rule does not apply while there is no
    other champion, and fails where the score was measured against a champion that has been replaced since.
    """

    score: str
    min: float | None = None
    max: float | None = None
    required: bool = True
    against: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """How one rule came out. value None: not measured; `holds` None: does not apply."""

    score: str
    value: float | None
    limit: str
    holds: bool | None
    reason: str


@dataclass(frozen=True)
class GateResult:
    """passed: every rule that applies holds. moved: the alias points to the version now and did not before."""

    name: str
    version: int
    alias: str
    previous: int | None
    passed: bool
    moved: bool
    dry_run: bool
    verdicts: tuple[Verdict, ...]


def promote(
    name: str,
    which: str | None = None,
    *,
    gate: str | Path = DEFAULT_GATE,
    alias: str = CHAMPION,
    dry_run: bool = False,
) -> GateResult:
    """Judge a version (number or alias, None: the newest) by a gate and move `alias` to it if every rule holds.

    A champion that is replaced keeps the alias `previous`. `gate` is a name from configs/ or a TOML file. Raises
    UsageError for an unknown model, version or gate, or an alias that can't be used.
    """
    rules = load_gate(gate)
    if not _ALIAS.fullmatch(alias) or alias == PREVIOUS:
        raise UsageError(f"--to '{alias}': not usable as an alias; take a word such as '{CHAMPION}' or 'candidate'")
    version = get_version(name, which)
    holders = {item: entry for entry in list_versions(name) for item in entry.aliases}
    before = holders.get(alias)
    champion = holders.get(CHAMPION)
    verdicts = tuple(judge(rule, version, champion) for rule in rules)
    passed = all(verdict.holds is not False for verdict in verdicts)
    moves = passed and not dry_run and (before is None or before.version != version.version)
    if moves:
        if before is not None and alias == CHAMPION:  # first, so that a stop between the two loses nothing
            set_alias(name, PREVIOUS, before.version)
        set_alias(name, alias, version.version)
    return GateResult(
        name, version.version, alias, before.version if before else None, passed, moves, dry_run, verdicts
    )


def judge(rule: Rule, version: ModelVersion, champion: ModelVersion | None) -> Verdict:
    """How `version` does by one rule."""
    value = version.scores.get(rule.score)
    limit = " and ".join(
        f"{word} {bound:g}" for word, bound in (("at least", rule.min), ("at most", rule.max)) if bound is not None
    )

    def verdict(holds: bool | None, reason: str) -> Verdict:
        return Verdict(rule.score, value, limit, holds, reason)

    if rule.against == CHAMPION:
        if champion is None:
            return verdict(None, "no champion yet")
        if champion.version == version.version:
            return verdict(None, "is the champion itself")
        measured_with = version.tags.get(COMPARED_WITH)
        if value is not None and measured_with not in (None, str(champion.version)):
            return verdict(False, f"measured against version {measured_with}; the champion is {champion.version}")
    if value is None:
        return verdict(False, "not measured") if rule.required else verdict(None, "not measured, optional")
    if math.isnan(value):
        return verdict(False, "not a number")
    holds = (rule.min is None or value >= rule.min) and (rule.max is None or value <= rule.max)
    return verdict(holds, rule.why)


def load_gate(ref: str | Path) -> list[Rule]:
    """The rules of a gate file, or of a name from configs/. Raises UsageError for a missing or bad file."""
    path = Path(ref)
    named = "/" not in str(ref) and path.suffix != ".toml"
    source = resources.files("configs").joinpath(f"{ref}.toml") if named else path
    try:
        data = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"gate '{ref}' can't be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"gate '{ref}': not valid TOML: {error}") from error
    rules = data.get("rules")
    if set(data) != {"rules"} or not isinstance(rules, list) or not rules:
        raise UsageError(f"gate '{ref}': expected [[rules]] blocks, at least one, and nothing else")
    return [_rule(item, f"gate '{ref}': rule {index}") for index, item in enumerate(rules)]


def _rule(data: Any, where: str) -> Rule:
    if not isinstance(data, dict) or not isinstance(data.get("score"), str) or not data["score"]:
        raise UsageError(f"{where}: needs `score`, a score's name")
    where = f"{where} '{data['score']}'"
    known = Rule.__dataclass_fields__
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise UsageError(f"{where}: unknown setting {', '.join(unknown)}; known: {', '.join(known)}")
    for key in ("min", "max"):
        value = data.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value)):
            raise UsageError(f"{where}: {key} must be a number, not {value!r}")
    if data.get("min") is None and data.get("max") is None:
        raise UsageError(f"{where}: needs `min` or `max`")
    if not isinstance(data.get("required", True), bool):
        raise UsageError(f"{where}: required must be true or false")
    if data.get("against") not in (None, CHAMPION):
        raise UsageError(f"{where}: against can only be '{CHAMPION}'")
    if not isinstance(data.get("why", ""), str):
        raise UsageError(f"{where}: why must be a text")
    return Rule(**data)
