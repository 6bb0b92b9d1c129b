"""Checks of a recipe's values: each gives the value in the type the recipe wants, or says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codec.errors import UsageError

# (value, place for the message) -> checked value
Check = Callable[[Any, str], Any]


def fill_dataclass(data: Mapping[str, Any], checks: Mapping[str, Check], where: str) -> dict[str, Any]:
    """The checked values of `data`, which holds only known keys. Raises UsageError naming the place and the key."""
    return {key: checks[key](value, f"{where}: {key}") for key, value in data.items()}


def text() -> Check:
    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{where} must be a text, not {value!r}")
        return value

    return check


def texts() -> Check:
    def check(value: Any, where: str) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
            raise UsageError(f"{where} must be a list of texts, not {value!r}")
        return tuple(value)

    return check


def one_of(choices: Sequence[str]) -> Check:
    def check(value: Any, where: str) -> str:
        if value not in choices:
            raise UsageError(f"{where} must be one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return check


def yes_or_no() -> Check:
    def check(value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise UsageError(f"{where} must be true or false, not {value!r}")
        return value

    return check


def whole(least: int, multiple_of: int = 1) -> Check:
    def check(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least or value % multiple_of:
            kind = f"a multiple of {multiple_of}" if multiple_of > 1 else "a whole number"
            raise UsageError(f"{where} must be {kind}, {least} or more, not {value!r}")
        return value

    return check


def numbers(low: float, high: float, count: int = 1, integer: bool = False, rising: bool = False) -> Check:
    """A number in low..high, or a list of `count` of them; where a list is wanted, one number stands for all."""
    kinds = (int,) if integer else (int, float)

    def check(value: Any, where: str) -> Any:
        items = list(value) if isinstance(value, list | tuple) else [value] * count
        good = len(items) == count and not (count == 1 and isinstance(value, list | tuple))
        for item in items:
            good = good and not isinstance(item, bool) and isinstance(item, kinds) and math.isfinite(item)
            good = good and low <= item <= high
        if not good:
            what = "whole numbers" if integer else "numbers"
            form = f"{count} {what}" if count > 1 else what.removesuffix("s")
            raise UsageError(f"{where} must be {form} from {low:g} to {high:g}, not {value!r}")
        if rising and sorted(items) != items:
            raise UsageError(f"{where} must not fall: {value!r}")
        cast = int if integer else float
        return cast(items[0]) if count == 1 else tuple(cast(item) for item in items)

    return check


def whole_numbers(low: int, high: int) -> Check:
    """A list of different whole numbers, in rising order."""
    one = numbers(low, high, integer=True)

    def check(value: Any, where: str) -> tuple[int, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise UsageError(f"{where} must be a list of whole numbers from {low} to {high}, not {value!r}")
        return tuple(sorted({one(item, where) for item in value}))

    return check
