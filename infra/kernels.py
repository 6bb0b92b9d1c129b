"""The coder's kernels, compiled once for each machine, with a word to whoever waits for it."""

from __future__ import annotations

import sys

from codec.errors import BitreelError


def prepare_kernels() -> None:
    """Compile the coder's kernels where that has not been done on this machine yet, which takes a minute or two.

    Commands call it when they have looked at what they were given: nobody waits so long to read of a mistyped name.
    """
    from codec import kernel_cache

    done = kernel_cache.place()
    if done is None or done.exists():
        return
    _say("compiling the coder for this machine; this happens once and takes a minute or two")
    try:
        kernel_cache.compile_all(done)
    except (BitreelError, OSError) as error:
        _say(f"{error}; they are compiled when they are needed")


def _say(message: str) -> None:
    print(f"bitreel: {message}", file=sys.stderr)
