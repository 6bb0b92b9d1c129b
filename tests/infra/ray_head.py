"""A real Ray head of its own, with dashboard and jobs, on free ports of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def running_head(cpus: int = 2) -> Iterator[str]:
    """Start a head and give its dashboard's address; it ends with the context, and nobody else's Ray with it."""
    port, dashboard, client, agent = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        token = Path(folder) / "token"
        token.write_text(os.urandom(16).hex())
        token.chmod(0o600)
        given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}", f"--num-cpus={cpus}",
            f"--temp-dir={folder}/ray",
        ]  # fmt: skip
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        log = Path(folder) / "head.log"
        with log.open("wb") as out:
            head = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True,
                env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{dashboard}/api/version", head, log)
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            os.killpg(head.pid, 15)
            try:
                head.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, 9)
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _wait(url: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise AssertionError(f"the head ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):  # it is up and asks for the token
                return
            time.sleep(0.3)
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"the head does not answer: {log.read_text()[-2000:]}")
