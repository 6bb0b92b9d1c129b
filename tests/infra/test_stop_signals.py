"""SIGTERM and Ctrl-C that come while something must not be left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from infra.stop_signals import stops_held_back, stops_ignored


class Told(Exception):
    pass


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    def tell(number: int, frame: object) -> None:
        raise Told

    before = signal.signal(signal.SIGTERM, tell)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_first_waits_for_the_end_and_the_second_does_not() -> None:
    done = []
    with pytest.raises(Told), stops_held_back():
        signal.raise_signal(signal.SIGTERM)
        done.append("first")
    assert done == ["first"]
    with pytest.raises(Told), stops_held_back():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        done.append("never")
    with stops_held_back():
        pass
    assert done == ["first"]


def test_none_counts_where_all_is_ending_already() -> None:
    with stops_ignored():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Told):
        signal.raise_signal(signal.SIGTERM)
