"""Webhooks wake the autopilot; only genuine and recent ones do."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from codec.api import CODECS, create_codec, save_codec
from codec.errors import UsageError
from infra.registry import register_version
from infra.tracking import connect, start_run
from infra.webhooks import listening, read_secret, signature
from tests.infra.mlflow_server import running_server

SECRET = "a secret of some length"


def post(port: int, body: bytes, stamp: str, signed: str) -> int:
    headers = {"X-MLflow-Delivery-Id": "d1", "X-MLflow-Timestamp": stamp, "X-MLflow-Signature": signed}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_only_genuine_and_recent_messages_wake() -> None:
    wake = threading.Event()
    now, old = str(int(time.time())), str(int(time.time()) - 3600)
    with listening("127.0.0.1:0", SECRET, wake) as port:
        assert post(port, b"{}", now, signature("another", "d1", now, b"{}")) == 401
        assert post(port, b"{}", now, "") == 401
        assert post(port, b"{}", now, "v1,schlüssel") == 401
        assert post(port, b"{!}", now, signature(SECRET, "d1", now, b"{}")) == 401
        assert post(port, b"{}", old, signature(SECRET, "d1", old, b"{}")) == 401
        assert not wake.is_set()
        assert post(port, b"{}", now, signature(SECRET, "d1", now, b"{}")) == 204
        assert wake.is_set()
        with pytest.raises(UsageError, match="not possible"), listening(f"127.0.0.1:{port}", SECRET, wake):
            pass


def test_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"), listening("8900", SECRET, threading.Event()):
        pass
    with pytest.raises(UsageError, match="can't be read"):
        read_secret(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="is empty"):
        read_secret(tmp_path / "empty")


@pytest.mark.slow
def test_a_real_server_tells_of_a_new_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.fernet import Fernet

    monkeypatch.setitem(CODECS, "tiny", "tests.trainers.tiny_codec:Tiny")
    # A server sends to https addresses of the open network only, unless it is told otherwise.
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", Fernet.generate_key().decode())
    wake = threading.Event()
    with running_server(tmp_path / "server") as uri, listening("127.0.0.1:0", SECRET, wake) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        connect(uri).create_webhook("autopilot", f"http://127.0.0.1:{port}/", ["model_version.created"], secret=SECRET)
        save_codec(create_codec("tiny", {}), tmp_path / "checkpoint")
        register_version("cams", tmp_path / "checkpoint", start_run("made").run_id)
        assert wake.wait(60)
