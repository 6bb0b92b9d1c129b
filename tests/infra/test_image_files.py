"""The Dockerfile, what is sent to its build, and MLflow's compose file, by their own parsers and schema."""

from __future__ import annotations

import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra" / "cluster" / "Dockerfile"
COMPOSE = ROOT / "infra" / "cluster" / "mlflow-compose.yaml"
PACKAGES = ("codec", "pipeline", "trainers", "infra", "configs")


def stages() -> dict[str, list[dict[str, Any]]]:
    """Each stage's instructions in order."""
    parser = pytest.importorskip("dockerfile_parse", reason="pip install dockerfile-parse").DockerfileParser
    found: dict[str, list[dict[str, Any]]] = {}
    now: list[dict[str, Any]] = []
    for line in parser(path=str(DOCKERFILE)).structure:
        if line["instruction"] == "FROM":
            now = found.setdefault(line["value"].split(" AS ")[1], [])
        elif line["instruction"] != "COMMENT":
            now.append(line)
    return found


def test_images_run_as_a_user_with_pinned_versions() -> None:
    built = stages()
    assert set(built) == {"built", "bitreel", "mlflow"}
    for name in ("bitreel", "mlflow"):
        assert [i["value"] for i in built[name] if i["instruction"] == "USER"] == ["1000:1000"]
        last = [i["instruction"] for i in built[name]]
        assert last.index("USER") > max(n for n, kind in enumerate(last) if kind == "RUN"), "nothing is done after it"
    installs = [i["value"] for stage in built.values() for i in stage if "pip install" in i["value"]]
    assert len(installs) == 3
    for command in installs:
        assert re.search(r"-c (/tmp/)?constraints\.txt", command), command
    assert any("${TORCH_INDEX}" in command for command in installs)
    pinned = (ROOT / "constraints.txt").read_text().lower()
    for package in ("torch", "mlflow", "psycopg2-binary", "boto3", "ray"):
        assert re.search(rf"^{package}==", pinned, re.MULTILINE), package
    environment = " ".join(i["value"] for i in built["bitreel"] if i["instruction"] == "ENV")
    assert "RAY_AUTH_MODE=token" in environment
    text = DOCKERFILE.read_text().lower()
    assert not re.search(r"^(arg|env) \S*(token|password|secret|key)", text.replace("ray_auth_mode=token", ""), re.M)


def test_the_build_is_sent_what_it_copies_and_nothing_else() -> None:
    copied = {
        word
        for stage in stages().values()
        for i in stage
        if i["instruction"] == "COPY" and "--from" not in i["value"]
        for word in i["value"].split()[:-1]
        if not word.startswith("--")
    }
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "all is left out but what is named"
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert {word.split("/")[0] for word in copied} == sent
    assert set(PACKAGES) <= sent
    for word in copied:
        assert (ROOT / word).exists(), word


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def test_compose_takes_its_file() -> None:
    package = pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema, which has compose's schema")
    schema = yaml.safe_load((files(package) / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    check.validate(compose())
    wrong = compose()
    wrong["services"]["mlflow"]["depend_on"] = ["database"]
    with pytest.raises(jsonschema.ValidationError):
        check.validate(wrong)


def test_compose_opens_loopback_alone_and_names_secrets_by_file() -> None:
    services = compose()["services"]
    assert {name: service.get("ports", []) for name, service in services.items()} == {
        "database": [],
        "mlflow": ["${BITREEL_MLFLOW_ADDRESS:-127.0.0.1}:5000:5000"],
    }
    assert compose()["networks"][services["database"]["networks"][0]] == {"internal": True}
    for service in services.values():
        assert set(service["secrets"]) <= compose()["secrets"].keys()
        for name, value in service["environment"].items():
            if "PASSWORD" in name or "CREDENTIALS" in name:
                assert value.startswith("/run/secrets/"), name
    assert services["mlflow"]["cap_drop"] == ["ALL"] and services["mlflow"]["read_only"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "MLFLOW_BACKEND_STORE_URI"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://a@b/c"}, "MLFLOW_ARTIFACTS_DESTINATION"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://a:pw@b/c", "MLFLOW_ARTIFACTS_DESTINATION": "x"}, "PGPASSWORD_FILE"),
    ],
)
def test_the_server_says_what_it_lacks(given: dict[str, str], says: str) -> None:
    done = subprocess.run(
        [ROOT / "infra" / "cluster" / "mlflow_server.sh"], env={"PATH": "/usr/bin:/bin", **given}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2 and says in done.stderr and ":pw@" not in done.stderr
