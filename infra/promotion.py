"""Promotion: an alias moves to a version only if every rule of a gate holds for the version's scores."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from codec.errors import BitreelError, UsageError
from infra.promotion_journal import PromotionJournal
from infra.registry import (
    CHALLENGER,
    CHAMPION,
    COMPARED_WITH,
    PREVIOUS,
    ModelVersion,
    drop_tags,
    get_version,
    list_versions,
    record_scores,
)

DEFAULT_GATE = "gate-default"
GATE = "gate."  # prefix of the tags that hold each rule's verdict
_ROLLED_BACK = "rolled back"  # what such an entry's text begins with
GATE_VERDICT = "gate_verdict"  # tag: passed, or which rules failed
_SCORE_NAME = re.compile(r"[\w\-. :/]+", re.ASCII)  # verdicts become tags, and MLflow takes no other names
# MLflow keeps some words for itself, in any case of letters, and longer ones out.
_ALIAS = re.compile(r"(?!v\d+$|latest$)[a-z][a-z0-9_-]{0,99}", re.IGNORECASE | re.ASCII)


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
    """passed: every rule that applies holds. moved: the alias points to the version now and did not before. previous:
    the version that the alias pointed to. repaired: what was put right before, see `PromotionJournal.settle`."""

    name: str
    version: int
    alias: str
    previous: int | None
    passed: bool
    moved: bool
    dry_run: bool
    verdicts: tuple[Verdict, ...]
    repaired: tuple[str, ...] = ()


def promote(
    name: str,
    which: str | None = None,
    *,
    gate: str | Path = DEFAULT_GATE,
    alias: str = CHAMPION,
    dry_run: bool = False,
    again: bool = True,
) -> GateResult:
    """Judge a version (number or alias, None: the newest) by a gate and move `alias` to it if every rule holds.

    A champion that is replaced keeps the alias `previous`. Verdicts are noted on the version (tags `gate.…`). Of two
    promotions at the same time one is first; the other is judged anew, against what holds then. `gate` is a name from
    configs/ or a TOML file. again: also a version that the alias has pointed to before, and was taken away from.
    Raises UsageError for an unknown model, version or gate, or an alias that can't be used,
    BitreelError where MLflow does not answer.
    """
    rules = load_gate(gate)
    if not _ALIAS.fullmatch(alias) or (alias != CHAMPION and alias.lower() in (CHAMPION, PREVIOUS, CHALLENGER)):
        raise UsageError(f"--to '{alias}': not usable as an alias; take a word such as '{CHAMPION}' or 'candidate'")
    number = get_version(name, which).version
    journal = PromotionJournal(name)
    repaired: tuple[str, ...] = ()
    while True:
        standing = journal.settle(write=not dry_run)
        repaired = (*repaired, *standing.repaired)
        # Read after `settle`: whatever is entered later makes the claim on this standing fail.
        been = {entry.aliases.get(alias) for entry in journal.counting()}
        by_number = {item.version: item for item in list_versions(name)}
        if number not in by_number:
            raise BitreelError(f"{name} version {number} is gone from the registry: it was deleted meanwhile")
        version, champion = by_number[number], by_number.get(standing.aliases.get(CHAMPION, 0))
        before, lost = standing.aliases.get(alias), standing.lost.get(CHAMPION)
        verdicts = tuple(judge(rule, version, champion, lost) for rule in rules)
        passed = all(verdict.holds is not False for verdict in verdicts)
        moves = passed and not dry_run and before != number and (again or number not in been)
        if not dry_run:
            notes = _gate_notes(verdicts, str(gate), champion)
            drop_tags(name, number, [key for key in version.tags if key.startswith(GATE) and key not in notes])
            record_scores(name, number, {}, notes)
        if moves:
            after = standing.aliases | {alias: number}
            if alias == CHAMPION and before is not None:
                after[PREVIOUS] = before
            held_by = f"version {before}" if before else "no version"
            what = f"'{alias}': {held_by} → version {number}"
            notes = _told_by_score(verdicts) | {"gate": str(gate)}
            if not journal.claim(standing, after, what, version, notes):
                continue  # another promotion was first, so the verdicts may be others now
        return GateResult(name, number, alias, before, passed, moves, dry_run, verdicts, repaired)


def roll_back(name: str, tell: Callable[[str], None] = lambda line: None) -> tuple[int, int]:
    """Make the previous champion champion again and the champion `previous`: (new champion, the one before).

    A rollback that another began, at the same time or before it was killed, is finished and not done twice: that would
    bring back the champion that was to go. tell: what was put right before, a line each. Raises UsageError where there
    is no previous one, BitreelError where another version was promoted at the same time.
    """
    journal = PromotionJournal(name)
    done = any(not entry.applied and entry.what.startswith(_ROLLED_BACK) for entry in journal.counting()[-1:])
    while True:
        standing = journal.settle()
        for line in standing.repaired:
            tell(line)
        champion = standing.aliases.get(CHAMPION, standing.lost.get(CHAMPION))
        previous = standing.aliases.get(PREVIOUS)
        if champion is None or previous is None:
            raise UsageError(
                f"model '{name}' has no '{PREVIOUS}' to go back to; `bitreel models {name}` lists what it has"
            )
        if done:
            return champion, previous
        after = standing.aliases | {CHAMPION: previous}
        if CHAMPION not in standing.lost:
            after[PREVIOUS] = champion
        what = f"{_ROLLED_BACK}: '{CHAMPION}': version {champion} → version {previous}"
        if journal.claim(standing, after, what, get_version(name, str(previous)), {}):
            return previous, champion
        first = journal.counting()[-1]
        done = first.what.startswith(_ROLLED_BACK)
        if not done and first.aliases.get(CHAMPION) != champion:
            raise BitreelError(
                f"version {first.aliases.get(CHAMPION)} of '{name}' was promoted at the same time, so nothing was "
                "rolled back; look at it, and roll back again if it is to go"
            )


def _gate_notes(verdicts: tuple[Verdict, ...], gate: str, champion: ModelVersion | None) -> dict[str, str]:
    """What a version's tags tell of its judgement."""
    failed = [verdict.score for verdict in verdicts if verdict.holds is False]
    return {GATE + score: told for score, told in _told_by_score(verdicts).items()} | {
        GATE_VERDICT: f"failed: {', '.join(failed)}" if failed else "passed",
        "gate_file": gate,
        "gate_champion": str(champion.version) if champion else "none",
        "gate_time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _told_by_score(verdicts: tuple[Verdict, ...]) -> dict[str, str]:
    """Several rules may be on one score."""
    told: dict[str, str] = {}
    for verdict in verdicts:
        before = f"{told[verdict.score]}; " if verdict.score in told else ""
        told[verdict.score] = before + _told(verdict)
    return told


def _told(verdict: Verdict) -> str:
    word = {True: "holds", False: "fails", None: "does not apply"}[verdict.holds]
    value = "not measured" if verdict.value is None else f"{verdict.value:.6g}"
    return f"{word}: {value} ({verdict.limit})"


def judge(rule: Rule, version: ModelVersion, champion: ModelVersion | None, lost: int | None = None) -> Verdict:
    """How `version` does by one rule. lost: the champion, where it is gone from the registry."""
    value = version.scores.get(rule.score)
    limit = " and ".join(
        f"{word} {bound:g}" for word, bound in (("at least", rule.min), ("at most", rule.max)) if bound is not None
    )

    def verdict(holds: bool | None, reason: str) -> Verdict:
        return Verdict(rule.score, value, limit, holds, reason)

    if rule.against == CHAMPION:
        if champion is None and lost is not None:
            return verdict(False, f"the champion, version {lost}, is gone from the registry; roll back or name one")
        if champion is None:
            return verdict(None, "no champion yet")
        if champion.version == version.version:
            return verdict(None, "is the champion itself")
        measured_with = version.tags.get(COMPARED_WITH)
        if value is not None and measured_with != str(champion.version):
            against = f"version {measured_with}" if measured_with else "nobody knows what"
            return verdict(False, f"measured against {against}; the champion is {champion.version}")
    if value is None:
        return (
            verdict(False, f"not measured; `bitreel evaluate --model {version.name}@{version.version}` does")
            if rule.required
            else verdict(None, "not measured, optional")
        )
    if math.isnan(value):
        return verdict(False, "not a number")
    holds = (rule.min is None or value >= rule.min) and (rule.max is None or value <= rule.max)
    return verdict(holds, rule.why or ("" if holds else f"{value:.6g} is not {limit}"))


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
    if not _SCORE_NAME.fullmatch(data["score"]):
        raise UsageError(f"{where}: a score's name has letters, digits, spaces and _-.:/ alone")
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
    if "_vs_champion" in data["score"] and data.get("against") is None:
        raise UsageError(
            f"{where}: give against = '{CHAMPION}' too, or scores against a champion long replaced would count"
        )
    if not isinstance(data.get("why", ""), str):
        raise UsageError(f"{where}: why must be a text")
    return Rule(**data)
