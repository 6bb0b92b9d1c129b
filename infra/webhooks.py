"""MLflow's webhooks: a server tells of new versions at once, so that nobody has to wait for the next look.

A message only wakes; what is new is read from the registry itself. So a forged, lost or repeated message does no harm,
and messages are checked all the same (HMAC-SHA256 over delivery id, time and body, MLflow's signature v1).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from codec.errors import UsageError

_LARGEST = 1 << 20  # bytes of a message
_OLDEST = 300.0  # seconds that a message's time may be off


def signature(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """What MLflow puts into X-MLflow-Signature."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


def read_secret(path: Path) -> str:
    """The shared secret from a file. Raises UsageError where it can't be read or is empty."""
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise UsageError(f"--webhook-secret '{path}' can't be read: {error.strerror or error}") from error
    if not secret:
        raise UsageError(f"--webhook-secret '{path}' is empty; put the webhook's secret there")
    return secret


@contextmanager
def listening(where: str, secret: str, wake: threading.Event) -> Iterator[int]:
    """Take messages at HOST:PORT (port 0: a free one) while the context lasts and set `wake` for each that is genuine.
    Gives the port. Raises UsageError where the address can't be listened on."""
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--listen '{where}': expected HOST:PORT, as 127.0.0.1:8900")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > _LARGEST:
                self.send_error(413)
                return
            body = self.rfile.read(int(length))
            told = [self.headers.get(f"X-MLflow-{name}", "") for name in ("Delivery-Id", "Timestamp", "Signature")]
            # As bytes: a header may hold other characters than ASCII, which text is not compared with.
            genuine = hmac.compare_digest(signature(secret, told[0], told[1], body).encode(), told[2].encode())
            recent = told[1].isdecimal() and abs(time.time() - int(told[1])) <= _OLDEST
            if not genuine or not recent:
                self.send_error(401)
                return
            wake.set()
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer((host, int(port)), Handler)
    except OSError as error:
        raise UsageError(f"--listen '{where}' is not possible: {error.strerror or error}") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="webhooks", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
