"""The manifests as kustomize puts them together: Kubernetes' schemas take them, and they hold to what LLUMI promises."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llumi.config import load_config
from tests.cluster import kuberay
from tests.cluster.files import CLUSTER, ROOT

validating = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (pip install -e '.[dev]')")

KUBERNETES = CLUSTER / "kubernetes"
OVERLAYS = ("cpu", "gpu")
SECRETS = {"llumi-ray", "llumi-privacy", "llumi-store-trainer", "llumi-store-server", "llumi-tls"}
"""What the operator makes by hand; docs/operations.md says how."""

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def built(overlay: str) -> list[dict[str, Any]]:
    """All resources of an overlay, as `kubectl apply -k` would send them."""
    folder = str(KUBERNETES / "overlays" / overlay)
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize", folder]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build", folder]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(resources: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {resource["metadata"]["name"]: resource for resource in resources if resource["kind"] == kind}


def every_file_of(kustomization: Path) -> list[Path]:
    """What a kustomization names, files and folders alike."""
    tree = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
    generated = [file for generator in tree.get("configMapGenerator", []) for file in generator["files"]]
    named = [*tree["resources"], *generated, *(patch["path"] for patch in tree.get("patches", []))]
    return [kustomization.parent / name for name in named]


@pytest.mark.parametrize("kustomization", sorted(KUBERNETES.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_every_file_is_named_and_every_name_is_a_file(kustomization: Path):
    named = every_file_of(kustomization)
    assert all(path.exists() for path in named)
    here = {path for path in kustomization.parent.iterdir() if path != kustomization}
    assert here == {path for path in named if path.parent == kustomization.parent}


@each_overlay
def test_kubernetes_takes_every_resource(overlay: str):
    for resource in [*built(overlay), yaml.safe_load((KUBERNETES / "jobs" / "pipeline.yaml").read_text())]:
        if resource["apiVersion"] == "ray.io/v1":
            kuberay.check(resource)
            for template in kuberay.templates(resource):
                pod = {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "x"} | template["metadata"],
                    "spec": template["spec"],
                }
                validating.validate(pod, "1.36", strict=True)
        else:
            validating.validate(resource, "1.36", strict=True)


@each_overlay
def test_every_pod_is_one_that_the_namespace_lets_in(overlay: str):
    resources = built(overlay)
    assert of_kind(resources, "Namespace")["llumi"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for resource in resources:
        for template in kuberay.templates(resource):
            spec = template["spec"]
            assert spec["securityContext"]["runAsNonRoot"]
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not spec["automountServiceAccountToken"]
            (container,) = spec["containers"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            drains = {entry["name"]: entry.get("value") for entry in container["env"]}["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
            assert spec["terminationGracePeriodSeconds"] > int(drains)
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts == {volume["name"] for volume in spec["volumes"]}


@each_overlay
def test_names_lead_to_what_is_there(overlay: str):
    resources = built(overlay)
    config_maps = set(of_kind(resources, "ConfigMap")) | {"llumi-store-ca"}
    claims = set(of_kind(resources, "PersistentVolumeClaim"))
    text = yaml.safe_dump(resources)
    tag = f"registry.internal/llumi:{_version()}-{overlay}"
    assert set(re.findall(r"image: (\S+)", text)) == {tag}
    assert set(re.findall(r"secretName: (\S+)", text)) <= SECRETS
    for resource in resources:
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == "llumi"
        for template in kuberay.templates(resource):
            (container,) = template["spec"]["containers"]
            keys = [entry["valueFrom"]["secretKeyRef"]["name"] for entry in container["env"] if "valueFrom" in entry]
            assert set(keys) <= SECRETS
            assert not [
                entry for entry in container["env"] if re.search("SECRET|TOKEN|KEY", entry["name"]) and "value" in entry
            ]
            for volume in template["spec"]["volumes"]:
                assert volume.get("configMap", {"name": "llumi-config"})["name"] in config_maps
                assert volume.get("persistentVolumeClaim", {"claimName": "llumi-router"})["claimName"] in claims


@each_overlay
def test_the_router_is_found_by_its_label_and_port(overlay: str):
    resources = built(overlay)
    (selector,) = of_kind(resources, "Service")["llumi-router"]["spec"]["selector"].items()
    found = [t for r in resources for t in kuberay.templates(r) if selector in t["metadata"]["labels"].items()]
    assert len(found) == 1
    config = load_config(KUBERNETES / "overlays" / overlay / "ray_config.yaml")
    ports = {port["name"]: port["containerPort"] for port in found[0]["spec"]["containers"][0]["ports"]}
    (service_port,) = of_kind(resources, "Service")["llumi-router"]["spec"]["ports"]
    (path,) = of_kind(resources, "Ingress")["llumi"]["spec"]["rules"][0]["http"]["paths"]
    assert ports["router"] == service_port["targetPort"] == config.serve.port
    assert path["backend"]["service"] == {"name": "llumi-router", "port": {"name": service_port["name"]}}
    kept = [m["mountPath"] for m in found[0]["spec"]["containers"][0]["volumeMounts"] if m["name"] == "router"]
    assert str(config.serve.audit).startswith(kept[0])
    assert config.rate.database.startswith(f"sqlite:///{kept[0]}")
    annotations = of_kind(resources, "Ingress")["llumi"]["metadata"]["annotations"]
    nginx = {name.partition("/")[2]: value for name, value in annotations.items()}
    assert (nginx["enable-access-log"], nginx["proxy-buffering"], nginx["proxy-request-buffering"]) == ("false", "off", "off")
    assert nginx["proxy-body-size"] == f"{config.serve.max_body_bytes // 2**20}m"
    assert int(nginx["proxy-read-timeout"]) > config.serve.timeout_seconds


@each_overlay
def test_nothing_leaves_but_to_the_store(overlay: str):
    policies = of_kind(built(overlay), "NetworkPolicy").values()
    everything = [
        p for p in policies if p["spec"]["podSelector"] == {} and set(p["spec"]["policyTypes"]) == {"Egress", "Ingress"}
    ]
    assert [p for p in everything if "egress" not in p["spec"] and "ingress" not in p["spec"]]
    ways_out = [(target, rule.get("ports")) for p in policies for rule in p["spec"].get("egress", []) for target in rule["to"]]
    for target, ports in ways_out:
        if "ipBlock" in target:
            assert target["ipBlock"]["cidr"].endswith("/32")
            assert [port["port"] for port in ports] == [9000]
        elif "namespaceSelector" in target:
            assert target["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
            assert {port["port"] for port in ports} == {53}
        else:
            assert target == {"podSelector": {}}
    assert sum("ipBlock" in target for target, _ in ways_out) == 1
    ways_in = [source for p in policies for rule in p["spec"].get("ingress", []) for source in rule["from"]]
    assert not [source for source in ways_in if "ipBlock" in source]


@each_overlay
def test_each_cluster_asks_for_the_token_and_has_its_own_key_of_the_store(overlay: str):
    resources = built(overlay)
    clusters = {resource["metadata"]["name"]: kuberay.cluster_specs(resource) for resource in resources}
    for name, key in {"llumi": "llumi-store-trainer", "llumi-serve": "llumi-store-server"}.items():
        (cluster,) = clusters[name]
        assert cluster["authOptions"] == {"mode": "token", "secretName": "llumi-ray"}
        assert cluster["rayVersion"] == _pinned("ray")
        assert set(re.findall(r"llumi-store-\w+", yaml.safe_dump(cluster))) - {"llumi-store-ca"} == {key}


@each_overlay
def test_the_two_clusters_differ_in_nothing_else(overlay: str):
    """Their pods stand twice in the tree, since kustomize cannot say once what lies at two places."""

    def bare(template: dict[str, Any]) -> dict[str, Any]:
        (container,) = template["spec"]["containers"]
        same = {key: container[key] for key in ("securityContext", "image")}
        env = [entry for entry in container["env"] if not entry["name"].startswith("AWS_")]
        return {"security": template["spec"]["securityContext"], "env": env, **same}

    resources = {r["metadata"]["name"]: list(kuberay.templates(r)) for r in built(overlay)}
    assert [bare(t) for t in resources["llumi-serve"]] == [bare(t) for t in resources["llumi"]]


@pytest.mark.parametrize("manifest", ["base/serve.yaml", "jobs/pipeline.yaml"])
def test_a_job_runs_a_file_of_jobs_with_the_mounted_config(manifest: str):
    resource = yaml.safe_load((KUBERNETES / manifest).read_text(encoding="utf-8"))
    python, script, *options = shlex.split(resource["spec"]["entrypoint"])
    assert python == "python"
    assert (ROOT / script.removeprefix("/opt/llumi/")).is_file()
    assert options[:2] == ["--config", "/etc/llumi/config/ray_config.yaml"]
    if "clusterSelector" in resource["spec"]:
        work = yaml.safe_load((KUBERNETES / "base" / "raycluster.yaml").read_text())
        assert resource["spec"]["clusterSelector"] == {"ray.io/cluster": work["metadata"]["name"]}


@each_overlay
def test_the_workers_have_what_the_configuration_asks_for(overlay: str):
    config = load_config(KUBERNETES / "overlays" / overlay / "ray_config.yaml")
    (work,) = kuberay.cluster_specs(of_kind(built(overlay), "RayCluster")["llumi"])
    (group,) = work["workerGroupSpecs"]
    gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))
    assert group["replicas"] == config.train.num_workers
    assert (gpus == 1) == config.train.use_gpu == (overlay == "gpu")


def _version() -> str:
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def _pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]
