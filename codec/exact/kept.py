"""Tensors that are worked out once and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def kept(results: int) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """lru_cache of the last `results` results, for functions that make tensors.

    What is made while somebody's inference mode is on must serve a later training step too, so it is made outside it.
    """

    def decorate(make: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @lru_cache(maxsize=results)
        @wraps(make)
        def made(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            with torch.inference_mode(False):
                return make(*arguments, **named)

        return made  # type: ignore[return-value]

    return decorate
