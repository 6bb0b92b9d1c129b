"""Promotion: the alias moves only if every rule holds, and the command says which did not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from mlflow import MlflowClient

from codec.api import CODECS, create_codec, save_codec
from codec.errors import UsageError
from infra import promotion_journal
from infra.commands import models, train
from infra.commands import promote as promote_module
from infra.promotion import Rule, judge, load_gate, promote, roll_back
from infra.promotion_journal import PromotionJournal
from infra.registry import (
    ModelVersion,
    get_version,
    list_versions,
    record_scores,
    register_version,
    replace_scores,
    set_alias,
    version_of,
)
from infra.tracking import connect, start_run

GOOD = {"decode_hash_failures": 0.0, "psnr_range_db": 17.5, "monotonic": 1.0, "estimate_error_percent": 0.4}


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, mlflow_home: Path) -> None:
    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    for command in (models, promote_module, train):
        command.register(made)
    return made


def new_version(scores: dict[str, float], notes: dict[str, str] | None = None) -> int:
    folder = Path.cwd() / "checkpoint"
    save_codec(create_codec("tiny", {}), folder)
    version = register_version("cams", folder, start_run("made").run_id)
    record_scores("cams", version, scores, notes)
    return version


def aliases() -> dict[str, int]:
    return {alias: version.version for version in list_versions("cams") for alias in version.aliases}


def test_first_version_becomes_champion_and_a_better_one_replaces_it() -> None:
    new_version(GOOD)
    first = promote("cams")
    assert first.passed and first.moved and first.previous is None
    assert {v.score: v.holds for v in first.verdicts} == dict.fromkeys(GOOD, True) | {"bd_rate_vs_champion": None}
    assert aliases() == {"champion": 1}
    assert not promote("cams", "1").moved and aliases() == {"champion": 1}

    new_version(GOOD)  # a champion is there, and nobody compared with it
    assert [v.score for v in promote("cams").verdicts if v.holds is False] == ["bd_rate_vs_champion"]
    record_scores("cams", 2, {"bd_rate_vs_champion": -2.0}, {"compared_with": "1"})
    rehearsal = promote("cams", dry_run=True)
    assert rehearsal.passed and not rehearsal.moved and aliases() == {"champion": 1}
    second = promote("cams")
    assert second.moved and second.previous == 1
    assert aliases() == {"champion": 2, "previous": 1}

    new_version(GOOD | {"bd_rate_vs_champion": -9.0}, {"compared_with": "1"})  # of a champion that is none any more
    stale = promote("cams")
    assert not stale.passed and "measured against version 1; the champion is 2" in str(stale.verdicts)
    assert aliases() == {"champion": 2, "previous": 1}


@pytest.mark.parametrize("writes", range(4))
def test_an_evaluation_that_was_cut_off_while_it_was_noted_lends_nothing_to_an_older_one(
    writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither passes; half of each would."""
    new_version(GOOD | {"decode_hash_failures": 3.0})
    assert not promote("cams").passed
    real, done = MlflowClient.set_model_version_tag, []

    def dies(*given: Any) -> None:
        if len(done) > writes:
            raise KeyboardInterrupt
        done.append(real(*given))

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(MlflowClient, "set_model_version_tag", dies)
        replace_scores("cams", 1, GOOD | {"monotonic": 0.0})
    assert get_version("cams", "1").scores == {}
    assert not promote("cams").passed and aliases() == {}
    replace_scores("cams", 1, GOOD)
    assert promote("cams").passed


def test_a_new_evaluation_leaves_nothing_of_an_older_one() -> None:
    new_version(GOOD)
    promote("cams")
    new_version(GOOD | {"bd_rate_vs_champion": -5.0}, {"compared_with": "1"})
    new_version(GOOD | {"bd_rate_vs_champion": -1.0}, {"compared_with": "1"})
    assert promote("cams", "3").moved
    # Against the new champion it has no BD-rate: the curves share too little.
    replace_scores("cams", 2, GOOD, {"compared_with": "3"})
    assert get_version("cams", "2").scores == GOOD
    refused = promote("cams", "2")
    assert [v.score for v in refused.verdicts if v.holds is False] == ["bd_rate_vs_champion"]
    record_scores("cams", 2, {"bd_rate_vs_champion": -5.0})
    replace_scores("cams", 2, {"bd_rate_vs_champion": -5.0})  # against nobody knows what
    assert not promote("cams", "2").passed and aliases() == {"champion": 3, "previous": 1}


