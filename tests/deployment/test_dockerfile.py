"""The Dockerfile against the code. That it builds, and that what it builds runs, is in test_image.py."""

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.deployment import dockerfile
from tests.deployment.contract import ROOT, parsed, paths, settings_of

BIN = Path(sys.executable).parent
TARGETS = ["cpu", "cuda"]


def test_hadolint_has_nothing_to_say() -> None:
    """The linter's rules hold."""
    told = subprocess.run([BIN / "hadolint", dockerfile.PATH], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
async def test_a_container_runs_the_worker(target: str) -> None:
    """Entry point, settings, port and health check are ones that the code has."""
    image = dockerfile.image(target)
    settings = settings_of({k: v for k, v in image.environment.items() if k.startswith("STREAMER_")})
    assert image.entry_point == ["streamer"]
    assert parsed(image.command) == ("worker", {})
    assert image.ports == {settings.web_port}
    assert settings.web_host == "0.0.0.0"  # noqa: S104  or nobody reaches it
    asked = " ".join(image.health)
    assert "STREAMER_WEB_PORT" in image.environment
    assert "os.environ['STREAMER_WEB_PORT']" in asked
    assert set(re.findall(r"'(/\w+)'", asked)) == {"/healthz"} <= await paths()


@pytest.mark.parametrize("target", TARGETS)
def test_a_container_is_not_root(target: str) -> None:
    """By number, so that Kubernetes can check it."""
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", dockerfile.image(target).user)


def test_base_images_are_pinned() -> None:
    """By a tag with three numbers, the same for building and running."""
    known = dockerfile.stages()
    images = {stage.base for stage in known.values() if stage.base not in known}
    assert len(images) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", images.pop())


def test_the_images_differ_in_torch_alone() -> None:
    """Both are built in the same steps; one takes torch's CPU build, and one shows the driver what it needs."""
    known = dockerfile.stages()
    cpu, cuda = known["build-cpu"].own, known["build-cuda"].own
    assert [step for step in cpu if step not in cuda] == [("ENV", "UV_TORCH_BACKEND=cpu")]
    assert [step for step in cuda if step not in cpu] == []
    copies = [value.replace("build-cuda", "build-cpu") for name, value in known["cuda"].own if name == "COPY"]
    assert copies == [value for name, value in known["cpu"].own if name == "COPY"]


def sent() -> set[str]:
    """The files of the repository that .dockerignore lets through, by its rules as far as it uses them."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]  # what is not committed is sent too
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    found = set()
    for name in names:
        out = not (ROOT / name).is_file()
        for rule in rules:
            pattern = rule.lstrip("!")
            if fnmatch(name, pattern) or name.startswith(f"{pattern}/"):
                out = not rule.startswith("!")
        if not out:
            found.add(name)
    return found


def test_only_what_is_built_is_sent() -> None:
    """The packages and what their build reads; no tests, no .git."""
    files = sent()
    folders = {name.partition("/")[0] for name in files if "/" in name}
    assert folders == {"schemas", "streamer", "taggen"}
    assert {name for name in files if "/" not in name} == {"pyproject.toml", "requirements.txt", "README.md", "LICENSE"}
    for name, value in dockerfile.instructions("build-cpu"):
        if name == "COPY":
            sources = set(value.split()[:-1])
            assert sources <= files | {"."}, value
