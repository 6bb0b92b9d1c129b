"""The Kubernetes files: kustomize takes them, schemas hold, pods are confined, no secret is told, nothing is open."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from tests.infra.kuberay_schema import SCHEMAS, pod_templates

FOLDER = Path(__file__).parents[2] / "infra" / "cluster" / "kubernetes"
JOBS = ("ingest", "train", "evaluate")


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def resources() -> list[dict[str, Any]]:
    """All that the files declare, the jobs too."""
    listed = documents(FOLDER / "kustomization.yaml")[0]["resources"]
    files = [FOLDER / name for name in listed] + [FOLDER / "jobs" / f"{name}.yaml" for name in JOBS]
    return [document for file in files for document in documents(file)]


def find(kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [r for r in resources() if r["kind"] == kind and name in (r["metadata"].get("name"), "")]
    return found


def test_every_file_is_listed_and_kustomize_takes_them() -> None:
    listed = set(documents(FOLDER / "kustomization.yaml")[0]["resources"])
    assert listed == {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert {path.stem for path in (FOLDER / "jobs").iterdir()} == set(JOBS)
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    built = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True).stdout
    made = [document for document in yaml.safe_load_all(built) if document]
    assert {m["metadata"].get("namespace", "bitreel") for m in made} == {"bitreel"}
    containers = [c for m in made for _, template in pod_templates(m) for c in template["spec"]["containers"]]
    images = {container["image"] for container in containers}
    assert all("/" in image or image.startswith("postgres:") for image in images), images


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_kuberay_takes_them(kind: str) -> None:
    found = [resource for resource in resources() if resource["kind"] == kind]
    assert found
    for resource in found:
        jsonschema.Draft202012Validator(SCHEMAS[kind]).validate(resource)
        wrong = {**resource, "spec": {**resource["spec"], "entryPoint": "x"}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(SCHEMAS[kind]).validate(wrong)


def test_kubernetes_takes_them() -> None:
    """Each core resource, and every pod template of KubeRay's, against the schemas of Kubernetes itself, strictly."""
    checker = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate, to check core kinds")
    for resource in resources():
        if resource["kind"] not in SCHEMAS:
            checker.validate(resource, "1.33", strict=True)
        for place, template in pod_templates(resource):
            try:
                checker.validate(
                    {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, "template": template},
                    "1.33",
                    strict=True,
                )
            except checker.ValidationError as error:
                raise AssertionError(f"{place}: {error.message}") from error


def test_no_pod_is_root_or_may_become_it() -> None:
    """What the namespace's restricted policy asks, so that none is refused at its start."""
    assert find("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    templates = [(place, t["spec"]) for resource in resources() for place, t in pod_templates(resource)]
    assert len(templates) == 10
    # A job without one is submitted by a pod of KubeRay's own making, which confines nothing.
    for job in (r for r in resources() if r["kind"] == "RayJob"):
        assert "submitterPodTemplate" in job["spec"], job["metadata"]
    for place, spec in templates:
        whole = spec["securityContext"]
        assert whole["runAsNonRoot"] and whole["runAsUser"] > 0, place
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}, place
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}, place
            assert "memory" in container["resources"]["limits"], place
    confined = find("RayCluster")["spec"]["autoscalerOptions"]["securityContext"]
    assert confined == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def ray_clusters() -> list[dict[str, Any]]:
    return [find("RayCluster")["spec"]] + [
        r["spec"]["rayClusterSpec"] for r in resources() if r["kind"] == "RayJob" and "rayClusterSpec" in r["spec"]
    ]


def test_every_ray_cluster_wants_the_token_and_this_ray() -> None:
    clusters = ray_clusters()
    assert len(clusters) == 2
    for spec in clusters:
        assert spec["authOptions"] == {"mode": "token", "secretName": "bitreel-ray"}
        assert spec["rayVersion"] == ray.__version__
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "no tasks on the head"
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        for group in groups:
            (container,) = group["template"]["spec"]["containers"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
            assert volumes[mounted["/shared"]]["persistentVolumeClaim"] == {"claimName": "bitreel-shared"}
            memory = volumes[mounted["/dev/shm"]]["emptyDir"]
            assert memory["medium"] == "Memory" and int(memory["sizeLimit"].removesuffix("Gi")) << 30 > int(
                group["rayStartParams"]["object-store-memory"]
            )
    groups = {g["groupName"]: g for g in find("RayCluster")["spec"]["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"} and groups["cpu"]["minReplicas"] >= 1
    limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


def test_a_training_has_the_workers_it_asks_for() -> None:
    (job,) = [r["spec"] for r in resources() if r["kind"] == "RayJob" and "rayClusterSpec" in r["spec"]]
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert job["entrypoint"].endswith(f"--workers {group['replicas']}")
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"], "KubeRay waits until all are up"


def test_the_jobs_commands_are_ones_that_bitreel_has() -> None:
    from infra.cli import COMMANDS, run

    for resource in resources():
        if resource["kind"] == "RayJob":
            words = resource["spec"]["entrypoint"].split()
            assert words[0] == "bitreel" and words[1] in COMMANDS
            options = [word for word in words if word.startswith("--")]
            with contextlib.redirect_stdout(io.StringIO()) as said:
                assert run([words[1], "--help"]) == 0
            assert all(option in said.getvalue() for option in options), words


def test_secrets_are_named_and_not_told_and_nothing_is_open_outside() -> None:
    for resource in resources():
        assert resource["kind"] not in ("Secret", "Ingress")
        if resource["kind"] == "Service":
            assert resource["spec"].get("type", "ClusterIP") == "ClusterIP"
        for place, template in pod_templates(resource):
            for container in template["spec"]["containers"]:
                for variable in container.get("env", []):
                    name, value = variable["name"], variable.get("value", "")
                    secret = any(word in name for word in ("PASSWORD", "TOKEN", "SECRET", "KEY"))
                    assert not secret or value.startswith("/run/bitreel/"), f"{place}: {name}"
    settings = find("ConfigMap")["data"]
    assert "@bitreel-postgresql" in settings["MLFLOW_BACKEND_STORE_URI"]
    assert ":" not in settings["MLFLOW_BACKEND_STORE_URI"].split("@")[0].removeprefix("postgresql+psycopg2://")
    policy = find("NetworkPolicy", "bitreel-postgresql")["spec"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"app": "bitreel-mlflow"}}}]


def test_selectors_find_their_pods() -> None:
    labels = [t["metadata"]["labels"] for r in resources() for _, t in pod_templates(r) if "metadata" in t]
    for resource in resources():
        if resource["kind"] == "Service":
            assert resource["spec"]["selector"] in labels
        if resource["kind"] in ("Deployment", "StatefulSet"):
            assert resource["spec"]["selector"]["matchLabels"] == resource["spec"]["template"]["metadata"]["labels"]
