"""What KubeRay 1.6 takes in a RayCluster and a RayJob, as a JSON schema: field names and types after its API reference
(https://docs.ray.io/en/master/cluster/kubernetes/references/api.html), strict, so that a misspelt field is found.

Pod templates and other parts of Kubernetes itself are left open here; `pod_templates` hands them out to be checked by
Kubernetes' own schemas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def _strict(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}  # `ray start` options are strings, numbers too
_OBJECT: Schema = {"type": "object"}
_LIST: Schema = {"type": "array", "items": _OBJECT}

_AUTOSCALER = _strict(
    resources=_OBJECT, image=_TEXT, imagePullPolicy=_TEXT, env=_LIST, envFrom=_LIST, volumeMounts=_LIST,
    securityContext=_OBJECT, idleTimeoutSeconds=_COUNT, version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
)  # fmt: skip
_HEAD = _strict(
    ("template",),
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}, headService=_OBJECT, enableIngress=_FLAG,
    labels=_TEXTS, resources=_TEXTS, rayStartParams=_TEXTS, template=_OBJECT,
)  # fmt: skip
_WORKERS = _strict(
    ("groupName", "template"),
    suspend=_FLAG, groupName=_TEXT, replicas=_COUNT, minReplicas=_COUNT, maxReplicas=_COUNT,
    idleTimeoutSeconds=_COUNT, labels=_TEXTS, resources=_TEXTS, rayStartParams=_TEXTS, template=_OBJECT,
    scaleStrategy=_OBJECT, numOfHosts=_COUNT,
)  # fmt: skip
_CLUSTER = _strict(
    ("headGroupSpec",),
    authOptions=_strict(mode={"enum": ["disabled", "token"]}, secretName=_TEXT, enableK8sTokenAuth=_FLAG),
    suspend=_FLAG, managedBy=_TEXT, autoscalerOptions=_AUTOSCALER, headServiceAnnotations=_TEXTS,
    enableInTreeAutoscaling=_FLAG, gcsFaultToleranceOptions=_OBJECT, upgradeStrategy=_OBJECT, headGroupSpec=_HEAD,
    rayVersion=_TEXT, workerGroupSpecs={"type": "array", "items": _WORKERS},
)  # fmt: skip
_JOB = _strict(
    activeDeadlineSeconds=_COUNT, waitingTtlSeconds=_COUNT, backoffLimit=_COUNT, rayClusterSpec=_CLUSTER,
    submitterPodTemplate=_OBJECT, metadata=_TEXTS, clusterSelector=_TEXTS, submitterConfig=_OBJECT, managedBy=_TEXT,
    deletionStrategy=_OBJECT, preRunningDeadlineSeconds=_COUNT, entrypoint=_TEXT, runtimeEnvYAML=_TEXT, jobId=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointResources=_TEXT, entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=_COUNT, shutdownAfterJobFinishes=_FLAG, suspend=_FLAG,
)  # fmt: skip


def _resource(kind: str, spec: Schema) -> Schema:
    return _strict(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"}, kind={"const": kind}, metadata=_OBJECT, spec=spec,
    )  # fmt: skip


SCHEMAS = {"RayCluster": _resource("RayCluster", _CLUSTER), "RayJob": _resource("RayJob", _JOB)}


def pod_templates(resource: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template anywhere in a resource of any kind, with the place it was found at."""

    def walk(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            if isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
                yield place, value
                return
            for key, item in value.items():
                yield from walk(item, f"{place}.{key}")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from walk(item, f"{place}[{index}]")

    yield from walk(resource, resource["kind"])
