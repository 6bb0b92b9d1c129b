"""A real MLflow server on a free port of this machine, started by the script that clusters use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "infra" / "cluster" / "mlflow_server.sh"


@contextmanager
def running_server(
    folder: Path,
    *,
    database: str = "",
    artifacts: str = "",
    host: str = "127.0.0.1",
    settings: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Iterator[str]:
    """Start a server and give its URI; it ends with the context.

    It keeps everything in `folder` unless `database` (an SQLAlchemy URI) or `artifacts` say otherwise. settings: more
    of its environment. within: what goes before its command, such as `ip netns exec NAME`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "MLFLOW_BACKEND_STORE_URI": database or f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts or (folder / "artifacts").as_uri(),
        "MLFLOW_HOST": host, "MLFLOW_PORT": str(port), "MLFLOW_WORKERS": "1",
    }  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*within, str(SCRIPT)], stdout=log, stderr=log, env=environment | dict(settings or {}),
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait(f"http://{host}:{port}/health", server, folder / "server.log", within)
        yield f"http://{host}:{port}"
    finally:
        if server.poll() is None:
            os.killpg(server.pid, 15)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path, within: Sequence[str]) -> None:
    asked = [*within, sys.executable, "-c", f"import urllib.request as u; u.urlopen('{url}', timeout=2)"]
    deadline = time.monotonic() + 600  # on a machine that others fill
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise AssertionError(f"the server ended: {log.read_text()[-2000:]}")
        if subprocess.run(asked, capture_output=True).returncode == 0:
            return
        time.sleep(0.3)
    raise AssertionError(f"the server does not answer: {log.read_text()[-2000:]}")
