"""A connection to Ray, for everything that runs on it."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from codec.errors import BitreelError

NO_RAY = "Ray can't be used at"  # what an error begins with where it is Ray that failed, and not the work
_REACH_SECONDS = 10
_TOKEN_FILE = Path("~/.ray/auth_token")


@contextmanager
def ray_session(address: str | None) -> Iterator[int]:
    """Ray connected to `address`, or started on this machine, where it listens on loopback alone; one already connected
    is used and left alone.
    Within a Ray job (RAY_ADDRESS is set) it is the cluster that the job runs on.

    Gives the number of CPUs. Raises BitreelError where the cluster can't be reached.
    """
    if ray.is_initialized():
        yield _cpus()
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The next release's default, chosen now: without it Ray prints a warning about accelerators at each start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            with _on_loopback(), _apart_from_signals():
                ray.init(address="local", include_dashboard=False, **options)
        else:
            _check_reachable(address)
            use_token()
            with _apart_from_signals():
                ray.init(address=address, **options)
    except Exception as error:  # whatever the client or the launcher raises, the person needs the address
        where = address or "this machine"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "" if address is None else " (does it run, and has this machine its token? see docs/cluster.md)"
        raise BitreelError(f"{NO_RAY} {where}: {reason}{hint}") from error
    try:
        yield _cpus()
    finally:
        ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray started in this block listens on 127.0.0.1 alone, its workers too.

    Ray does so by itself on laptops' systems; elsewhere its servers listen on every address of the machine, and
    `_node_ip_address="127.0.0.1"` is replaced by another address. The switch between the two is read in this process
    from a constant and in those it starts from the environment.
    """
    from ray._private import ray_constants

    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    inherited = os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[name] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if inherited is not None:
            os.environ[name] = inherited


@contextmanager
def _apart_from_signals() -> Iterator[None]:
    """A Ray started or joined in this block leaves SIGTERM to this process, where that answers it by itself, and its
    processes are in groups of their own.

    Ray's answer is to kill its processes first, and this one dies of their loss before it has said how it ended; so it
    does where a signal to its whole process group, as schedulers send it, reaches them.
    """
    from ray._private import services, utils

    start, sets_handler, own = services.ConsolePopen, utils.set_sigterm_handler, signal.getsignal(signal.SIGTERM)
    if callable(own):
        utils.set_sigterm_handler = lambda handler: None
    setattr(services, "ConsolePopen", functools.partial(start, process_group=0))  # noqa: B010 - a class, to mypy
    try:
        yield
    finally:
        utils.set_sigterm_handler = sets_handler
        setattr(services, "ConsolePopen", start)  # noqa: B010
        if callable(own) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own)  # Ray's library has put one that prints a trace before it


def _check_reachable(address: str) -> None:
    """Raises OSError at once where nobody listens; Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()


def _cpus() -> int:
    return int(ray.cluster_resources().get("CPU", 1)) or 1


def use_token() -> None:
    """Make Ray use this machine's token, where it has one.

    A cluster's token counts only in token mode; without the mode the client waits half a minute and gives up."""
    has_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if has_token or _TOKEN_FILE.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