def test_a_champion_by_hand_counts_and_one_that_is_gone_is_not_forgotten() -> None:
    for _ in range(3):
        new_version(GOOD)
    promote("cams", "1", alias="candidate")  # begins the journal, which knows no champion
    set_alias("cams", "champion", 2)
    assert [v.score for v in promote("cams", "3").verdicts if v.holds is False] == ["bd_rate_vs_champion"]
    record_scores("cams", 3, {"bd_rate_vs_champion": -1.0}, {"compared_with": "2"})
    assert promote("cams", "3").previous == 2

    connect().delete_model_version("cams", "3")
    new_version(GOOD | {"bd_rate_vs_champion": 99.0}, {"compared_with": "3"})
    refused = promote("cams", "4")
    assert "the champion, version 3, is gone from the registry" in str(refused.verdicts) and not refused.passed
    assert roll_back("cams") == (2, 3)
    assert aliases()["champion"] == 2


def test_a_rollback_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    new_version(GOOD)
    promote("cams")
    new_version(GOOD | {"bd_rate_vs_champion": -1.0}, {"compared_with": "1"})
    promote("cams")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # when it has decided, and has written no alias
        patch.setattr(promotion_journal, "set_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            roll_back("cams")
    assert aliases() == {"champion": 2, "previous": 1}
    assert roll_back("cams") == (1, 2) and aliases() == {"champion": 1, "previous": 2}
    assert roll_back("cams") == (2, 1)  # a second one, asked for on purpose

    claim, at_once = promotion_journal.PromotionJournal.claim, [True]

    def claim_late(*given: Any, **named: Any) -> bool:
        if at_once.pop() if at_once else False:
            roll_back("cams")  # somebody else was faster
        return claim(*given, **named)

    monkeypatch.setattr(promotion_journal.PromotionJournal, "claim", claim_late)
    assert roll_back("cams") == (1, 2) and aliases() == {"champion": 1, "previous": 2}


@pytest.mark.parametrize(
    ("score", "value"),
    [
        ("decode_hash_failures", 1.0),
        ("psnr_range_db", 14.99),
        ("monotonic", 0.0),
        ("estimate_error_percent", 1.01),
        ("psnr_range_db", float("nan")),
        ("psnr_range_db", None),
    ],
)
def test_one_rule_that_fails_keeps_the_alias_where_it_is(score: str, value: float | None) -> None:
    new_version(GOOD)
    promote("cams")
    scores = {
        key: item for key, item in (GOOD | {"bd_rate_vs_champion": -1.0, score: value}).items() if item is not None
    }
    new_version(scores, {"compared_with": "1"})
    result = promote("cams")
    assert [v.score for v in result.verdicts if v.holds is False] == [score]
    assert not result.passed and not result.moved and aliases() == {"champion": 1}


@pytest.mark.parametrize("alias", ["Latest", "V1", "2", "Champion", "previous", "Challenger", "a" * 200, "ä", ""])
def test_an_alias_that_mlflow_or_we_keep_for_ourselves_is_refused(alias: str) -> None:
    new_version(GOOD)
    with pytest.raises(UsageError, match="not usable as an alias"):
        promote("cams", alias=alias)
    assert promote("cams").moved, "and leaves nothing behind"


def test_an_entry_with_an_alias_that_mlflow_refuses_ends_nothing() -> None:
    number = new_version(GOOD)
    assert promote("cams").moved
    journal = PromotionJournal("cams")
    standing = journal.settle()
    journal.claim(standing, standing.aliases | {"latest": number}, "an older Bitreel's", get_version("cams", "1"), {})
    new_version(GOOD | {"bd_rate_vs_champion": -1.0}, {"compared_with": "1"})
    assert promote("cams").moved and aliases() == {"champion": 2, "previous": 1}


def test_dry_run_touches_nothing_though_an_alias_was_moved_by_hand() -> None:
    new_version(GOOD)
    promote("cams")
    new_version(GOOD | {"bd_rate_vs_champion": -1.0}, {"compared_with": "1"})
    promote("cams")
    set_alias("cams", "champion", 1)
    assert promote("cams", "2", dry_run=True).repaired == () and aliases()["champion"] == 1
    said: list[str] = []
    assert roll_back("cams", said.append) == (1, 2)
    assert said == ["'champion' pointed to version 1 and is back at version 2, as the journal says"]


def test_verdicts_are_those_of_the_last_gate(tmp_path: Path) -> None:
    new_version(GOOD)
    promote("cams")
    gate = tmp_path / "gate.toml"
    gate.write_text("[[rules]]\nscore = 'monotonic'\nmin = 1\n[[rules]]\nscore = 'monotonic'\nmax = 0\n")
    assert not promote("cams", gate=gate).passed
    tags = get_version("cams", "1").tags
    assert {key: text for key, text in tags.items() if key.startswith("gate.")} == {
        "gate.monotonic": "holds: 1 (at least 1); fails: 1 (at most 0)"
    }


def test_a_journal_is_no_model(app: typer.Typer) -> None:
    new_version(GOOD)
    promote("cams")
    for command in (["promote", "cams.promotions"], ["promote", "cams.promotions@1", "--dry-run"]):
        with pytest.raises(UsageError, match="are journals of promotions"):
            app(command, standalone_mode=False)
    with pytest.raises(UsageError, match="are journals of promotions"):
        version_of("cams.promotions@1")


def test_optional_rules_and_both_limits() -> None:
    version = ModelVersion("m", 1, "", "", 0, scores={"inside": 2.0})
    assert judge(Rule("inside", min=2, max=2), version, None).holds is True
    too_much = judge(Rule("inside", max=1.99), version, None)
    assert too_much.holds is False and too_much.reason == "2 is not at most 1.99"
    assert judge(Rule("absent", max=1, required=False), version, None).holds is None
    assert judge(Rule("absent", max=1), version, None).holds is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at least one"),
        ("[[rules]]\nmax = 1", "needs `score`"),
        ("[[rules]]\nscore = 'a'", "rule 0 'a': needs `min` or `max`"),
        ("[[rules]]\nscore = 'a'\nmax = 'x'", "max must be a number"),
        ("[[rules]]\nscore = 'a'\nmax = 1\nmaximum = 1", "unknown setting maximum"),
        ("[[rules]]\nscore = 'a'\nmax = 1\nagainst = 'me'", "against can only be"),
        ("[[rules]]\nscore = 'bd rate (x)'\nmax = 1", "a score's name has letters"),
        ("[[rules]]\nscore = 'bd_rate_worst_vs_champion'\nmax = 1", "give against = 'champion' too"),
        ("[[rules]", "not valid TOML"),
    ],
)
def test_a_bad_gate_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_gate(gate)
    with pytest.raises(UsageError, match="can't be read"):
        load_gate(tmp_path / "missing.toml")


