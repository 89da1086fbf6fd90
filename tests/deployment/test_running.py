"""A worker started as its image starts it: its health check and probes, and a real Prometheus that scrapes it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from streamer.broker import EmbeddedBroker, free_port
from tests import prometheus
from tests.deployment import dockerfile, test_kubernetes, test_monitoring
from tests.deployment.contract import ROOT
from tests.prometheus import Prometheus
from tests.tiny import Tiny
from tests.workers import PATIENCE_S, Stage, WorkerProcess

BIN = Path(sys.executable).parent
RANGE = "15s"  # what the dashboard's $__rate_interval is here: some scrapes
# nothing in this test makes them, so an answer may be empty; that they exist and parse is still held
ADAPTERS = "streamer_adapter_"


def listing(number: int, **fields: object) -> bytes:
    """A listing as JSON."""
    title = "Nike red cotton running shoes for women, water resistant"
    own = {"merchant_id": "m", "product_id": f"p{number}", "listing_version": 2, "title": title}
    return json.dumps({**own, "event_time": int(time.time() * 1000), **fields}).encode()


SPECIAL = [
    listing(0, listing_version=1),  # late
    listing(21, description="red cotton shoes " * 2_000),  # longer than what is read
    listing(22, deleted=True),
    b"\x00",  # a dead letter
]


async def test_a_container_runs_and_is_watched(tiny: Tiny, tmp_path: Path) -> None:
    """The image's command line, environment and health check work, the probes pass, every query of the dashboard has an
    answer in a Prometheus that scrapes the worker, and every alert rule is evaluated."""
    with prometheus.required():
        prometheus.program("prometheus")
    image = dockerfile.image("cpu", f"{BIN}:{os.defpath}")
    port = free_port()
    with EmbeddedBroker(log=tmp_path / "tansu.log") as broker:
        stage = Stage(
            broker, tiny, tmp_path, "stage", {"web_port": port, "web_host": image.environment["STREAMER_WEB_HOST"]}
        )
        await stage.create_topics()
        own = {name: value for name, value in stage.environment({}).items() if name.startswith("STREAMER_")}
        environment = image.environment | own
        command = [*image.entry_point, *image.command]
        with WorkerProcess.of_command(command, environment, tmp_path / "worker.log") as worker:
            await worker.until("consuming")
            assert await health(image, environment) == 0
            await probe(worker)
            config = configuration(tmp_path, port)
            with Prometheus(tmp_path, config) as server:
                await watched(stage, server)
            worker.terminate()
            assert await worker.exit_code() == 0
        assert await health(image, environment) != 0


async def health(image: dockerfile.Image, environment: dict[str, str]) -> int:
    """The exit code of the image's health check."""
    told = await asyncio.to_thread(subprocess.run, image.health, env=environment, capture_output=True, check=False)
    return told.returncode


async def probe(worker: WorkerProcess) -> None:
    """Ask what the probes of the Deployment ask."""
    container = test_kubernetes.worker("overlays/prod")
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        status, _ = await worker.get(container[name]["httpGet"]["path"])
        assert status == 200, name


def configuration(folder: Path, port: int) -> Path:
    """The configuration of docker-compose.yml, with one address in place of Docker's names."""
    config = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "monitoring" / name) for name in config["rule_files"]]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


async def watched(stage: Stage, server: Prometheus) -> None:
    """Publish until each query of the dashboard has an answer and each alert rule was evaluated."""
    queries = {query: query.replace("$__rate_interval", RANGE) for query in test_monitoring.QUERIES}
    alerts = {rule["alert"] for rule in test_monitoring.RULES}
    await stage.outcomes(await stage.publish([listing(0), *SPECIAL]), quiet_s=0)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        await stage.publish([listing(number) for number in range(20)])
        empty = [query for query, asked in queries.items() if not server.query(asked) and ADAPTERS not in query]
        health = server.alerts()
        if not empty and all(health.get(name) == "ok" for name in alerts):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"without an answer: {empty}; alerts: {health}; {stage.logs()}")
        await asyncio.sleep(1)  # a scrape
