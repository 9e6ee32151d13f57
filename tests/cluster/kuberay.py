"""The fields of KubeRay's resources that the manifests may use, as KubeRay 1.6 names them; no package has their definitions.

What Kubernetes itself defines in them, the pods, is checked against its own schemas.
"""

from collections.abc import Iterator, Mapping
from typing import Any

CLUSTER_FIELDS = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "headServiceAnnotations", "suspend"}
AUTH_FIELDS = {"mode", "secretName"}
HEAD_FIELDS = {"rayStartParams", "template", "serviceType", "headService", "enableIngress"}
WORKER_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}
JOB_FIELDS = {
    "entrypoint", "clusterSelector", "rayClusterSpec", "submissionMode", "backoffLimit", "activeDeadlineSeconds",
    "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "runtimeEnvYAML", "suspend",
    "entrypointNumCpus", "entrypointNumGpus",
}  # fmt: skip


def check(resource: Mapping[str, Any]) -> None:
    """Raise AssertionError where a RayCluster or a RayJob has a field that KubeRay does not know, or lacks one it wants."""
    assert resource["apiVersion"] == "ray.io/v1"
    spec = resource["spec"]
    if resource["kind"] == "RayJob":
        assert set(spec) <= JOB_FIELDS
        assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode"}
        assert ("rayClusterSpec" in spec) != ("clusterSelector" in spec)
        # KubeRay starts a job anew on a cluster of its own alone.
        assert "backoffLimit" not in spec or "rayClusterSpec" in spec
    for cluster in cluster_specs(resource):
        assert set(cluster) <= CLUSTER_FIELDS
        assert set(cluster["authOptions"]) <= AUTH_FIELDS
        assert set(cluster["headGroupSpec"]) <= HEAD_FIELDS
        for group in cluster["workerGroupSpecs"]:
            assert set(group) <= WORKER_FIELDS
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def cluster_specs(resource: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The clusters that a resource describes: one, or none."""
    if resource["kind"] == "RayCluster":
        return [resource["spec"]]
    return [resource["spec"]["rayClusterSpec"]] if "rayClusterSpec" in resource.get("spec", {}) else []


def templates(resource: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod templates of a resource, the head's first."""
    for cluster in cluster_specs(resource):
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster["workerGroupSpecs"])
