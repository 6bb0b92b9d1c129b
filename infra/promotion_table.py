"""A gate's verdict as a person sees it; `promote` and `demo` print the same."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from infra.promotion import GateResult

_WORDS = {True: "[green]holds[/green]", False: "[red]fails[/red]", None: "does not apply"}


def print_gate_result(console: Console, result: GateResult) -> None:
    """Every rule's figure and verdict, why those that do not hold, then what became of the alias."""
    table = Table(title=f"{result.name} version {result.version} at the gate to '{result.alias}'", title_justify="left")
    for column in ("score", "measured", "limit", "verdict"):
        table.add_column(column, no_wrap=True)
    for verdict in result.verdicts:
        measured = "-" if verdict.value is None else f"{verdict.value:.6g}"
        table.add_row(verdict.score, measured, verdict.limit, _WORDS[verdict.holds])
    for line in result.repaired:
        console.print(f"put right: {line}", markup=False, soft_wrap=True)
    console.print(table)
    for verdict in result.verdicts:
        if not verdict.holds:
            console.print(f"{verdict.score}: {verdict.reason}", markup=False, soft_wrap=True)
    console.print(sentence(result), markup=False, soft_wrap=True)


def sentence(result: GateResult) -> str:
    """What became of the alias, in one line."""
    which = f"{result.name} version {result.version}"
    held_by = f"version {result.previous}" if result.previous is not None else "no version"
    if not result.passed:
        failed = ", ".join(verdict.score for verdict in result.verdicts if verdict.holds is False)
        return f"not promoted: {failed} failed; '{result.alias}' stays with {held_by}"
    if result.dry_run:
        return f"every rule holds; without --dry-run '{result.alias}' would go to {which}"
    if result.moved:
        return f"promoted: '{result.alias}' moved from {held_by} to {which}"
    if result.previous != result.version:
        return f"every rule holds, but {which} has been '{result.alias}' before and was taken back; it stays so"
    return f"every rule holds; {which} is '{result.alias}' already"
