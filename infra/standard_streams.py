"""Streams on the command line: `-` for standard input and output, where messages go then, and growing files."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer
from rich.console import Console

from codec.errors import UsageError
from infra.console import console

_PIPE = Path("-")
_LOOK_EVERY = 0.1  # seconds between two looks at a growing file


def is_pipe(path: Path) -> bool:
    """Whether a command's argument means standard input or output."""
    return path == _PIPE


def shown_name(path: Path, output: bool = False) -> str:
    """What messages call an argument."""
    return ("standard output" if output else "standard input") if is_pipe(path) else str(path)


def messages(out: Path) -> Console:
    """Where a command that writes to `out` speaks: on stderr where stdout is taken."""
    return Console(stderr=True, highlight=False) if is_pipe(out) else console


def standard_input(what: str) -> BinaryIO:
    """Binary standard input. Raises UsageError where a person would have to type it."""
    if sys.stdin is None:
        raise UsageError(f"standard input is closed; pipe {what} into it")
    if sys.stdin.isatty():
        raise UsageError(f"standard input is a terminal; pipe {what} into it")
    return sys.stdin.buffer


@contextmanager
def open_stream(path: Path) -> Iterator[BinaryIO]:
    """A .brl file (also a named pipe) or standard input, for reading. Raises UsageError where there is none."""
    if is_pipe(path):
        yield standard_input("a .brl stream")
    elif path.exists() and not path.is_dir():
        with path.open("rb") as source:
            yield source
    else:
        raise UsageError(f"no stream at '{path}'")


@contextmanager
def standard_output(what: str) -> Iterator[BinaryIO]:
    """Binary standard output. Where its reader goes away (`| head`), the command says so and ends with status 1.

    Raises UsageError where it is a terminal.
    """
    if sys.stdout is None:
        raise UsageError(f"standard output is closed; pipe {what} into a program or a file")
    if sys.stdout.isatty():
        raise UsageError(f"standard output is a terminal; pipe {what} into a program or a file")
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        Console(stderr=True, highlight=False).print(f"stopped: the program that reads {what} has gone away")
        # Python flushes once more at exit; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from error


def patience(source: BinaryIO, seconds: float) -> Callable[[], bool]:
    """Waits a little; gives up (False) when the file has not grown for so many seconds. A pipe's end is its end."""
    growing = stat.S_ISREG(os.fstat(source.fileno()).st_mode)
    size, since = -1, time.monotonic()

    def wait() -> bool:
        nonlocal size, since
        now, length = time.monotonic(), os.fstat(source.fileno()).st_size
        if length != size:
            size, since = length, now
        if not growing or now - since >= seconds:
            return False
        time.sleep(min(_LOOK_EVERY, seconds))
        return True

    return wait
