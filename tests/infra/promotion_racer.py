"""A process that promotes what it is told to, race by race, until it is let go or killed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from infra import promotion_journal, registry
from infra.promotion import promote
from infra.tracking import ask, connect, tracking_uri

_T = TypeVar("_T")
_QUESTION = "asks MLflow"
# Its processes are forked from one that has imported the slow modules and has connected to nothing.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["infra.promotion", "mlflow", "mlflow.store.model_registry.sqlalchemy_store"])


class Racer:
    """Starts the process; back when it has connected to MLflow. told: it tells of each question before it asks it."""

    def __init__(self, gate: str, told: bool = False) -> None:
        self._orders, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_race, args=(theirs, tracking_uri(), gate, told), daemon=True)
        self._process.start()
        theirs.close()
        self._orders.recv()

    def start(self, name: str, version: int) -> None:
        """Let it promote the version; back at once."""
        self._orders.send((name, version))

    def moved(self) -> bool:
        """Wait for its promotion to end: whether it moved the champion."""
        return bool(self._orders.recv())

    def questions(self) -> int:
        """Wait for its promotion to end: how many questions to MLflow it took."""
        asked = 0
        while self._orders.recv() == _QUESTION:
            asked += 1
        return asked

    def wait_for_question(self, number: int) -> None:
        """Wait until it is about to ask so many, or has ended."""
        for _ in range(number):
            if self._orders.recv() != _QUESTION:
                return

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.join()

    def end(self) -> None:
        """Let it end by itself."""
        self._orders.close()
        self._process.join()
        assert self._process.exitcode == 0


def _race(orders: Connection, uri: str, gate: str, told: bool = False) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri  # what it is forked from knows the environment of another test
    connect()
    if told:
        _tell_of_questions(orders)
    orders.send("ready")
    while True:
        try:
            name, version = orders.recv()
        except EOFError:
            return
        orders.send(promote(name, str(version), gate=gate).moved)


def _tell_of_questions(orders: Connection) -> None:
    def telling(uri: str, question: Callable[[], _T]) -> _T:
        orders.send(_QUESTION)
        return ask(uri, question)

    for module in (promotion_journal, registry):
        module.ask = telling  # type: ignore[attr-defined]