def test_commands(app: typer.Typer, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    new_version(GOOD | {"monotonic": 0.0})
    figures = tmp_path / "gate.json"
    assert app(["promote", "cams", "--json", str(figures)], standalone_mode=False) == 1
    said = capsys.readouterr().out
    assert "not promoted: monotonic failed; 'champion' stays with no version" in said
    assert "17.5" in said
    assert json.loads(figures.read_text())["passed"] is False and aliases() == {}
    gate = tmp_path / "gate.toml"
    gate.write_text("[[rules]]\nscore = 'psnr_range_db'\nmin = 17\n")
    assert app(["promote", "cams@1", "--gate", str(gate), "--to", "candidate"], standalone_mode=False) == 0
    assert "promoted: 'candidate' moved from no version to cams version 1" in capsys.readouterr().out
    assert get_version("cams", "candidate").version == 1
    with pytest.raises(UsageError, match="not usable as an alias"):
        app(["promote", "cams", "--to", "v7"], standalone_mode=False)

    with pytest.raises(UsageError, match="model's name alone"):
        app(["promote", "cams@1", "--rollback"], standalone_mode=False)
    with pytest.raises(UsageError, match="no 'previous' to go back to"):
        app(["promote", "cams", "--rollback"], standalone_mode=False)

    app(["models"], standalone_mode=False)
    assert "candidate → 1" in capsys.readouterr().out
    app(["models", "cams", "--json", str(figures)], standalone_mode=False)
    assert "psnr_range_db" in capsys.readouterr().out
    assert json.loads(figures.read_text())["versions"][0]["scores"]["psnr_range_db"] == 17.5
    with pytest.raises(UsageError, match="no model 'dogs'"):
        app(["models", "dogs"], standalone_mode=False)
