"""A Ray cluster of several nodes on this machine, any of which can be cut off.

With root and `ip`, each node is a network namespace with an address of its own; the nodes meet at a bridge in the
head's namespace, and a node is cut off by taking its cable down: its processes live on and no one hears of them. Models
that were fetched beside the head are not there for the other nodes, as where each machine has a disk of its own.
Elsewhere the nodes are raylets on 127.0.0.1, 127.0.0.2, …, and one is cut off by kill -9 of all its processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.registry import cache_folder

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HEAD = 0
_PORT = 6379
_IDLE = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")  # titles of processes without work


def can_make_namespaces() -> bool:
    """Whether this process may make network namespaces and cables between them."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    name = f"bitreel-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    cable = ["ip", "-n", name, "link", "add", "veth1", "type", "veth", "peer", "veth2"]
    able = made and subprocess.run(cable, capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return able


class Nodes:
    """Node 0 is the head; all have one CPU. Commands of people run beside the head."""

    def __init__(self, folder: Path, count: int, namespaces: bool) -> None:
        self.namespaces, self.count = namespaces, count
        self._folder = folder
        self._name = f"bitreel{os.getpid()}"
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._port = _PORT if namespaces else _free_port()
        token = folder / "token"
        token.write_text(os.urandom(16).hex())
        token.chmod(0o600)
        self.environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
            "GLOO_SOCKET_IFNAME": "eth0" if namespaces else "lo",
            # A node that does not answer is given up after half a minute: sooner, a busy machine's would be, too.
            "RAY_health_check_initial_delay_ms": "20000", "RAY_health_check_period_ms": "2000",
            "RAY_health_check_timeout_ms": "8000", "RAY_health_check_failure_threshold": "3",
        }  # fmt: skip

    @property
    def address(self) -> str:
        return f"{self.ip(HEAD)}:{self._port}"

    def ip(self, node: int) -> str:
        return f"10.77.0.{node + 1}" if self.namespaces else f"127.0.0.{node + 1}"

    def within(self, node: int = HEAD) -> list[str]:
        """What goes before a command that runs on a node."""
        return ["ip", "netns", "exec", self._netns(node)] if self.namespaces else []

    def build(self) -> None:
        """Lay the cables and start every node; back when all have joined."""
        if self.namespaces:
            for node in range(self.count):
                self._ip("netns", "add", self._netns(node))
                self._ip("-n", self._netns(node), "link", "set", "lo", "up")
            self._in(HEAD, "link", "add", "eth0", "type", "bridge")
            for node in range(1, self.count):
                self._in(HEAD, "link", "add", f"to{node}", "type", "veth", "peer", "eth0", "netns", self._netns(node))
                self._in(HEAD, "link", "set", f"to{node}", "master", "eth0", "up")
            for node in range(self.count):
                self._in(node, "addr", "add", f"{self.ip(node)}/24", "dev", "eth0")
                self._in(node, "link", "set", "eth0", "up")
                self._in(node, "route", "add", "default", "dev", "eth0")
        for node in range(self.count):
            self.start(node)
            self.wait_for(node + 1)

    def start(self, node: int) -> None:
        """Start a node's raylet, and for node 0 the head."""
        place = ["--head", f"--port={self._port}", "--include-dashboard=false"]
        if node != HEAD:
            place = [f"--address={self.address}"]
        command = [
            *self.within(node), *self._own_disk(node),
            str(BIN / "ray"), "start", "--block", *place, f"--node-ip-address={self.ip(node)}",
            "--num-cpus=1", "--object-store-memory=100000000", f"--dashboard-agent-listen-port={_free_port()}",
        ]  # fmt: skip
        if node == HEAD:
            command.append(f"--temp-dir={self._folder}/ray")
        with (self._folder / f"node{node}.log").open("ab") as log:
            self._running[node] = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.environment, start_new_session=True, cwd=self._folder
            )

    def _own_disk(self, node: int) -> list[str]:
        """What goes before a node's command so that it has a cache of models of its own; `ip netns exec` has given it
        its own mounts."""
        if node == HEAD or not self.namespaces:
            return []
        cache_folder().mkdir(parents=True, exist_ok=True)
        return ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(cache_folder())]

    def wait_for(self, nodes: int) -> None:
        """Wait until so many nodes are alive."""
        asked = (
            "import ray, sys, time\n"
            f"end = time.monotonic() + 150\n"
            f"ray.init('{self.address}', logging_level='error')\n"
            f"while sum(n['Alive'] for n in ray.nodes()) != {nodes}:\n"
            "    time.sleep(0.3)\n"
            "    if time.monotonic() > end: sys.exit(str(ray.nodes()))\n"
        )
        for _ in range(60):
            done = self.run([sys.executable, "-c", asked], capture_output=True, text=True)
            if done.returncode == 0:
                return
            if "Alive" in done.stderr:
                break
            time.sleep(1)
        raise AssertionError(f"no {nodes} nodes: {done.stderr[-2000:]}{self.log(HEAD)[-2000:]}")

    def run(self, command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.within(), *command], env=self.environment, **options)  # type: ignore[call-overload]

    def popen(self, command: Sequence[str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen([*self.within(), *command], env=self.environment, cwd=cwd, stdout=out, stderr=out)

    def log(self, node: int) -> str:
        return (self._folder / f"node{node}.log").read_text()

    def at_work(self, node: int, what: str = "") -> bool:
        """Whether a worker of that node has a task or an actor, with `what` in its name; Ray puts it in the title."""
        titles = [_title(pid) for pid in self._processes(node)]
        return any(title.startswith("ray::") and not title.startswith(_IDLE) and what in title for title in titles)

    def cut_off(self, node: int) -> None:
        """From now on nobody hears of the node."""
        if self.namespaces:
            self._in(HEAD, "link", "set", f"to{node}", "down")
        else:
            self.kill(node)

    def kill(self, node: int) -> None:
        """kill -9 of the raylet and all its workers, at once."""
        for pid in self._processes(node):
            _kill(pid)
        self._running[node].wait(20)

    def bring_back(self, node: int) -> None:
        """A new node in the place of the one that was lost, its cable mended."""
        self.kill(node)
        if self.namespaces:
            self._in(HEAD, "link", "set", f"to{node}", "up")
        self.start(node)
        self.wait_for(self.count)

    def tear_down(self) -> None:
        for node in reversed(self._running):
            for pid in self._processes(node):
                _kill(pid)
            self._running[node].wait(20)
        if self.namespaces:
            for node in range(self.count):
                subprocess.run(["ip", "netns", "del", self._netns(node)], capture_output=True)

    def _processes(self, node: int) -> set[int]:
        family = _family(self._running[node].pid)
        if self.namespaces:  # also those whose parents have gone; but not commands that run beside the head
            here = subprocess.run(["ip", "netns", "pids", self._netns(node)], capture_output=True, text=True)
            family |= {int(pid) for pid in here.stdout.split()} if node != HEAD else set()
        return family

    def _netns(self, node: int) -> str:
        return f"{self._name}-{node}"

    def _in(self, node: int, *words: str) -> None:
        self._ip("-n", self._netns(node), *words)

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)


@contextmanager
def running_nodes(count: int) -> Iterator[Nodes]:
    """Build the nodes; all of it is gone when the context ends."""
    # A short path: Unix sockets below it allow 107 characters.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        nodes = Nodes(Path(folder), count, can_make_namespaces())
        try:
            nodes.build()
            yield nodes
        finally:
            nodes.tear_down()


def _family(root: int) -> set[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    family = {root} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
