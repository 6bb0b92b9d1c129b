"""An address where nobody listens is refused at once; a Ray of this machine can't be reached from others."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import ray

from codec.errors import BitreelError
from pipeline.ray_session import ray_session


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_nobody_at_the_address(address: str) -> None:
    with pytest.raises(BitreelError, match=f"Ray can't be used at {address}"), ray_session(address):
        pass


@pytest.mark.slow
def test_a_ray_of_our_own_listens_on_loopback_alone() -> None:
    """Checked on the sockets of every process below this one, workers too."""
    if not Path("/proc/net/tcp").exists():
        pytest.skip("needs Linux's /proc")
    with ray_session(None):
        assert ray.get(ray.remote(lambda: os.getppid()).remote()) > 0  # a worker has started
        listening = sockets_below(os.getpid())
    assert len(listening) >= 4, "GCS, raylet, worker and driver at least"
    assert {address for address in listening if not address.startswith(("127.", "[::ffff:127.", "[::1]"))} == set()
    name = ray._private.ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    assert ray._private.ray_constants.ENABLE_RAY_CLUSTER and name not in os.environ, "undone, for sessions elsewhere"


def sockets_below(root: int) -> list[str]:
    """Addresses that a process and those it started listen on, as `ss` shows them."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    shown = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    return [
        line.split()[3] for line in shown.splitlines() if family & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}
    ]
