"""Threads for compiled kernels, which let go of the interpreter's lock: as many as PyTorch was told to use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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

    def each(self, call: Callable[[Any], object], items: Iterable[Any]) -> None:
        """Call it with each item; raises what one of the calls raised. Calls may wait for earlier items' calls if there
        are no more of them than threads."""
        first, *others = items
        waiting = [self.submit(call, item) for item in others] if self._pool is not None else []
        call(first)
        for item in others if self._pool is None else ():
            call(item)
        for done in waiting:
            done.result()


@contextmanager
def side_by_side() -> Iterator[Threads]:
    """As many threads as PyTorch's operators take (`torch.get_num_threads()`)."""
    count = torch.get_num_threads()
    if count == 1:
        yield Threads(1, None)
        return
    with ThreadPoolExecutor(count - 1) as pool:
        yield Threads(count, pool)
