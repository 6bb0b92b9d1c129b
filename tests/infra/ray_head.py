"""A real Ray head of its own, with dashboard and jobs, on free ports of this machine."""

from __future__ import annotations

import contextlib
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

import psutil

ROOT = Path(__file__).parents[2]
_STARTS = 8


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class RayHead:
    """A head that can die and be started again at the same address. It forgets its jobs then, as any head does."""

    def __init__(self, folder: Path, cpus: int) -> None:
        self._folder, self._cpus = folder, cpus
        self._ports = free_ports(4)
        self._log = folder / "head.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its dashboard's, which jobs go to."""
        return f"http://127.0.0.1:{self._ports[1]}"

    def start(self) -> None:
        """Start it; back when it takes jobs. Ray gives up after half a minute, which a busy machine may not keep."""
        for _ in range(_STARTS):
            _wait_until_free(self._ports)
            if self._try_to_start():
                return
            self.stop()
        raise AssertionError(f"the head does not start: {self._log.read_text()[-2000:]}")

    def _try_to_start(self) -> bool:
        port, dashboard, client, agent = self._ports
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
            f"--num-cpus={self._cpus}", f"--temp-dir={self._folder}/ray",
        ]  # fmt: skip
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True,
                env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        deadline = time.monotonic() + 180
        while self._process.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in self._log.read_text() and _answers(f"{self.address}/api/version"):
                return True
            time.sleep(0.3)
        return False

    def kill(self) -> None:
        """kill -9 of the head's own processes; those of its jobs live until they notice."""
        assert self._process is not None
        head = psutil.Process(self._process.pid)
        for process in [head, *head.children()]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends with its parent
                process.kill()
        self._process.wait(20)

    def stop(self) -> None:
        """End it, and all that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 15)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)


@contextmanager
def running_head(cpus: int = 2) -> Iterator[RayHead]:
    """Start a head; it ends with the context, and nobody else's Ray with it."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        token = Path(folder) / "token"
        token.write_text(os.urandom(16).hex())
        token.chmod(0o600)
        given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        head = RayHead(Path(folder), cpus)
        try:
            head.start()
            yield head
        finally:
            head.stop()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _wait_until_free(ports: list[int]) -> None:
    """Until nothing of a former head listens there any more."""
    deadline = time.monotonic() + 60
    for port in ports:
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    break
            time.sleep(0.2)
        else:
            raise AssertionError(f"port {port} is still in use")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it is up and asks for the token
    except (urllib.error.URLError, OSError):
        return False
