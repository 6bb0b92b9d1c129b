"""Threads for compiled kernels, which let go of the interpreter's lock: as many as PyTorch was told to use.

A small picture's tensors are too short to be worth sharing out: PyTorch's threads then wait for each other more than
they work, above all where other processes want the same cores. So small pictures' networks run on one thread, and what
can be done side by side as a whole (rows of the motion search, frames of the filter) takes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

SMALL = 1 << 13  # 8x8 blocks: about 960x540

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Item = TypeVar("Item")


class Threads:
    """`count` threads, the caller's own among them; with one, everything is done at once by the caller."""

    def __init__(self, count: int, pool: ThreadPoolExecutor | None) -> None:
        self.count, self._pool = count, pool

    def submit(
        self, call: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Future[Result]:
        """What the call gives, or raises, when it is asked for."""
        if self._pool is not None:
            return self._pool.submit(call, *arguments, **named)
        done: Future[Result] = Future()
        try:
            done.set_result(call(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """What the call gives for each item; raises what one of the calls raised. Where there are no more items than
        threads, all calls run at the same time and may wait for each other."""
        waiting = list(enumerate(items))[::-1]
        found: dict[int, Result] = {}

        def work() -> None:
            while True:
                try:
                    number, item = waiting.pop()
                except IndexError:
                    return
                found[number] = call(item)

        helpers = [self.submit(work) for _ in range(min(self.count, len(waiting)) - 1)]
        work()
        for helper in helpers:
            helper.result()
        return [found[number] for number in range(len(found))]


_allowed: ContextVar[int] = ContextVar("allowed", default=0)


class Sized(Protocol):
    """h, w: 8x8 blocks of a picture."""

    h: int
    w: int


State = TypeVar("State", bound=Sized)


def alone_if_small(
    run: Callable[Concatenate[State, Arguments], Result],
) -> Callable[Concatenate[State, Arguments], Result]:
    """A decorator for what is done with a picture: PyTorch's operators take one thread where it is small."""

    @wraps(run)
    def call(state: State, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        count = torch.get_num_threads()
        if count == 1 or state.h * state.w > SMALL:
            return run(state, *arguments, **named)
        token = _allowed.set(count)
        torch.set_num_threads(1)
        try:
            return run(state, *arguments, **named)
        finally:
            torch.set_num_threads(count)
            _allowed.reset(token)

    return call


@contextmanager
def side_by_side() -> Iterator[Threads]:
    """As many threads as PyTorch's operators take (`torch.get_num_threads()`), or would if the picture were large."""
    count = max(torch.get_num_threads(), _allowed.get())
    if count == 1:
        yield Threads(1, None)
        return
    with ThreadPoolExecutor(count - 1) as pool:
        yield Threads(count, pool)
