"""docker-compose.yml against the compose specification, the code, and the versions that the tests run."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from compose_spec import PyCompose

from streamer import topics
from streamer.broker import free_port
from streamer.settings import Settings
from tests.apicurio import ARTIFACT
from tests.brokers import POM, ApacheKafka, KafkaMissing
from tests.deployment import dockerfile
from tests.deployment.contract import ROOT, parsed, settings_of

PATH = ROOT / "docker-compose.yml"
BIN = Path(sys.executable).parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(PATH.read_text(encoding="utf-8"))["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("stream-taggen")}
WORKERS = {name: service for name, service in OURS.items() if service["command"] == ["worker"]}


def settings(service: dict[str, Any]) -> Settings:
    """What a service's process would read: the image's environment, the service's over it."""
    environment = dockerfile.image(service["build"]["target"]).environment | service["environment"]
    return settings_of({name: value for name, value in environment.items() if name.startswith("STREAMER_")})


def published(name: str) -> dict[int, int]:
    """Port on the host -> port in the container."""
    ports = [port.split(":") for port in SERVICES[name].get("ports", ())]
    return {int(port[-2]): int(port[-1]) for port in ports}


def test_it_is_a_compose_file() -> None:
    """By the compose specification: every field and form."""
    merged = yaml.safe_load(PATH.read_text(encoding="utf-8"))  # the parser's own merge stops at the first level
    compose = PyCompose.from_yaml(yaml.safe_dump(merged))
    compose.validate()
    assert set(compose.service_names()) == set(SERVICES)
    for name, service in SERVICES.items():  # which the parser leaves to Docker
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        named = {volume.partition(":")[0] for volume in service.get("volumes", ()) if not volume.startswith("./")}
        assert named <= set(merged["volumes"]), name


