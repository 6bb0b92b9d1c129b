"""SIGTERM and Ctrl-C while something is done that must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

_STOPS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stops_held_back() -> Iterator[None]:
    """The first SIGTERM or Ctrl-C counts when the block ends; a second one counts at once. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in _STOPS}

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            _restore(before)
            signal.raise_signal(number)
        held.append(number)

    for number in _STOPS:
        signal.signal(number, hold)
    try:
        yield
    finally:
        _restore(before)
        if held:
            signal.raise_signal(held[0])


@contextmanager
def stops_ignored() -> Iterator[None]:
    """SIGTERM and Ctrl-C change nothing while the block runs: for who is ending already. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPS}
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
