"""The journal of promotions: of two at once one wins, what is half done is finished, what was moved is put back."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from codec.api import CODECS, create_codec, save_codec
from codec.errors import BitreelError, UsageError
from infra import promotion_journal
from infra.promotion import promote, roll_back
from infra.promotion_journal import PromotionJournal
from infra.registry import (
    COMPARED_WITH,
    SCORE,
    get_version,
    list_models,
    list_versions,
    record_scores,
    register_version,
    set_alias,
)
from infra.tracking import connect, start_run, tracking_uri
from tests.infra.mlflow_server import running_server
from tests.infra.promotion_racer import Racer

FOUR = ["cams", "dogs", "cats", "cars"]  # each with a journal that does not grow so long that reading it is the work
GATE = "[[rules]]\nscore = 'bd_rate_vs_champion'\nmax = 0\nagainst = 'champion'\n"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, mlflow_home: Path) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")
    Path("gate.toml").write_text(GATE)


def new_versions(count: int, champion: int | None = None, name: str = "cams") -> list[int]:
    folder = Path.cwd() / "checkpoint"
    save_codec(create_codec("tiny", {}), folder)
    run = start_run("made").run_id
    made = [register_version(name, folder, run) for _ in range(count)]
    for version in made:
        if champion is not None:
            record_scores(name, version, {"bd_rate_vs_champion": -1.0}, {"compared_with": str(champion)})
    return made


def aliases(name: str = "cams") -> dict[str, int]:
    return {alias: version.version for version in list_versions(name) for alias in version.aliases}


def test_promotions_are_entered_and_rolled_back() -> None:
    new_versions(1)
    promote("cams", "1", gate="gate.toml")
    new_versions(1, champion=1)
    assert promote("cams", "2", gate="gate.toml").moved
    assert aliases() == {"champion": 2, "previous": 1}
    assert get_version("cams", "2").tags["gate.bd_rate_vs_champion"] == "holds: -1 (at most 0)"
    assert get_version("cams", "2").tags["gate_verdict"] == "passed"
    assert roll_back("cams") == (1, 2)
    assert aliases() == {"champion": 1, "previous": 2}
    counted = PromotionJournal("cams").counting()
    assert [entry.what for entry in counted] == [
        "'champion': no version → version 1",
        "'champion': version 1 → version 2",
        "rolled back: 'champion': version 2 → version 1",
    ]
    assert all(entry.applied for entry in PromotionJournal("cams").entries())
    assert list_models() == ["cams"], "a journal is no model"


def test_nothing_to_roll_back_to() -> None:
    new_versions(1)
    with pytest.raises(UsageError, match="no 'previous'"):
        roll_back("cams")


@pytest.mark.parametrize("writes", [0, 1])
def test_a_promotion_that_stopped_in_between_is_finished_by_the_next_command(
    writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_versions(1)
    promote("cams", "1", gate="gate.toml")
    new_versions(2, champion=1)
    done: list[str] = []

    def dying(name: str, alias: str, version: int) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(alias)
        set_alias(name, alias, version)

    with monkeypatch.context() as patch:
        patch.setattr(promotion_journal, "set_alias", dying)
        with pytest.raises(KeyboardInterrupt):
            promote("cams", "2", gate="gate.toml")
    assert aliases()["champion"] == 1, "not seen yet"
    late = promote("cams", "3", gate="gate.toml")  # its scores were measured against version 1, which is replaced
    assert not late.passed and late.previous == 2
    assert aliases() == {"champion": 2, "previous": 1}


def test_an_alias_moved_by_hand_is_put_back_and_that_is_said() -> None:
    new_versions(2)
    promote("cams", "1", gate="gate.toml")
    set_alias("cams", "champion", 2)
    result = promote("cams", "1", gate="gate.toml")
    assert aliases()["champion"] == 1 and not result.moved
    assert "pointed to version 2 and is back at version 1" in result.repaired[0]


def test_what_was_set_before_there_was_a_journal_stays() -> None:
    new_versions(3)
    set_alias("cams", "champion", 2)
    set_alias("cams", "mine", 1)
    record_scores("cams", 3, {"bd_rate_vs_champion": -1.0}, {"compared_with": "2"})
    assert promote("cams", "3", gate="gate.toml").previous == 2
    assert aliases() == {"champion": 3, "previous": 2, "mine": 1}


def test_a_gap_in_the_journal_is_told() -> None:
    new_versions(1)
    promote("cams", "1", gate="gate.toml")
    new_versions(1, champion=1)
    promote("cams", "2", gate="gate.toml")
    connect(tracking_uri()).delete_model_version("cams.promotions", "1")
    with pytest.raises(BitreelError, match=r"entry 1 of the journal 'cams\.promotions' is gone"):
        promote("cams", "2", gate="gate.toml")


def entrants(name: str, champion: int) -> list[int]:
    """Two more versions of a model, with the files of its first and scores against the champion."""
    client, first = connect(tracking_uri()), get_version(name, "1")
    tags = {"model_hash": first.model_hash, SCORE + "bd_rate_vs_champion": "-1.0", COMPARED_WITH: str(champion)}
    return [int(client.create_model_version(name, first.source, first.run_id, tags).version) for _ in range(2)]


def begin(name: str) -> int:
    new_versions(1, name=name)
    promote(name, "1", gate="gate.toml")
    return 1


def winner(name: str, pair: list[int], champion: int) -> int:
    """Which of the two is champion, in place of the one before."""
    held = aliases(name)
    assert held["champion"] in pair, "one of them has won"
    assert held["previous"] == champion
    return held["champion"]


def race(names: list[str], rounds: int) -> None:
    """So many races for each model, all between the same two processes."""
    racers = [Racer(str(Path("gate.toml").absolute())) for _ in range(2)]
    for name in names:
        champion = begin(name)
        for _ in range(rounds):
            pair = entrants(name, champion)
            for racer, version in zip(racers, pair, strict=True):
                racer.start(name, version)
            moved = [racer.moved() for racer in racers]
            assert sorted(moved) == [False, True], "never two winners, never none"
            champion = winner(name, pair, champion)
            assert champion == pair[moved.index(True)]
        counted = PromotionJournal(name).counting()
        assert [entry.aliases["champion"] for entry in counted][-1] == champion and len(counted) == rounds + 1
    for racer in racers:
        racer.end()
    entries, races = sum(len(PromotionJournal(name).entries()) for name in names), len(names) * rounds
    print(f"{races} races, one winner each; in {entries - races - len(names)} both had made an entry")


def race_to_the_death(name: str, deaths: int) -> None:
    """So many races in which one process is killed, at moments from the beginning of its promotion to the end: what it
    left is finished by the other, or comes to nothing."""
    gate, chance = str(Path("gate.toml").absolute()), random.Random(0)
    rival, champion = Racer(gate), begin(name)
    whole = Racer(gate, told=True)
    champion, former = entrants(name, champion)[0], champion
    begun = time.monotonic()
    whole.start(name, champion)
    questions = whole.questions()
    each = (time.monotonic() - begun) / questions
    whole.end()
    assert aliases(name)["previous"] == former
    seen: Counter[str] = Counter()
    for number in range(deaths):
        victim = Racer(gate, told=True)
        pair = entrants(name, champion)
        together = bool(number % 2)
        victim.start(name, pair[0])
        if together:
            rival.start(name, pair[1])
        victim.wait_for_question(1 + number * questions // deaths)
        time.sleep(chance.uniform(0, each))
        victim.kill()
        if not together:
            seen[left_behind(name, pair[0])] += 1
            rival.start(name, pair[1])
        won = rival.moved()
        champion = winner(name, pair, champion)
        assert champion == pair[won], "never two winners, never none"
        seen["won by the one that lived" if won else "won by the one that was killed"] += 1
    assert len(PromotionJournal(name).counting()) == deaths + 2
    assert PromotionJournal(name).counting()[-1].applied
    rival.end()
    print(f"one of each of {deaths} pairs killed: {dict(seen)}")


def left_behind(name: str, version: int) -> str:
    """How far its promotion had come."""
    entry = next((e for e in PromotionJournal(name).counting() if e.aliases["champion"] == version), None)
    if entry is None:
        return "died before its entry"
    if entry.applied:
        return "died after its promotion"
    seen = aliases(name).get("champion") == version
    return "died before its entry was marked" if seen else "died between its entry and the champion's alias"


def test_two_promotions_at_once() -> None:
    race(["cams"], 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_promotions_at_once_a_hundred_times() -> None:
    race(FOUR, 25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_promotions_that_are_killed() -> None:
    race_to_the_death("cams", 24)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_server(tmp_path / "server") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_promotions_at_once_a_hundred_times_through_a_server(server: str) -> None:
    race(FOUR, 25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_promotions_that_are_killed_through_a_server(server: str) -> None:
    race_to_the_death("cams", 24)
