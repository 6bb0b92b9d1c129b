"""A Ray cluster of several nodes on one host, each a `ray start --block` with an address and processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_QUICK = {  # a node that is gone is known to be gone within seconds
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
HEAD = "127.0.0.1"


class HostNodes:
    """Nodes by address. folder: a short path, for Unix sockets."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """What drivers connect to."""
        return f"{HEAD}:{self.port}"

    def start(self, address: str, cpus: int) -> None:
        """Start a node; the first one must be HEAD."""
        role = [f"--address={self.address}"]
        if address == HEAD:
            role = ["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, f"--node-ip-address={address}"]
        command += [f"--num-cpus={cpus}", "--disable-usage-stats", "--block", "--object-store-memory=100000000"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{address}.log").open("ab") as log:
            self.processes[address] = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=os.environ | _QUICK
            )

    def join(self, address: str, cpus: int, seconds: float = 180) -> None:
        """Start a node and wait until the connected driver sees it; started anew where a busy host lets it fail.
        SystemExit where it does not come up."""
        import ray

        self.start(address, cpus)
        until = time.monotonic() + seconds
        while not any(node["Alive"] and node["NodeManagerAddress"] == address for node in ray.nodes()):
            if time.monotonic() > until:
                sys.exit(f"Ray node {address} did not come up within {seconds:.0f} s; see {self.folder}/*.log")
            if self.processes[address].poll() is not None:
                self.start(address, cpus)
            time.sleep(0.5)

    def named(self, text: str) -> list[int]:
        """Processes of the nodes whose command holds a text."""
        return [pid for node in self.processes.values() for pid in processes_below(node.pid) if text in command_of(pid)]

    def kill(self, address: str) -> None:
        """kill -9 of everything of a node at once."""
        node = self.processes.pop(address)
        for pid in [node.pid, *processes_below(node.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait()

    def drain(self, address: str, seconds: float) -> None:
        """Tell Ray that a node goes in so many seconds, as an autoscaler does before it takes a machine away."""
        import ray
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        (node,) = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] == address]
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        GcsClient(self.address).drain_node(node, reason, "drill", int((time.time() + seconds) * 1000))

    def stop(self) -> None:
        """Kill all nodes, the head last."""
        for address in [*(a for a in self.processes if a != HEAD), *(a for a in self.processes if a == HEAD)]:
            self.kill(address)


def processes_below(pid: int) -> list[int]:
    """All processes that a process started, and they in turn."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = sorted(children.get(waiting.pop(), []))
        found += below
        waiting += below
    return found


def command_of(pid: int) -> str:
    """A process's command line, empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
