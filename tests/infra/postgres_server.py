"""A real PostgreSQL of this machine for a while, on a Unix socket alone, with a user `mlflow` who has a password."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Database:
    """uri: for SQLAlchemy, without the password."""

    uri: str
    password: str


def why_no_postgres() -> str:
    """What is missing for `running_postgres`; empty where nothing is."""
    if _programs() is None:
        return "PostgreSQL is not installed"
    if find_spec("psycopg2") is None:
        return "pip install psycopg2-binary"
    if os.geteuid() == 0 and _other_user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


@contextmanager
def running_postgres() -> Iterator[Database]:
    """Start a fresh one; it ends with the context, and all it held is gone."""
    programs = _programs()
    assert programs is not None
    user = _other_user() if os.geteuid() == 0 else None
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"] if user else []
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    password, data = secrets.token_hex(16), folder / "data"
    given = folder / "password"
    given.write_text(password)
    given.chmod(0o644)  # in a folder of mode 700

    def run(program: str, *words: str) -> None:
        with (folder / "log").open("ab") as log:
            subprocess.run([*become, str(programs / program), *words], check=True, stdout=log, stderr=log, cwd=folder)

    try:
        run("initdb", "-D", str(data), "-U", "mlflow", f"--pwfile={given}", "--auth=scram-sha-256", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "server.log"), "-w", "start")
        try:
            asked = os.environ | {"PGPASSWORD": password}
            subprocess.run(
                [str(programs / "createdb"), "-h", str(folder), "-U", "mlflow", "mlflow"], check=True, env=asked
            )
            yield Database(f"postgresql+psycopg2://mlflow@/mlflow?host={folder}", password)
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).resolve().parent if named else None


def _other_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None
