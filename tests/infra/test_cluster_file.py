"""The files for `ray up`: accepted by Ray's own checks, complete, and (where ssh to here is offered) the one for this
machine starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
CLUSTER_FILE = REPOSITORY / "ray_cluster.yaml"
AWS_FILE = REPOSITORY / "infra" / "cluster" / "ray_cluster_aws.yaml"
REMOTE = "~/bitreel-cluster"
TOKEN = "~/.ray/auth_token"


def load(file: Path = CLUSTER_FILE) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    return config


def environment_command(file: Path) -> str:
    (command,) = [c for c in load(file)["setup_commands"] if c.endswith("/env.sh") and c.startswith("printf")]
    return str(command)


both_files = pytest.mark.parametrize("file", [CLUSTER_FILE, AWS_FILE], ids=["own", "aws"])


@pytest.mark.parametrize("workers", [[], ["192.168.1.11", "192.168.1.12"]])
def test_ray_accepts_it(workers: list[str]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load()
    config["provider"]["worker_ips"] = workers
    prepared = prepare_config(config)
    validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    # All are kept: none is let go when it has nothing to do.
    assert node_type["min_workers"] == node_type["max_workers"] == len(workers)


def test_ray_accepts_the_cloud_variant() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(load(AWS_FILE))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert set(types) == {"head", "cpu", "gpu"} and prepared["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0} and "InstanceMarketOptions" not in types["head"]["node_config"]
    for name in ("cpu", "gpu"):
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert types[name]["max_workers"] > types[name]["min_workers"]
    assert types["cpu"]["max_workers"] + types["gpu"]["max_workers"] == prepared["max_workers"]
    open_to = prepared["provider"]["security_group"]["IpPermissions"]
    assert [rule["FromPort"] for rule in open_to] == [22]
    assert "0.0.0.0/0" not in {place["CidrIp"] for rule in open_to for place in rule["IpRanges"]}
    config = load(AWS_FILE)
    config["available_node_types"]["cpu"]["min_worker"] = 1
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(config))


@both_files
def test_what_an_install_needs_is_sent(file: Path) -> None:
    mounts: dict[str, str] = load(file)["file_mounts"]
    assert mounts.pop(TOKEN) == TOKEN
    for remote, local in mounts.items():
        assert remote == f"{REMOTE}/{local}", "the install expects the repository's own layout"
        assert (REPOSITORY / local).exists(), f"{local} is named in {CLUSTER_FILE.name} but is not there"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    needed = {package.split(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    assert set(mounts.values()) == needed | {"pyproject.toml", "constraints.txt", project["project"]["readme"]}


@both_files
def test_every_ray_process_starts_in_the_clusters_environment(file: Path) -> None:
    config = load(file)
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all(c.startswith(f". {REMOTE}/env.sh && ") for c in starts)
    assert all("--object-store-memory=" in c for c in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0] and "0.0.0.0" not in " ".join(starts)


@both_files
def test_environment_asks_for_the_token_and_sends_nothing_home(file: Path, tmp_path: Path) -> None:
    activate = tmp_path / "bitreel-cluster" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("export ACTIVATED=1\n")
    bare = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", environment_command(file)], env=bare, check=True)
    seen = subprocess.run(
        ["bash", "-c", f". {REMOTE}/env.sh && env"], env=bare, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for line in (
        "ACTIVATED=1",
        "RAY_AUTH_MODE=token",
        "RAY_USAGE_STATS_ENABLED=0",
        "MLFLOW_DISABLE_TELEMETRY=true",
        "MALLOC_MMAP_THRESHOLD_=268435456",
        "MALLOC_TRIM_THRESHOLD_=268435456",
    ):
        assert line in seen
    card = next(line for line in seen if line.startswith("GLOO_SOCKET_IFNAME=")).partition("=")[2]
    assert card == "" or Path("/sys/class/net", card).exists()


@pytest.fixture
def started_cluster(tmp_path: Path) -> Iterator[Path]:
    """The cluster of the shipped file on this machine: user and key are set, as a user would. Ends with `ray down`."""
    key = os.environ.get("BITREEL_TEST_CLUSTER_KEY")
    if not key:
        pytest.skip("BITREEL_TEST_CLUSTER_KEY names no ssh key for 127.0.0.1 (beware: the test ends all Ray work here)")
    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed")
    if not Path(TOKEN).expanduser().exists():
        pytest.skip(f"no token in {TOKEN}: run `ray get-auth-token --generate`")
    user = os.environ.get("BITREEL_TEST_CLUSTER_USER") or subprocess.check_output(["id", "-un"], text=True).strip()
    login = ["ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
    login += ["-o", f"UserKnownHostsFile={os.devnull}", f"{user}@127.0.0.1"]
    if subprocess.run([*login, "true"], capture_output=True).returncode:
        pytest.skip(f"no sshd on 127.0.0.1 lets {user} in with {key}")
    config = load()
    config["auth"] = {"ssh_user": user, "ssh_private_key": key}
    config["cluster_name"] = "bitreel-test"
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    try:
        ray("up", "-y", str(path))
        yield path
    finally:
        ray("down", "-y", str(path))
        for left in Path("/tmp/ray").glob("cluster-bitreel-test.*"):
            left.unlink()


def ray(*arguments: str) -> str:
    """Run the `ray` command in the repository's folder, as the file asks for; gives what it printed."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ray")), *arguments],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_starts_runs_a_task_and_keeps_strangers_out(started_cluster: Path, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import ray\n"
        "@ray.remote\n"
        "def answer():\n"
        "    import os, codec.errors\n"
        "    return os.environ['RAY_AUTH_MODE'], os.environ['MALLOC_TRIM_THRESHOLD_'], codec.errors.__file__\n"
        "ray.init('auto')\n"
        "print('task answered', *ray.get(answer.remote()))\n"
    )
    said = ray("submit", str(started_cluster), str(driver))
    assert "task answered token 268435456" in said
    assert "bitreel-cluster/.venv" in said  # the installed project, not the folder it came from

    assert connects({}) is True
    assert connects({"RAY_AUTH_TOKEN": "0" * 64}) is False
    assert connects({"RAY_AUTH_MODE": "disabled"}) is False


def connects(settings: dict[str, str]) -> bool:
    """Whether a driver with these settings gets into the cluster; Ray tells a stranger only that it can't connect."""
    done = subprocess.run(
        [sys.executable, "-c", "import ray; ray.init('127.0.0.1:6379')"],
        env={**os.environ, "RAY_AUTH_MODE": "token", **settings}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 or "Failed to connect to Ray cluster" in done.stderr, done.stderr
    return done.returncode == 0


def test_every_package_is_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    tops = {name.split(".")[0] for name in listed}
    folders = [p.parent.relative_to(REPOSITORY) for top in tops for p in (REPOSITORY / top).rglob("__init__.py")]
    found = {".".join(folder.parts) for folder in folders}
    assert set(listed) - {"infra.templates"} == found - {"infra.templates"}
