"""Ingest of many short videos while actors, decoding processes and whole nodes are killed at random: what is lost?

Three nodes on this host do the work, beside a head without CPUs; for each that is killed another one comes up.
An unbroken run comes first, with the same videos; then the drill. Every kill is logged with its time. At the end the
two manifests are compared row by row, and both stores are verified byte by byte. Exit status 1 where anything differs.

Example: python -m benchmarks.ingest_faults --videos 240 --kill-every 1.5 --log drill.log --json drill.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A cluster started by `ray start` asks for a token where this machine has one. Ray reads it when it is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

from benchmarks.ingest_footage import scaled_videos
from pipeline.ingest import IngestReport, ingest_videos
from pipeline.manifest import read_manifest, read_quarantine
from pipeline.verification import verify_store

WORKER_ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
_QUICK = {  # a node that is gone is known to be gone within seconds
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass
class Raylets:
    """The cluster of one host: a head and worker nodes, each a `ray start --block` in a group of its own."""

    port: int
    folder: Path
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, address: str, cpus: int) -> None:
        """Start the head (127.0.0.1) or a worker node."""
        head = address == "127.0.0.1"
        role = (
            ["--head", f"--port={self.port}", f"--temp-dir={self.folder}"]
            if head
            else [f"--address=127.0.0.1:{self.port}"]
        )
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, f"--node-ip-address={address}"]
        command += [f"--num-cpus={cpus}", "--include-dashboard=false", "--disable-usage-stats", "--block"]
        command += ["--object-store-memory=100000000"]
        if not head:
            command.remove("--include-dashboard=false")
        output = (self.folder.parent / f"{self.folder.name}-{address}.log").open("ab")
        self.nodes[address] = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env=os.environ | _QUICK
        )

    def kill(self, address: str) -> list[int]:
        """kill -9 everything of a node at once; gives the process ids."""
        victims = [self.nodes[address].pid, *_below(self.nodes[address].pid)]
        for process in victims:
            _signal(process)
        self.nodes.pop(address).wait()
        return victims

    def mend(self, cpus: int) -> None:
        """Start the worker nodes again whose start failed, as it may on a host that is busy."""
        for address, node in list(self.nodes.items()):
            if address in WORKER_ADDRESSES and node.poll() is not None:
                self.start(address, cpus)

    def wait_for_head(self) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.5)
        sys.exit(f"no head came up at port {self.port}")

    def stop(self) -> None:
        for address in list(self.nodes):
            self.kill(address)


@dataclass
class Hunter:
    """Kills at random until told to stop; `log` has (seconds since start, what, process ids)."""

    raylets: Raylets
    every: float
    cpus: int
    dice: random.Random
    file: Path | None = None
    begin: float = field(default_factory=time.monotonic)
    log: list[tuple[float, str, list[int]]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        absent: dict[str, float] = {}
        while not self.over.wait(self.dice.expovariate(1 / self.every)):
            self.raylets.mend(self.cpus)
            for address, gone in list(absent.items()):
                if time.monotonic() - gone > 8:
                    self.raylets.start(address, self.cpus)
                    self._note(f"node {address} comes back", [])
                    del absent[address]
            kind = self.dice.choices(["actor", "decoder", "node"], [5, 3, 1])[0]
            if kind == "node":
                here = [address for address in WORKER_ADDRESSES if address in self.raylets.nodes]
                if len(here) > 1 or (here and self.dice.random() < 0.3):  # now and then all are gone
                    address = self.dice.choice(here)
                    self._note(f"node {address} killed", self.raylets.kill(address))
                    absent[address] = time.monotonic()
                continue
            mark = "ray::IngestActor" if kind == "actor" else "pipeline.guarded_process"
            found = [p for node in self.raylets.nodes.values() for p in _below(node.pid) if mark in _command(p)]
            if found:
                victim = self.dice.choice(found)
                _signal(victim)
                self._note(f"{kind} killed", [victim])
        for address in absent:
            self.raylets.start(address, self.cpus)

    def _note(self, what: str, processes: list[int]) -> None:
        self.log.append((time.monotonic() - self.begin, what, processes))
        ids = f" (pids {' '.join(map(str, processes))})" if processes else ""
        line = f"{self.log[-1][0]:7.1f} s  {what}{ids}"
        print(line, flush=True)
        if self.file is not None:
            with self.file.open("a") as log:
                log.write(line + "\n")


def _signal(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _below(process: int) -> list[int]:
    """Ids of all processes that descend from one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [process]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def compare(calm: Path, broken: Path) -> dict[str, Any]:
    """Rows lost, doubled and different in the second store, and what verifying both finds."""
    expected, got = (read_manifest(store, dropped=True).to_pylist() for store in (calm, broken))
    keys = [row["key"] for row in got]
    by_key = {row["key"]: row for row in got}
    return {
        "rows": len(expected),
        "lost": sum(row["key"] not in by_key for row in expected),
        "doubled": len(keys) - len(set(keys)),
        "different": sum(by_key.get(row["key"], row) != row for row in expected),
        "unexpected": len(set(keys) - {row["key"] for row in expected}),
        "quarantined": read_quarantine(broken).num_rows,
        "problems": verify_store(calm).problems + verify_store(broken).problems,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="videos to make the short ones from (default: BITREEL_TEST_CLIPS)")
    parser.add_argument("--videos", type=int, default=240)
    parser.add_argument("--frames", type=int, default=96, help="of each video")
    parser.add_argument("--kill-every", type=float, default=1.5, help="seconds between kills, on average")
    parser.add_argument("--cpus", type=int, default=1, help="ingest workers on each worker node")
    parser.add_argument("--port", type=int, default=6400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--footage", type=Path, help="folder for the short videos, kept for the next time")
    parser.add_argument("--scratch", type=Path, help="folder for stores and logs")
    parser.add_argument("--log", type=Path, help="also write the kills here, line by line")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        sys.exit(drill(arguments, Path(folder)))


def drill(arguments: argparse.Namespace, folder: Path) -> int:
    import ray

    footage = arguments.footage or folder / "videos"
    videos = scaled_videos(arguments.sources, (320, 240), arguments.videos, arguments.frames, footage)
    with tempfile.TemporaryDirectory(prefix="ri", dir="/tmp") as short:  # sockets want short paths
        raylets = Raylets(arguments.port, Path(short) / "ray")
        try:
            raylets.start("127.0.0.1", 0)
            raylets.wait_for_head()
            for address in WORKER_ADDRESSES:
                raylets.start(address, arguments.cpus)
            ray.init(address=f"127.0.0.1:{arguments.port}", log_to_driver=False, logging_level="error")
            cpus = len(WORKER_ADDRESSES) * arguments.cpus
            while ray.cluster_resources().get("CPU", 0) < cpus:
                raylets.mend(arguments.cpus)
                time.sleep(1)
            calm = ingest_videos(videos, folder / "calm")
            print(f"unbroken: {calm.ingested} videos, {calm.clips} clips in {calm.seconds:.0f} s", flush=True)
            hunter = Hunter(raylets, arguments.kill_every, arguments.cpus, random.Random(arguments.seed), arguments.log)
            thread = threading.Thread(target=hunter.run)
            thread.start()
            try:
                broken = ingest_videos(videos, folder / "broken", workers=cpus)
            finally:
                hunter.over.set()
                thread.join()
        finally:
            ray.shutdown()
            raylets.stop()
    return tell(arguments, calm, broken, hunter, compare(folder / "calm", folder / "broken"))


def tell(
    arguments: argparse.Namespace, calm: IngestReport, broken: IngestReport, hunter: Hunter, result: dict[str, Any]
) -> int:
    kills = {kind: sum(what.startswith(kind) and "killed" in what for _, what, _ in hunter.log) for kind in
             ("actor", "decoder", "node")}  # fmt: skip
    print(f"broken: {broken.ingested} videos, {broken.clips} clips in {broken.seconds:.0f} s; killed {kills}; "
          f"seen by ingest: {broken.worker_deaths} lost workers, {broken.crashes} crashes")  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in result.items()))
    if arguments.json:
        figures = {"kills": kills, "unbroken_seconds": calm.seconds, "seconds": broken.seconds, "log": hunter.log}
        figures |= {"worker_deaths": broken.worker_deaths, "crashes": broken.crashes, **result}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    wrong = result["lost"] + result["doubled"] + result["different"] + result["unexpected"] + result["quarantined"]
    return 1 if wrong or result["problems"] else 0


if __name__ == "__main__":
    main()
