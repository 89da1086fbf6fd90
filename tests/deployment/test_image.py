"""The image: its Dockerfile's steps in an empty root, and the worker that comes out, as a container runs it."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.broker import EmbeddedBroker, free_port
from streamer.records import TagEvent
from tests.deployment import chroot, dockerfile
from tests.deployment.chroot import Root
from tests.deployment.test_dockerfile import sent
from tests.tiny import Tiny
from tests.workers import Stage, WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
TARGET = "cuda"  # its torch comes from where all packages come from; the other target is held to the same steps


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """The built image; several gigabytes, gone afterwards."""
    if reason := chroot.impossible():
        pytest.skip(f"building an image without a container engine {reason}")
    folder = tmp_path_factory.mktemp("image")
    yield chroot.build(TARGET, folder, sent())
    subprocess.run(["rm", "-rf", folder], check=True)


async def test_a_worker_tags_from_the_image(root: Root, tiny: Tiny, tmp_path: Path) -> None:
    """As the image's user, on a read-only root file system, with the base model that was built in: it tags a listing,
    its health check passes, and SIGTERM ends it in order."""
    image = dockerfile.image(TARGET)
    with EmbeddedBroker(log=tmp_path / "tansu.log") as broker:
        stage = Stage(broker, tiny, tmp_path, "image", {"web_port": free_port(), "web_host": "0.0.0.0"})  # noqa: S104
        await stage.create_topics()
        own = {name: value for name, value in stage.environment({}).items() if name.startswith("STREAMER_")}
        for built_in in ("STREAMER_BASE_MODEL", "STREAMER_DEFAULT_ADAPTER"):
            del own[built_in]
        environment = image.environment | own

        def inside(command: list[str]) -> list[str]:
            return root.command(command, environment, image.folder, image.user, read_only=True)

        with WorkerProcess.of_command(
            inside([*image.entry_point, *image.command]), {}, tmp_path / "worker.log"
        ) as worker:
            await worker.until("consuming")
            assert subprocess.run(inside(image.health), check=False).returncode == 0  # noqa: ASYNC221
            listing = {"merchant_id": "m", "product_id": "p", "listing_version": 1, "title": "Nike Air Force 1, red"}
            places = await stage.publish([json.dumps({**listing, "event_time": int(time.time() * 1000)}).encode()])
            (outcomes,) = (await stage.outcomes(places)).values()
            worker.terminate()
            assert await worker.exit_code() == 0
    (event,) = outcomes
    assert isinstance(event, TagEvent)
    assert ("brand", "Nike") in {(tag.name, tag.value) for tag in event.tags}


def test_the_image_writes_nowhere_but_in_tmp(root: Root) -> None:
    """The test above is one of a read-only root: a write fails, one into /tmp does not."""
    image = dockerfile.image(TARGET)

    def writes(path: str) -> int:
        command = root.command(["touch", path], image.environment, image.folder, image.user, read_only=True)
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode

    assert writes("/tmp/x") == 0  # noqa: S108
    assert [writes(path) for path in ("/x", "/opt/venv/x", "/opt/cache/x", "/usr/local/x")] == [1, 1, 1, 1]
