"""Dockerfile steps without a container engine: a folder that becomes the root, by Linux' own mounts.

What the base image brings is this machine's: /usr and /etc (a copy), and a Python in /usr/local. All else
is empty, writable, and kept in the folder. Needs Linux and root.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.deployment import dockerfile
from tests.deployment.contract import ROOT

MERGED = ("bin", "sbin", "lib", "lib64")  # links into usr
PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
# how this machine reaches package registries; a build elsewhere has its own way
PASSED = ("PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def impossible() -> str | None:
    """Why it does not work here; None: it does."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    if sys.base_prefix == "/usr/local":
        return "this machine's Python is where the image's would be"
    if f"/python{sys.version_info.major}.{sys.version_info.minor} " not in dockerfile.PATH.read_text(encoding="utf-8"):
        return "the image has another Python"
    for program in ("unshare", "chroot", "setpriv"):
        if shutil.which(program) is None:
            return f"no {program} on the PATH"
    return None


class Root:
    """One image, or one on its way: `run` runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._local = folder.with_name(f"{folder.name}-local")
        for name in ("dev", "proc", "usr", "root", "tmp", "opt", "var/lib", sys.base_prefix.lstrip("/")):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "tmp").chmod(0o1777)
        for name in MERGED:
            if Path("/", name).is_symlink():
                (folder / name).symlink_to(Path("/", name).readlink())
            elif Path("/", name).exists():
                (folder / name).mkdir()
        subprocess.run(["cp", "-a", "/etc", folder], check=True)
        self._local.mkdir()
        self.run([PYTHON, "-m", "venv", "/usr/local"], {"PATH": dockerfile.BASE_PATH}, "/", "0:0")

    def command(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: str = "/",
        user: str = "0:0",
        read_only: bool = False,
    ) -> list[str]:
        """The command line that runs a command in it, as the one process: signals reach it."""
        root = str(self.folder)
        mounts = [f"mount --make-rprivate / && mount --bind {root} {root}"]
        own = [name for name in MERGED if not Path("/", name).is_symlink() and Path("/", name).exists()]
        for source in ("/usr", *(f"/{name}" for name in own), sys.base_prefix):
            mounts.append(f"mount --bind {source} {root}{source} && mount -o remount,bind,ro {root}{source}")
        mounts.append(f"mount --bind {self._local} {root}/usr/local")
        mounts.append(f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev")
        if read_only:
            mounts.append(f"mount -o remount,bind,ro {root}/usr/local && mount -o remount,bind,ro {root}")
            mounts.append(f"mount -t tmpfs tmpfs {root}/tmp")  # noqa: S108  a path in the new root
        group = user.partition(":")[2]
        inside = ["/usr/bin/env", "-i", "-C", folder, *(f"{name}={value}" for name, value in environment.items())]
        inside += ["/usr/bin/setpriv", f"--reuid={user.partition(':')[0]}", f"--regid={group}", "--clear-groups"]
        script = " && ".join(mounts) + f' && exec chroot {root} "$@"'
        return ["unshare", "--mount", "sh", "-euc", script, "sh", *inside, *command]

    def run(self, command: Sequence[str], environment: Mapping[str, str], folder: str, user: str) -> None:
        """Run a step of a build; fails with its output."""
        told = subprocess.run(
            self.command(command, environment, folder, user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert told.returncode == 0, f"{command}:\n{told.stdout[-4000:]}"


def build(target: str, folder: Path, files: set[str]) -> Root:
    """Follow the instructions of a target; `files`: those of the repository that the build is sent.

    What another stage gives is moved out of it: several gigabytes, needed once.
    """
    root = Root(folder / target)
    environment = {"PATH": dockerfile.BASE_PATH, "HOME": "/root"}
    passed = {name: value for name, value in os.environ.items() if name.upper().startswith(PASSED)}
    where, user = "/", "0:0"
    for name, value in dockerfile.instructions(target):
        match name:
            case "ENV":
                environment |= dockerfile.variables(value, environment)
            case "WORKDIR":
                where = value
                (root.folder / where.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                user = value
            case "RUN":
                root.run(["sh", "-c", value], passed | environment, where, user)
            case "COPY":
                *sources, place = value.split()
                if sources[0].startswith("--from="):
                    stage = sources.pop(0).removeprefix("--from=")
                    given = folder / stage if (folder / stage).exists() else build(stage, folder, files).folder
                    shutil.move(given / sources[0].lstrip("/"), root.folder / place.lstrip("/"))
                else:
                    _copy(sources, root.folder / where.lstrip("/") / place, files)
    return root


def _copy(sources: list[str], place: Path, files: set[str]) -> None:
    for name in files:
        if any(source in (".", name) for source in sources):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
