"""Our Dockerfile, read: its stages, and what a container of one of them is."""

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.deployment.contract import ROOT

PATH = ROOT / "Dockerfile"
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"  # of the official Python images


class Instruction(NamedTuple):
    """`RUN pip install uv` is ("RUN", "pip install uv"); continued lines are joined."""

    name: str
    value: str


@dataclass
class Stage:
    """From `FROM base AS name` to the next; `base` is another stage or an image."""

    name: str
    base: str
    own: list[Instruction] = field(default_factory=list)


@dataclass
class Image:
    """What a container starts with."""

    environment: dict[str, str]
    user: str
    folder: str
    ports: set[int]
    entry_point: list[str]
    command: list[str]
    health: list[str]


def stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name, in their order."""
    text = re.sub(r"^\s*#.*\n", "", PATH.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    for line in text.replace("\\\n", "").splitlines():
        if not line.strip():
            continue
        name, value = line.split(maxsplit=1)
        if name == "FROM":
            base, _, stage = value.partition(" AS ")
            current = found[stage] = Stage(stage, base)
        else:
            current.own.append(Instruction(name, value))
    return found


def instructions(target: str) -> list[Instruction]:
    """All that leads to a target, its bases' first."""
    known = stages()
    stage = known[target]
    inherited = instructions(stage.base) if stage.base in known else []
    return inherited + stage.own


def variables(assignments: str, before: dict[str, str]) -> dict[str, str]:
    """What an ENV instruction sets, variables of before filled in."""
    words = (word.partition("=") for word in shlex.split(assignments))
    return {name: re.sub(r"\$(\w+)", lambda match: before.get(match[1], ""), value) for name, _, value in words}


def image(target: str, path: str = BASE_PATH) -> Image:
    """The image of a target; `path` is the PATH of the one that it begins with."""
    result = Image({"PATH": path}, "root", "/", set(), [], [], [])
    for name, value in instructions(target):
        match name:
            case "ENV":
                result.environment |= variables(value, result.environment)
            case "USER":
                result.user = value
            case "WORKDIR":
                result.folder = value
            case "EXPOSE":
                result.ports |= {int(port) for port in value.split()}
            case "ENTRYPOINT":
                result.entry_point = json.loads(value)
            case "CMD":
                result.command = json.loads(value)
            case "HEALTHCHECK":
                result.health = json.loads(value.partition(" CMD ")[2])
    return result
