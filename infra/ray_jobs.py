"""Commands as Ray jobs: each has an id that follows from it, so that submitting it again does not run it twice.

A job runs `cd FOLDER && COMMAND` on the cluster's head, FOLDER being the current one unless told otherwise, which all
machines must see under the same path. Commands that use Ray join the cluster that they run on (RAY_ADDRESS, which Ray
sets for jobs).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlparse

from codec.errors import BitreelError, UsageError
from infra.tracking import without_login, without_logins

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DASHBOARD_PORT = 8265
# What a job's process must know of this one: where MLflow is. Secrets stay in the cluster's own environment, such as
# MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
_HANDED_ON = ("MLFLOW_TRACKING_URI",)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Job:
    """status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; message: what Ray says of it. started: by this call."""

    job_id: str
    status: str
    message: str
    started: bool = False

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class RayJobs:
    """Jobs of the cluster at `address`: http://HEAD:8265, or ray://HEAD:10001, whose dashboard is at port 8265.

    Raises UsageError for another kind of address, BitreelError where the cluster does not answer.
    """

    def __init__(self, address: str) -> None:
        self.address = dashboard_address(address)
        self.shown = without_login(self.address)
        self._client = self._ask(self._connect)

    def submit(self, command: Sequence[str], job_id: str | None = None, folder: Path | None = None) -> Job:
        """Start the command unless it runs or has succeeded already; one that failed or was stopped runs again.

        folder: on the head; None: the current one.
        """
        folder = folder or Path.cwd()
        job_id = job_id or job_id_of(command, folder)
        known = self.find(job_id)
        if known is not None and known.status in ("PENDING", "RUNNING", "SUCCEEDED"):
            return known
        if known is not None:
            self._ask(lambda: self._client.delete_job(job_id))
        environment = {name: without_login(os.environ[name]) for name in _HANDED_ON if name in os.environ}

        def start() -> bool:
            try:
                self._client.submit_job(
                    entrypoint=f"cd {shlex.quote(str(folder))} && exec {shlex.join(command)}",
                    submission_id=job_id,
                    runtime_env={"env_vars": environment} if environment else None,
                    metadata={"command": shlex.join(command)},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):  # somebody else was faster with the same job
                    raise
                return False
            return True

        started = self._ask(start)
        found = self.find(job_id)
        if found is None:
            raise BitreelError(f"Ray at '{self.shown}' took the job '{job_id}' but does not know it; submit again")
        return Job(found.job_id, found.status, found.message, started=started)

    def find(self, job_id: str) -> Job | None:
        """The job of that id; None where the cluster knows none (it forgets them when its head starts anew)."""

        def look() -> Job | None:
            try:
                info = self._client.get_job_info(job_id)
            except RuntimeError as error:
                if "does not exist" in str(error):
                    return None
                raise
            return Job(job_id, str(info.status.value), info.message or "")

        return self._ask(look)

    def follow(self, job_id: str, tell: Callable[[str], None]) -> Job:
        """Hand the job's output to `tell` as it comes, from its beginning, until the job is over."""

        async def stream() -> None:
            async for text in self._client.tail_job_logs(job_id):
                tell(text)

        self._ask(lambda: asyncio.run(stream()))
        found = self.find(job_id)
        if found is None:
            raise BitreelError(f"Ray at '{self.shown}' has forgotten the job '{job_id}'; submit it again")
        return found

    def stop(self, job_id: str) -> None:
        """Ask the job to end. Raises UsageError where the cluster knows no such job."""
        if self.find(job_id) is None:
            raise UsageError(f"the cluster knows no job '{job_id}': it was never submitted, or its head started anew")
        self._ask(lambda: self._client.stop_job(job_id))

    def _connect(self) -> JobSubmissionClient:
        from ray.job_submission import JobSubmissionClient

        from pipeline.ray_session import use_token

        use_token()
        return JobSubmissionClient(self.address)

    def _ask(self, question: Callable[[], _T]) -> _T:
        try:
            return question()
        except (BitreelError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever Ray's client or the network raises, the person needs the address
            first = (without_logins(str(error), self.address).splitlines() or [type(error).__name__])[0]
            raise BitreelError(
                f"Ray's jobs at '{self.shown}' can't be reached: {first} (does the cluster run with its dashboard, "
                "and has this machine its token? see docs/cluster.md)"
            ) from error


def dashboard_address(address: str) -> str:
    """http://HEAD:8265 from itself or from ray://HEAD:PORT. Raises UsageError."""
    parts = urlparse(address)
    if parts.scheme in ("http", "https") and parts.hostname:
        return address.rstrip("/")
    if parts.scheme == "ray" and parts.hostname:
        return f"http://{parts.hostname}:{DASHBOARD_PORT}"
    raise UsageError(f"--address '{without_login(address)}': jobs want the dashboard's, http://HEAD:{DASHBOARD_PORT}")


def job_id_of(command: Sequence[str], folder: Path | None = None) -> str:
    """The same for the same command in the same folder (None: the current one): bitreel-WORD-HASH."""
    told = "\0".join([str(folder or Path.cwd()), *command])
    word = next((part for part in command[1:] if re.fullmatch(r"[a-z]+", part)), "job")
    return f"bitreel-{word}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
