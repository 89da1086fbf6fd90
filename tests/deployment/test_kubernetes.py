"""k8s/, rendered by kustomize, against Kubernetes' own schemas, those of the kinds that others define, and the code."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from streamer.settings import PREFIX, Settings
from tests.deployment import dockerfile
from tests.deployment.contract import ROOT, parsed, paths, settings_of

K8S = ROOT / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"
CRDS = Path(__file__).parent / "crds"
VERSIONS = ["1.30", "1.37"]  # of Kubernetes
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
JOBS = sorted(path.parent.name for path in K8S.glob("jobs/*/kustomization.yaml"))
ROOTS = [f"overlays/{name}" for name in OVERLAYS] + [f"jobs/{name}" for name in JOBS]
SECRETS = {  # what the README of the environment asks for -> a value of the right kind
    ("streamer-kafka", "username"): "worker",
    ("streamer-kafka", "password"): "secret",
    ("streamer-kafka", "ca.crt"): "",
    ("streamer-registry", "url"): "https://worker:secret@registry.example.com",
    **{
        (secret, key): "secret"
        for secret in ("streamer-store", "streamer-store-publisher")
        for key in ("access-key-id", "secret-access-key")
    },
}

Manifest = dict[str, Any]


@cache
def rendered(root: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k k8s/ROOT` would apply."""
    told = subprocess.run([KUBECTL, "kustomize", K8S / root], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""  # deprecated fields are told there
    return tuple(yaml.safe_load_all(told.stdout))


def of(root: str, kind: str, name: str = "streamer") -> Manifest:
    """The one manifest of a kind with a name."""
    (found,) = [one for one in rendered(root) if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pods(root: str) -> dict[str, Manifest]:
    """The pod specifications of Deployments and Jobs by name."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in rendered(root)
        if one["kind"] in ("Deployment", "Job")
    }


def environment(root: str, container: Manifest) -> dict[str, str]:
    """A container's environment as the kubelet makes it: the image's, then ConfigMaps, then its own variables."""
    target = container["image"].rpartition("-")[2]
    found = dict(dockerfile.image(target).environment)
    for source in container["envFrom"]:
        found |= of(root, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", ()):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        else:
            reference = variable["valueFrom"]["secretKeyRef"]
            found[variable["name"]] = SECRETS[reference["name"], reference["key"]]
    return found


def settings(root: str, container: Manifest) -> Settings:
    """What the container's process would read."""
    return settings_of({k: v for k, v in environment(root, container).items() if k.startswith(PREFIX)})


def worker(root: str) -> Manifest:
    """The container of the Deployment."""
    (container,) = of(root, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest(root: str, version: str) -> None:
    """In strict mode: no field that its kind does not have, those of KEDA and of the Prometheus operator included."""
    for manifest in rendered(root):
        schema = CRDS / f"{manifest['kind'].lower()}.json"
        if schema.exists():
            jsonschema.validate(manifest, json.loads(schema.read_text(encoding="utf-8")))
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("root", ROOTS)
def test_containers_fit_the_code(root: str) -> None:
    """Settings and command of each container are ones that the code has."""
    assert pods(root)
    for name, pod in pods(root).items():
        (container,) = pod["containers"]
        assert container["image"].rpartition("-")[2] in dockerfile.stages(), name
        settings(root, container)
        parsed(container["args"])
        assert "command" not in container, name  # the image's entry point


@pytest.mark.parametrize("root", ROOTS)
def test_nothing_runs_with_more_than_it_needs(root: str) -> None:
    """No root, no writable root file system, no capabilities, no token of Kubernetes', memory bounded."""
    for pod in pods(root).values():
        user = pod["securityContext"]
        (container,) = pod["containers"]
        target = container["image"].rpartition("-")[2]
        assert f"{user['runAsUser']}:{user['runAsGroup']}" == dockerfile.image(target).user
        assert user["runAsNonRoot"]
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not pod["automountServiceAccountToken"]
        assert pod["serviceAccountName"] == "streamer"
        assert container["resources"]["limits"]["memory"]
        writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert dockerfile.image(target).folder in writable


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_account_has_no_token(overlay: str) -> None:
    """Neither by the pod nor by the account."""
    assert not of(f"overlays/{overlay}", "ServiceAccount")["automountServiceAccountToken"]


@pytest.mark.parametrize("root", ROOTS)
def test_services_give_no_variables(root: str) -> None:
    """A Service named streamer would give STREAMER_PORT and others, which the settings refuse."""
    for pod in pods(root).values():
        assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("root", ROOTS)
def test_secrets_come_by_reference(root: str) -> None:
    """No Secret is in the repository, and each that is referred to is one that the environment's comment names."""
    assert [one for one in rendered(root) if one["kind"] == "Secret"] == []
    comment = (K8S / "environments" / "prod" / "kustomization.yaml").read_text(encoding="utf-8")
    for name, key in SECRETS:
        assert name in comment
        assert key in comment
    for pod in pods(root).values():
        for volume in pod["volumes"]:
            for item in volume.get("secret", {}).get("items", ()):
                assert (volume["secret"]["secretName"], item["key"]) in SECRETS


@pytest.mark.parametrize("root", ROOTS)
def test_files_of_the_settings_are_mounted(root: str) -> None:
    """Where a setting names a file, a volume has it there."""
    for pod in pods(root).values():
        (container,) = pod["containers"]
        found = settings(root, container)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        there = {
            f"{mount['mountPath']}/{item['path']}"
            for mount in container["volumeMounts"]
            for item in volumes[mount["name"]].get("secret", {}).get("items", ())
        }
        wanted = {str(path) for path in (found.ssl_ca_file, found.ssl_cert_file, found.ssl_key_file) if path}
        assert wanted == there


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_probes_ask_what_the_worker_answers(overlay: str) -> None:
    """The paths are the web server's, the port is the one that it listens on, and others may reach it."""
    root = f"overlays/{overlay}"
    container = worker(root)
    found = settings(root, container)
    (port,) = container["ports"]
    assert port["containerPort"] == found.web_port
    assert found.web_host == "0.0.0.0"  # noqa: S104
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert path in await paths()
    restart_s = container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"]
    assert restart_s > found.broker_retry_s  # a worker that waits for a broker is not killed before it gives up


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_may_finish(overlay: str) -> None:
    """Kubernetes waits longer than a worker drains; a rollout and a drained node take one worker at a time."""
    root = f"overlays/{overlay}"
    deployment = of(root, "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= settings(root, worker(root)).drain_s + 10
    rolling = deployment["strategy"]["rollingUpdate"]
    assert sorted(rolling.values()) == [0, 1]
    assert of(root, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert "replicas" not in deployment  # KEDA's


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_the_workers(overlay: str) -> None:
    """Service, monitor, disruption budget and spread select the worker's pods and no Job's; the policy selects both."""
    root = f"overlays/{overlay}"
    deployment = of(root, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    job = of(root, "Job", "streamer-topics")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        of(root, "Service")["spec"]["selector"],
        of(root, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(
            constraint["labelSelector"]["matchLabels"]
            for constraint in deployment["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    for selector in selectors:
        assert selector.items() <= labels
        assert not selector.items() <= job
    policy = of(root, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
    assert policy <= labels
    assert policy <= job


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_prometheus_finds_the_workers(overlay: str) -> None:
    """The monitor selects the Service and names its port and path; the policy lets Prometheus in, and nobody else."""
    root = f"overlays/{overlay}"
    service, monitor = of(root, "Service"), of(root, "ServiceMonitor")
    found = settings(root, worker(root))
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    (port,) = service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    assert endpoint["path"] in await paths()
    assert port["port"] == found.web_port
    assert port["targetPort"] in {one["name"] for one in worker(root)["ports"]}
    assert service["metadata"]["name"] == "streamer"  # the job's name, which the alerts use
    (ingress,) = of(root, "NetworkPolicy")["spec"]["ingress"]
    assert [one["port"] for one in ingress["ports"]] == [found.web_port]


@pytest.mark.parametrize("root", ROOTS)
def test_the_policy_lets_out_to_kafka(root: str) -> None:
    """Every port of the bootstrap servers and of the registry."""
    for pod in pods(root).values():
        found = settings(root, pod["containers"][0])
        ports = {int(server.rpartition(":")[2]) for server in found.kafka_bootstrap.split(",")}
        if found.schema_registry_url or (found.adapter_store or "").startswith("s3:"):
            ports.add(443)
        overlay = "overlays/dev" if "dev" in root else "overlays/prod"
        rules = of(overlay, "NetworkPolicy")["spec"]["egress"]
        assert ports <= {port["port"] for rule in rules for port in rule["ports"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_scaling_stays_within_the_partitions(overlay: str) -> None:
    """KEDA watches the worker's group on every topic that it reads, and never asks for more workers than partitions."""
    root = f"overlays/{overlay}"
    scaled = of(root, "ScaledObject")["spec"]
    found = settings(root, worker(root))
    (job,) = of(root, "Job", "streamer-topics")["spec"]["template"]["spec"]["containers"]
    _, options = parsed(job["args"])
    assert scaled["scaleTargetRef"] == {"name": of(root, "Deployment")["metadata"]["name"]}
    assert 0 < scaled["minReplicaCount"] <= scaled["fallback"]["replicas"] <= scaled["maxReplicaCount"]
    assert scaled["maxReplicaCount"] <= options["partitions"]
    assert options["partitions"] % scaled["maxReplicaCount"] == 0  # equal shares at the most
    triggers = [trigger["metadata"] for trigger in scaled["triggers"]]
    assert {trigger["topic"] for trigger in triggers} == set(found.input_topics)
    for trigger in triggers:
        assert trigger["consumerGroup"] == found.group_id
        assert trigger["bootstrapServers"] == found.kafka_bootstrap
        mechanism = trigger.get("sasl", "none").replace("scram_sha", "SCRAM-SHA-").upper()
        wanted = found.sasl_mechanism if "SASL" in found.security_protocol else "NONE"
        assert mechanism == wanted
        assert (trigger.get("tls") == "enable") == ("SSL" in found.security_protocol)


def test_production_is_on_gpus_and_safe() -> None:
    """GPUs asked for and selected, an encrypted Kafka with passwords, three copies of each record."""
    root = "overlays/prod"
    pod = of(root, "Deployment")["spec"]["template"]["spec"]
    resources = worker(root)["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"]
    assert pod["tolerations"]
    found = settings(root, worker(root))
    assert found.device == "cuda"
    assert found.security_protocol == "SASL_SSL"
    (job,) = of(root, "Job", "streamer-topics")["spec"]["template"]["spec"]["containers"]
    assert parsed(job["args"])[1]["replication_factor"] == 3
    (authentication,) = [one for one in rendered(root) if one["kind"] == "TriggerAuthentication"]
    assert {(one["name"], one["key"]) for one in authentication["spec"]["secretTargetRef"]} <= set(SECRETS)


@pytest.mark.parametrize("root", ROOTS)
def test_what_uses_the_store_may(root: str) -> None:
    """The workers read it, the publishing job writes: each with keys of its own."""
    names = {}
    for name, pod in pods(root).items():
        (container,) = pod["containers"]
        keys = [one for one in container.get("env", ()) if one["name"].startswith("AWS_")]
        names[name] = {one["valueFrom"]["secretKeyRef"]["name"] for one in keys}
        command, _ = parsed(container["args"])
        stores = settings(root, container).adapter_store is not None
        if command in ("worker", "replay") and stores:
            assert names[name] == {"streamer-store"}
        elif command == "adapters publish":
            assert stores
            assert names[name] == {"streamer-store-publisher"}
        else:
            assert names[name] == set()


def test_a_replay_shares_what_its_job_has() -> None:
    """A core for each of its processes, and a partition at least."""
    (job,) = of("jobs/replay", "Job", "streamer-replay")["spec"]["template"]["spec"]["containers"]
    (topics,) = of("overlays/prod", "Job", "streamer-topics")["spec"]["template"]["spec"]["containers"]
    workers = parsed(job["args"])[1]["workers"]
    assert 1 < workers <= int(job["resources"]["requests"]["cpu"])
    assert workers <= parsed(topics["args"])[1]["partitions"]


def test_production_registers_its_schemas() -> None:
    """By a job of its own, at each deployment, since it has a registry."""
    root = "overlays/prod"
    (job,) = of(root, "Job", "streamer-schemas")["spec"]["template"]["spec"]["containers"]
    assert parsed(job["args"])[0] == "schemas register"
    assert settings(root, worker(root)).schema_registry_url


def test_alerts_and_dashboard_are_the_ones_that_are_tested() -> None:
    """The PrometheusRule holds the groups of monitoring/alerts.yml, the ConfigMap the dashboard."""
    groups = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    dashboard = (ROOT / "monitoring" / "dashboard.json").read_text(encoding="utf-8")
    for overlay in OVERLAYS:
        root = f"overlays/{overlay}"
        assert of(root, "PrometheusRule")["spec"]["groups"] == groups
        assert list(of(root, "ConfigMap", "streamer-dashboard")["data"].values()) == [dashboard]
