"""The worker's web server."""

from dataclasses import dataclass

import aiohttp

from streamer.metrics import Metrics
from streamer.web import WebServer


@dataclass
class Health:
    healthy: bool
    ready: bool


async def test_answers_follow_the_worker() -> None:
    """200 or 503 as the worker is; the metrics in Prometheus' format."""
    health = Health(healthy=True, ready=False)
    server = WebServer(health, Metrics(), "127.0.0.1", 0)
    port = await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:

            async def status(path: str) -> int:
                async with client.get(path) as response:
                    return response.status

            assert (await status("/healthz"), await status("/readyz")) == (200, 503)
            health.healthy, health.ready = False, True
            assert (await status("/healthz"), await status("/readyz")) == (503, 200)
            async with client.get("/metrics") as response:
                assert response.headers["Content-Type"].startswith("text/plain")
                assert "streamer_events_in_hand 0.0" in await response.text()
    finally:
        await server.stop()