def test_the_linter_has_nothing_to_say() -> None:
    """Beside what .compose-lint.yml gives a reason for."""
    told = subprocess.run([BIN / "compose-lint", "--fail-on", "low", PATH], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("name", OURS)
def test_our_containers_fit_the_code(name: str) -> None:
    """Settings, command and user are ones that code and image have; every one finds broker, registry and store."""
    service = OURS[name]
    target = service["build"]["target"]
    assert service["image"] == f"stream-taggen:{target}"
    found = settings(service)
    if service["command"] != ["--help"]:
        parsed(service["command"])
    assert service["user"] == dockerfile.image(target).user
    assert service["read_only"]
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == [dockerfile.image(target).folder]
    assert found.kafka_bootstrap == advertised()["INSIDE"]
    url = urlsplit(found.schema_registry_url)
    assert (url.hostname, str(url.port)) == ("registry", SERVICES["registry"]["environment"]["QUARKUS_HTTP_PORT"])
    for volume in service.get("volumes", ()):
        assert volume.split(":")[1] == found.adapter_store
        assert any(found.adapter_store in value for _, value in dockerfile.instructions(target))  # who owns it


def test_workers_may_finish() -> None:
    """Compose waits longer than a worker drains, and shows its port to Prometheus."""
    assert set(WORKERS) == {"worker", "worker-gpu"}
    for service in WORKERS.values():
        found = settings(service)
        assert float(service["stop_grace_period"].removesuffix("s")) > found.drain_s + 5
        assert service["expose"] == [str(found.web_port)]
    assert settings(WORKERS["worker-gpu"]).device == "cuda"
    assert WORKERS["worker-gpu"]["profiles"] == ["gpu"]


def test_topics_and_schemas_come_before_workers() -> None:
    """One-shot services make them, and each worker waits for their success."""
    for name, command in (("topics", "topics create"), ("schemas", "schemas register")):
        assert parsed(SERVICES[name]["command"])[0] == command
        assert SERVICES[name]["restart"] == "no"
        for service in WORKERS.values():
            assert service["depends_on"][name]["condition"] == "service_completed_successfully"
    assert all(volume.endswith(":ro") for service in WORKERS.values() for volume in service["volumes"])


def advertised() -> dict[str, str]:
    """Kafka's listeners as its clients are told of them: name -> host:port."""
    value = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    return dict(listener.split("://") for listener in value.split(","))


def test_commands_on_the_host_reach_the_stack() -> None:
    """`streamer publish` without any setting finds the broker; the registry's port and path are as told."""
    listeners = advertised()
    assert listeners["HOST"] == Settings.model_fields["kafka_bootstrap"].default
    assert listeners["INSIDE"].startswith("kafka:")
    assert list(published("kafka")) == [int(listeners["HOST"].rpartition(":")[2])]
    told = "http://127.0.0.1:{}/apis/ccompat/v7".format(*published("registry"))
    assert f"STREAMER_SCHEMA_REGISTRY_URL={told}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_ports_are_for_this_machine() -> None:
    """Nothing listens to a network: no service here asks who is there."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_versions_are_those_that_the_tests_run() -> None:
    """Kafka and the registry; the others are pinned by a full version."""
    kafka = re.search(r"<artifactId>kafka_2.13</artifactId>\s*<version>([^<]+)", POM.read_text(encoding="utf-8"))
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka[1]}"
    assert SERVICES["registry"]["image"] == f"apicurio/apicurio-registry:{ARTIFACT.split(':')[2]}"
    for name in SERVICES.keys() - OURS.keys():
        assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[name]["image"]), name


def test_health_checks_ask_their_own_service() -> None:
    """Each check of ours that names a port names one on which its service listens."""
    listening = {
        "kafka": {19092},
        "registry": {8081},
        "prometheus": set(published("prometheus").values()),
        "grafana": set(published("grafana").values()),
        "kafka-ui": set(published("kafka-ui").values()),
    }
    for name, ports in listening.items():
        asked = re.findall(r"(?:127\.0\.0\.1|kafka):(\d+)", " ".join(SERVICES[name]["healthcheck"]["test"]))
        assert {int(port) for port in asked} == ports, name


def mounts(name: str) -> dict[str, str]:
    """Path in the container -> path in the repository."""
    volumes = [volume.split(":") for volume in SERVICES[name]["volumes"]]
    return {volume[1]: volume[0] for volume in volumes if volume[0].startswith("./")}


def test_prometheus_finds_its_files_and_the_workers() -> None:
    """What is mounted is there, where the configuration looks; the scraped names and port are the workers'."""
    files = mounts("prometheus")
    flags = dict(flag.split("=", 1) for flag in SERVICES["prometheus"]["command"])
    config_file = ROOT / files[flags["--config.file"]]
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    folder = flags["--config.file"].rpartition("/")[0]
    for rule_file in config["rule_files"]:
        assert (ROOT / files[f"{folder}/{rule_file}"]).is_file()
    (found,) = config["scrape_configs"][0]["dns_sd_configs"]
    assert set(found["names"]) == set(WORKERS)
    assert {found["port"]} == {settings(service).web_port for service in WORKERS.values()}


def test_grafana_finds_its_files_and_prometheus() -> None:
    """The provider's folder is where the dashboard is mounted, the data source is Prometheus' own port."""
    files = {path: ROOT / source for path, source in mounts("grafana").items()}
    assert all(source.is_file() for source in files.values())
    (provider,) = yaml.safe_load(files["/etc/grafana/provisioning/dashboards/streamer.yml"].read_text())["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in files
    assert home.rpartition("/")[0] == provider["options"]["path"]
    (source,) = yaml.safe_load(files["/etc/grafana/provisioning/datasources/prometheus.yml"].read_text())["datasources"]
    url = urlsplit(source["url"])
    assert url.hostname == "prometheus"
    assert url.port in published("prometheus").values()


class ComposedKafka(ApacheKafka):
    """Apache Kafka with the settings of docker-compose.yml, its names and ports moved to this machine."""

    def _properties(self) -> dict[str, object]:
        # the image's own rule: KAFKA_LOG_DIRS is log.dirs
        found: dict[str, Any] = {
            name.removeprefix("KAFKA_").lower().replace("_", "."): value
            for name, value in SERVICES["kafka"]["environment"].items()
            if name != "KAFKA_HEAP_OPTS"
        }
        moved = {"19092": free_port(), "9092": self.port, "9093": self._controllers[0]}
        for name in ("listeners", "advertised.listeners", "controller.quorum.voters"):
            value = re.sub(r"kafka:|0\.0\.0\.0:", "127.0.0.1:", found[name])
            found[name] = re.sub(r":(\d+)", lambda port: f":{moved[port[1]]}", value)
        return found | {"log.dirs": self.folder / "data"}


@pytest.mark.kafka
def test_kafka_starts_and_the_topics_come_to_be(tmp_path: Path) -> None:
    """Apache Kafka takes the broker's settings as they stand, and the one-shot service creates every topic."""
    try:
        kafka = ComposedKafka(tmp_path)
    except KafkaMissing as missing:
        if os.environ.get("REQUIRE_JAVA") == "1":
            pytest.fail(f"REQUIRE_JAVA is set: {missing}")
        pytest.skip(str(missing))
    with kafka:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
        environment |= SERVICES["topics"]["environment"] | {"STREAMER_KAFKA_BOOTSTRAP": kafka.bootstrap}
        command = [sys.executable, "-m", "streamer", *SERVICES["topics"]["command"]]
        told = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    created = re.findall(r"^(\S+): created, (\d+) partitions?$", told.stdout, re.MULTILINE)
    wanted = topics.wanted(settings(SERVICES["topics"]), parsed(SERVICES["topics"]["command"])[1]["partitions"])
    assert dict(created) == {topic.name: str(topic.partitions) for topic in wanted}
