"""Toxiproxy, between a worker and its broker: the PATH's own, or built once by Go and kept in the repository's cache.

The broker must tell these clients the proxy's address (`tests.brokers.ProxiedKafka`), else they go past it.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import httpx
import pytest

from streamer.broker import HOST, BrokerProcess

CACHE = Path(__file__).parent.parent / ".cache" / "toxiproxy"
MODULE = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.5.0"


class ToxiproxyMissing(Exception):
    """It is not installed, and could not be built."""


def program() -> Path:
    """`toxiproxy-server` on the PATH, or what Go builds of its module."""
    if installed := shutil.which("toxiproxy-server"):
        return Path(installed)
    built = CACHE / MODULE.rpartition("@")[2] / "server"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # several test runs may share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            if shutil.which("go") is None:
                raise ToxiproxyMissing("toxiproxy is not installed, and there is no go to build it with")
            told = subprocess.run(
                ["go", "install", MODULE],
                env={**os.environ, "GOBIN": str(built.parent)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if told.returncode:
                raise ToxiproxyMissing(f"Go could not build toxiproxy:\n{told.stdout[-2000:]}")
    return built


def or_skip(upstream: str, port: int) -> "Toxiproxy":
    """A proxy before an address, not started yet; where it cannot be had the test is skipped, or fails if
    REQUIRE_TOXIPROXY=1 says that it must run."""
    try:
        return Toxiproxy(upstream, port)
    except ToxiproxyMissing as missing:
        if os.environ.get("REQUIRE_TOXIPROXY") == "1":
            pytest.fail(f"REQUIRE_TOXIPROXY is set: {missing}")
        pytest.skip(str(missing))


class Toxiproxy(BrokerProcess):
    """One proxy before one address, at `.through`; a context manager. It does one thing at a time, until `mend`."""

    kind = "toxiproxy"

    def __init__(self, upstream: str, port: int) -> None:
        super().__init__()
        self._program = program()
        self._upstream = upstream
        self.through = f"{HOST}:{port}"

    def command(self) -> Sequence[str | Path]:
        """Return the server's command line."""
        return [self._program, "-host", HOST, "-port", str(self.port)]

    def ready(self) -> bool:
        """Tell whether it takes orders."""
        try:
            return httpx.get(f"http://{self.bootstrap}/version", timeout=1).is_success
        except httpx.HTTPError:
            return False

    def __enter__(self) -> Self:
        super().__enter__()
        self._post("/proxies", name="broker", listen=self.through, upstream=self._upstream, enabled=True)
        return self

    def cut(self) -> None:
        """End all connections and take no more."""
        self._post("/proxies/broker", enabled=False)

    def mend(self) -> None:
        """Let everything through as it comes again."""
        self._post("/reset")

    def slow(self, latency_ms: int, jitter_ms: int, kb_per_s: int) -> None:
        """Delay and throttle what the broker answers."""
        self._toxic("latency", latency=latency_ms, jitter=jitter_ms)
        self._toxic("bandwidth", rate=kb_per_s)

    def reset_peers(self, after_ms: int) -> None:
        """End each connection with a TCP RST so long after its next byte."""
        self._toxic("reset_peer", timeout=after_ms)

    def black_hole(self) -> None:
        """Take what is sent and answer nothing, with the connections open."""
        self._toxic("timeout", timeout=0)

    def _toxic(self, kind: str, **attributes: int) -> None:
        self._post("/proxies/broker/toxics", name=kind, type=kind, stream="downstream", attributes=attributes)

    def _post(self, path: str, **body: object) -> None:
        answer = httpx.post(f"http://{self.bootstrap}{path}", json=body, timeout=10)
        assert answer.is_success, answer.text
