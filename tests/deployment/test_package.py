"""`make package`: what is in wheel and sdist, and that the wheel works where our source tree is not."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.deployment.contract import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
UV = [sys.executable, "-m", "uv"]
PACKAGES = ("taggen/", "streamer/", "schemas/")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `make package` builds, by ending; built elsewhere, since dist/ is the developer's."""
    recipe = subprocess.run(["make", "-n", "package"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".venv/bin/uv build -q" in recipe
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([*UV, "build", "-q", "--out-dir", folder], cwd=ROOT, check=True)
    built = {path.suffix: path for path in folder.iterdir() if not path.name.startswith(".")}
    assert set(built) == {".whl", ".gz"}
    return built


def source() -> set[str]:
    """The files of the packages, as far as git does not ignore them."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    told = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in told.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_holds_the_packages(packages: dict[str, Path]) -> None:
    """Every file of the three packages, data included, and besides them only its own description."""
    with ZipFile(packages[".whl"]) as wheel:
        names = set(wheel.namelist())
    inside = {name for name in names if name.startswith(PACKAGES)}
    assert source() - inside == set()
    assert {name.partition("/")[0].rpartition(".")[2] for name in names - inside} == {"dist-info"}


def test_the_sdist_builds_the_same(packages: dict[str, Path], tmp_path: Path) -> None:
    """A wheel from the sdist alone has the same files; neither carries what a checkout collects."""
    with tarfile.open(packages[".gz"]) as sdist:
        names = sdist.getnames()
    assert not [name for name in names if {".venv", ".cache", "__pycache__", ".git"} & set(name.split("/"))]
    subprocess.run([*UV, "build", "-q", "--wheel", "--out-dir", tmp_path, packages[".gz"]], check=True)
    (again,) = tmp_path.glob("*.whl")
    with ZipFile(again) as theirs, ZipFile(packages[".whl"]) as ours:
        assert set(theirs.namelist()) == set(ours.namelist())


def test_the_wheel_tags_a_listing(packages: dict[str, Path], tmp_path: Path) -> None:
    """Installed into an environment of its own, with the locked versions of its dependencies and no cache of ours, the
    command tags, and so does a program that uses the library."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMER_", "PYTHON"))}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    place = tmp_path / "venv"
    subprocess.run([*UV, "venv", "-q", "--python", sys.executable, place], check=True)
    install = ["pip", "install", "-q", "--python", place / "bin" / "python", "--constraint", ROOT / "requirements.txt"]
    subprocess.run([*UV, *install, packages[".whl"]], check=True)

    def run(*command: str | Path, text: str | None = None) -> str:
        told = subprocess.run(
            command, cwd=tmp_path, env=environment, input=text, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr[-3000:]
        return told.stdout

    told = run(place / "bin" / "taggen", "tag", "-", text=json.dumps({"title": "Nike Air Force 1, red leather"}))
    tags = {(tag["name"], tag["value"]) for tag in json.loads(told)["tags"]}
    assert ("brand", "Nike") in tags
    assert "worker" in run(place / "bin" / "streamer", "--help")
    where = run(place / "bin" / "python", "-c", "import taggen, streamer, schemas; print(taggen.__file__)")
    assert Path(where.strip()).is_relative_to(place)
