"""The journal of a model's promotions: who moved an alias is decided here, aliases only follow.

MLflow can't move an alias on condition that nobody else has moved it, and `champion` with `previous` is two writes. But
it gives each version of a registered model a number that no other has. So the journal of model NAME is the registered
model `NAME.promotions`, one version an entry. An entry says which entry it follows; the first that follows a given
one counts, all others have lost. Whoever reads the whole journal comes to the same verdict:

    1 follows 0 ── counts          2 follows 0 ── lost (1 was first)          3 follows 1 ── counts

Aliases are written after an entry counts, and it is marked applied after that. Whoever is stopped in between leaves an
entry for the next command to finish.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from codec.errors import BitreelError
from infra.registry import CHAMPION, JOURNAL_SUFFIX, PREVIOUS, ModelVersion, list_versions, set_alias
from infra.tracking import ask, connect, tracking_uri

_MARK = "bitreel."  # prefix of an entry's tags
_TRIES = 12  # of an entry's creation, where many write at once
_CROWDED = ("locked", "version creation error", "already exists", "unique constraint", "deadlock")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """number: 1 and up; follows: the entry whose outcome it was decided on, 0 for none; aliases: where all aliases that
    the journal keeps point to after it; notes: what the decision rests on; applied: the aliases were written."""

    number: int
    follows: int
    what: str
    aliases: dict[str, int]
    notes: dict[str, str]
    applied: bool
    created_ms: int


@dataclass(frozen=True)
class Standing:
    """What the journal says now. number: of the entry that counts last, 0 for none; repaired: what had to be done so
    that the aliases say the same; lost: aliases whose versions are gone from the registry, and that nobody has set to
    others by hand."""

    number: int
    aliases: dict[str, int]
    repaired: tuple[str, ...]
    lost: dict[str, int] = field(default_factory=dict)


class PromotionJournal:
    """The journal of one registered model. All methods raise BitreelError where MLflow does not answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = name + JOURNAL_SUFFIX
        self._uri = tracking_uri()
        self._client = connect(self._uri)

    def entries(self) -> list[Entry]:
        """All entries, oldest first. Raises BitreelError where one that others rest on is gone or unreadable."""
        quoted = self.model.replace("'", "")
        found = _patiently(
            lambda: ask(self._uri, lambda: self._client.search_model_versions(f"name='{quoted}'", max_results=10_000))
        )
        try:
            return sorted((_entry(item.version, item.tags, item.creation_timestamp) for item in found), key=_number)
        except (KeyError, ValueError) as error:
            raise BitreelError(
                f"the registered model '{self.model}' holds something that is no entry of a journal ({error}); "
                "it is kept by bitreel alone: delete what was added by hand"
            ) from error

    def counting(self) -> list[Entry]:
        """The entries that count, oldest first."""
        counted: list[Entry] = []
        known = {0}
        for entry in self.entries():
            if entry.follows not in known:
                raise BitreelError(
                    f"entry {entry.follows} of the journal '{self.model}' is gone, and entry {entry.number} rests on "
                    "it; restore it from a backup of MLflow's database"
                )
            known.add(entry.number)
            if entry.follows == (counted[-1].number if counted else 0):
                counted.append(entry)
        return counted

    def settle(self, write: bool = True) -> Standing:
        """Make the aliases say what the journal says, finishing what another left half done; give what it says.

        Where no journal is there yet, the aliases are taken as they are. write: without, nothing is touched.
        """
        versions = list_versions(self.name)
        counted = self.counting()
        if not counted:
            return Standing(0, {a: n for a, n in _pointed(versions).items() if a in (CHAMPION, PREVIOUS)}, ())
        return self._apply(counted[-1], versions) if write else _standing(counted[-1], versions, ())

    def claim(
        self, standing: Standing, aliases: Mapping[str, int], what: str, version: ModelVersion, notes: Mapping[str, str]
    ) -> bool:
        """Enter that all aliases shall be `aliases`, decided on `standing`; whether it counts. Where it does the
        aliases are written."""
        token = uuid.uuid4().hex
        tags = {_MARK + "note." + key: text for key, text in notes.items()}
        tags |= {
            _MARK + "follows": str(standing.number), _MARK + "what": what,
            _MARK + "aliases": json.dumps(dict(aliases), sort_keys=True), _MARK + "token": token,
        }  # fmt: skip
        self._create(version, tags, token, what)
        counted = self.counting()
        won = any(entry.notes.get("token") == token for entry in counted)
        if won:
            self.settle()
        return won

    def _create(self, version: ModelVersion, tags: dict[str, str], token: str, what: str) -> None:
        from mlflow.exceptions import MlflowException

        def make_model() -> None:
            try:
                self._client.create_registered_model(
                    self.model, description=f"Journal of {self.name}'s promotions, one version an entry. Not a model."
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

        def make_entry() -> None:
            # A try that seemed to fail may have succeeded.
            if any(entry.notes.get("token") == token for entry in self.entries()):
                return
            self._client.create_model_version(
                self.model, version.source, version.run_id or None, tags=tags, description=what
            )

        for step in (make_model, make_entry):
            _patiently(partial(ask, self._uri, step))

    def _apply(self, entry: Entry, versions: list[ModelVersion]) -> Standing:
        """Write the aliases of the entry that counts last, until none has come after it."""
        repaired: list[str] = []
        while True:
            pointed, there = _pointed(versions), {item.version for item in versions}
            # `champion` comes last: with it the promotion is seen.
            for alias, number in sorted(entry.aliases.items(), key=lambda item: (item[0] == CHAMPION, item[0])):
                held = pointed.get(alias)
                if number not in there:
                    repaired.append(f"'{alias}' should be version {number}, which is gone from the registry")
                elif held != number:
                    if not self._set(alias, number):
                        repaired.append(f"'{alias}' can't be an alias, says MLflow; the journal's entry is passed over")
                    elif entry.applied:
                        where = "nothing" if held is None else f"version {held}"
                        repaired.append(
                            f"'{alias}' pointed to {where} and is back at version {number}, as the journal says"
                        )
            if not entry.applied:
                _patiently(partial(self._mark_applied, entry.number))
            # Somebody faster may have entered and applied more while this was slow to write.
            newest = self.counting()[-1]
            if newest.number == entry.number:
                return _standing(entry, versions, tuple(repaired))
            entry, versions = newest, list_versions(self.name)

    def _set(self, alias: str, number: int) -> bool:
        """Point an alias to a version; False where MLflow takes no such alias."""
        from mlflow.exceptions import MlflowException

        try:
            _patiently(partial(set_alias, self.name, alias, number))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            return False
        return True

    def _mark_applied(self, number: int) -> None:
        ask(
            self._uri,
            lambda: self._client.set_model_version_tag(self.model, str(number), _MARK + "applied", "yes"),
        )


def _standing(entry: Entry, versions: list[ModelVersion], repaired: tuple[str, ...]) -> Standing:
    """What an entry says, of the versions that there are."""
    pointed, there = _pointed(versions), {item.version for item in versions}
    aliases = {alias: number for alias, number in entry.aliases.items() if number in there}
    for alias in (CHAMPION, PREVIOUS):  # one that the journal knows nothing of was set by hand
        if alias not in aliases and alias in pointed:
            aliases[alias] = pointed[alias]
    lost = {alias: number for alias, number in entry.aliases.items() if alias not in aliases}
    return Standing(entry.number, aliases, repaired, lost)


def _patiently(work: Callable[[], _T]) -> _T:
    """Run against a registry that several write to at once: a number taken by another, a locked database, is tried
    again."""
    from mlflow.exceptions import MlflowException

    for attempt in range(_TRIES):
        try:
            return work()
        except (MlflowException, BitreelError) as error:
            if attempt == _TRIES - 1 or not _is_crowded(error):
                raise
            time.sleep(random.uniform(0.02, 0.1) * 2 ** min(attempt, 5))
    raise AssertionError("unreachable")


def _is_crowded(error: Exception) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in _CROWDED)


def _pointed(versions: list[ModelVersion]) -> dict[str, int]:
    return {alias: item.version for item in versions for alias in item.aliases}


def _number(entry: Entry) -> int:
    return entry.number


def _entry(number: str, tags: Mapping[str, str], created_ms: int) -> Entry:
    plain = {key.removeprefix(_MARK): text for key, text in tags.items() if key.startswith(_MARK)}
    aliases = {str(alias): int(version) for alias, version in json.loads(plain["aliases"]).items()}
    notes = {key.removeprefix("note."): text for key, text in plain.items() if key.startswith("note.")}
    notes["token"] = plain["token"]
    return Entry(int(number), int(plain["follows"]), plain["what"], aliases, notes, "applied" in plain, int(created_ms))
