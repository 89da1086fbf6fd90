"""Prometheus and promtool as the tests run them: the machine's own, or Debian's package, unpacked into the cache."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamer.broker import HOST, BrokerProcess

CACHE = Path(__file__).parent.parent / ".cache" / "prometheus"


class PrometheusMissing(Exception):
    """It is not installed, and Debian's package could not be fetched."""


@contextmanager
def required() -> Iterator[None]:
    """Skip the test that finds no Prometheus; where REQUIRE_PROMETHEUS=1 it fails."""
    try:
        yield
    except PrometheusMissing as missing:
        if os.environ.get("REQUIRE_PROMETHEUS") == "1":
            pytest.fail(f"REQUIRE_PROMETHEUS is set: {missing}")
        pytest.skip(str(missing))


def program(name: str) -> Path:
    """`prometheus` or `promtool`: on the PATH, or from the package, which is fetched once and needs no installation."""
    if installed := shutil.which(name):
        return Path(installed)
    folder = CACHE / "debian"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # several test runs may share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for tool in ("apt-get", "dpkg-deb"):
                if shutil.which(tool) is None:
                    raise PrometheusMissing(f"Prometheus is not installed, and there is no {tool} to fetch it with")
            if _run(["apt-get", "-q", "download", "prometheus"], partial).returncode:
                _run(["apt-get", "-q", "update"], partial)  # a machine that has never asked for its list of packages
                told = _run(["apt-get", "-q", "download", "prometheus"], partial)
                if told.returncode:
                    raise PrometheusMissing(f"Debian's package prometheus could not be fetched:\n{told.stdout[-2000:]}")
            (package,) = partial.glob("prometheus_*.deb")
            _run(["dpkg-deb", "-x", package, partial]).check_returncode()
            partial.rename(folder)
    return folder / "usr" / "bin" / name


def _run(command: Sequence[str | Path], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )


class Prometheus(BrokerProcess):
    """A server on a free port of the loopback address with a configuration file; `query` asks it."""

    kind = "prometheus"
    start_timeout_s = 30.0

    def __init__(self, folder: Path, config: Path) -> None:
        super().__init__(log=folder / "prometheus.log")
        self._program = program("prometheus")
        self._folder = folder
        self._config = config

    def command(self) -> Sequence[str | Path]:
        """Return the server's command line."""
        flags = {
            "config.file": self._config,
            "storage.tsdb.path": self._folder / "data",
            "web.listen-address": f"{HOST}:{self.port}",
        }
        return [self._program, *(f"--{name}={value}" for name, value in flags.items())]

    def ready(self) -> bool:
        """Tell whether it answers queries."""
        try:
            return httpx.get(f"http://{self.bootstrap}/-/ready", timeout=1).is_success
        except httpx.HTTPError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query; raises for one that Prometheus refuses."""
        return self._data("query", query=expression)["result"]

    def alerts(self) -> dict[str, str]:
        """Health by name of each alert rule: `ok` once it was evaluated."""
        groups = self._data("rules")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def _data(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = httpx.get(f"http://{self.bootstrap}/api/v1/{path}", params=parameters, timeout=10)
        assert answer.is_success, answer.text
        return answer.json()["data"]
