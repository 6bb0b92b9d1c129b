"""What a model was made of: the data's hash, the code's version, the environment."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any


def manifest_hash(store: Path) -> str:
    """BLAKE3 over a store's settings and its clips in use: equal means the same clips, however their rows are filed."""
    from blake3 import blake3

    from pipeline.manifest import read_manifest

    table = read_manifest(store, ["key", "clip_id", "split"])
    digest = blake3((store / "store.json").read_bytes())
    for row in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        digest.update((" ".join(row) + "\n").encode())
    return str(digest.hexdigest())


def code_version() -> str:
    """Package version, with the git commit (and "-changed") where the code runs from a git checkout."""
    version = metadata.version("bitreel")
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return version
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=-changed", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{described}"


def environment() -> dict[str, Any]:
    """Python, machine, and the installed packages with versions."""
    packages = {dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "packages": dict(sorted(packages.items())),
    }
