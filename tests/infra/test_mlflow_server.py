"""The server script of clusters: PostgreSQL and S3 really hold what is registered, and no secret is seen anywhere."""

from __future__ import annotations

import configparser
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from codec.api import create_codec, load_codec, save_codec
from infra.registry import fetch_version, get_version, register_version, set_alias
from infra.tracking import start_run
from tests.infra.mlflow_server import running_server
from tests.infra.postgres_server import running_postgres, why_no_postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@contextmanager
def running_s3() -> Iterator[str]:
    """An S3 of this machine with an empty bucket `models`; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                asked = urllib.request.Request(f"http://127.0.0.1:{port}/models", method="PUT")
                urllib.request.urlopen(asked, timeout=2).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.2)
        else:
            raise AssertionError("the S3 server does not answer")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def test_registered_models_lie_in_postgresql_and_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := why_no_postgres():
        pytest.skip(reason)
    pytest.importorskip("boto3", reason="pip install boto3")
    pytest.importorskip("moto.server", reason="pip install 'moto[server]', an S3 server for tests")
    credentials = configparser.ConfigParser()
    credentials["default"] = {"aws_access_key_id": "bitreel", "aws_secret_access_key": "kept-to-itself"}
    with (tmp_path / "s3_credentials").open("w") as file:
        credentials.write(file)
    save_codec(create_codec("innvc", {"width": 16, "trunk_blocks": 1}), tmp_path / "model")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "180")  # the server loads its S3 client at the first artifact
    with running_postgres() as database, running_s3() as s3:
        (tmp_path / "db_password").write_text(database.password + "\n")
        secret = {
            "PGPASSWORD_FILE": str(tmp_path / "db_password"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "s3_credentials"),
            "MLFLOW_S3_ENDPOINT_URL": s3, "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        where = tmp_path / "server"
        with running_server(where, database=database.uri, artifacts="s3://models/mlflow", settings=secret) as uri:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
            number = register_version("cams", tmp_path / "model", start_run("made").run_id)
            set_alias("cams", "champion", number)
            fetched = fetch_version(get_version("cams", "champion"))
            assert load_codec(fetched).model_hash() == load_codec(tmp_path / "model").model_hash()
            listed = urllib.request.urlopen(f"{s3}/models?list-type=2", timeout=5).read().decode()
            assert "model.safetensors" in listed and listed.count("<Key>mlflow/") >= 3
            told = commands() + (where / "server.log").read_text()
        for hidden in (database.password, "kept-to-itself"):
            assert hidden not in told
        # The database alone knows of it: another server over it finds the version.
        with running_server(
            tmp_path / "next", database=database.uri, artifacts="s3://models/mlflow", settings=secret
        ) as uri:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            assert get_version("cams", "champion").version == number


def commands() -> str:
    """The command lines of all processes of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.parent.name == str(os.getpid()):
            continue
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return "\n".join(found)
