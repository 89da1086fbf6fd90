"""The worker's small web server: /metrics, /healthz (restart me when not 200), /readyz (it consumes)."""

from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from streamer.metrics import Metrics


class Health(Protocol):
    """What the server asks the worker."""

    @property
    def healthy(self) -> bool:
        """False: restart it."""

    @property
    def ready(self) -> bool:
        """True: it consumes."""


class WebServer:
    """Runs in the worker's event loop; a loop that is blocked does not answer, which is an answer too."""

    def __init__(self, health: Health, metrics: Metrics, host: str, port: int) -> None:
        self._health = health
        self._metrics = metrics
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError when it is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._exposition)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self._health.healthy)

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self._health.ready)


def _answer(good: bool) -> web.Response:
    return web.Response(text="ok\n" if good else "no\n", status=200 if good else 503)
