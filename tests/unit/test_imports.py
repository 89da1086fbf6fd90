import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKED = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Wall())
"""


def imported(package: str) -> Iterator[tuple[Path, str]]:
    """Each module of the package and each top-level name that it imports, anywhere in it."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield path, package if node.level else (node.module or "").partition(".")[0]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("taggen", {"streamer", "schemas", "tests", "aiokafka", "faust", "mode", "fastavro", "aiohttp"}),
        ("schemas", {"streamer", "taggen", "tests", "aiokafka", "faust", "mode"}),
        ("streamer", {"tests"}),
    ],
)
def test_packages_import_in_one_direction(package: str, forbidden: set[str]) -> None:
    """streamer imports taggen and schemas, never back; what runs never imports tests."""
    found = list(imported(package))
    assert found
    assert [(str(path.relative_to(ROOT)), name) for path, name in found if name in forbidden] == []


def test_the_tagger_needs_no_kafka() -> None:
    """All of it is imported where the Kafka packages are not installed."""
    names = {"aiokafka", "faust", "mode", "fastavro", "aiohttp", "schema_registry", "streamer", "schemas"}
    code = (
        BLOCKED.replace("{names}", repr(names)) + "import taggen.cli, taggen.evaluate, taggen.tagger, taggen.training"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_the_wall_holds() -> None:
    """The block of the test above does block."""
    code = BLOCKED.replace("{names}", "{'faust'}") + "import faust"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "blocked: faust" in result.stderr
