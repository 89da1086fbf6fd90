"""Apicurio Registry as the tests run it: fetched and unpacked by Maven, its storage in memory."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx

from streamer.broker import HOST, BrokerProcess, free_port

ARTIFACT = "io.apicurio:apicurio-registry-app:3.3.3:tar.gz:all"
JAVA = 21  # or newer
CACHE = Path(__file__).parent.parent / ".cache" / "apicurio"


class RegistryMissing(Exception):
    """Java 21 or Maven is not there, or Maven could not fetch the registry."""


def java() -> Path:
    """The first Java that is new enough: JAVA_HOME's, the PATH's, one installed beside that."""
    on_path = shutil.which("java")
    found = [Path(os.environ["JAVA_HOME"]) / "bin" / "java"] if "JAVA_HOME" in os.environ else []
    if on_path is not None:
        found.append(Path(on_path))
        found += sorted(Path(on_path).resolve().parents[2].glob("*/bin/java"))
    for program in found:
        if program.is_file() and _version(program) >= JAVA:
            return program
    raise RegistryMissing(f"Apicurio Registry needs Java {JAVA} or newer: none in JAVA_HOME, on the PATH or beside it")


def _version(program: Path) -> int:
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', told)
    return int(match[1]) if match else 0


def jar() -> Path:
    """The registry's start file, fetched once by Maven and kept in the repository's cache."""
    if shutil.which("mvn") is None:
        raise RegistryMissing("Apicurio Registry comes from Maven Central: no mvn on the PATH")
    folder = CACHE / ARTIFACT.split(":")[2]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # several test runs may share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            command = ["mvn", "-q", "-B", "dependency:unpack", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={partial}"]
            # else Maven trusts the marker that it leaves in target/, even when what it unpacked is gone
            command.append("-Dmdep.overWriteReleases=true")
            told = subprocess.run(
                command, cwd=CACHE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            if told.returncode or not (partial / "quarkus-run.jar").exists():
                raise RegistryMissing(f"Maven could not fetch Apicurio Registry:\n{told.stdout[-2000:]}")
            partial.rename(folder)
    return folder / "quarkus-run.jar"


class Apicurio(BrokerProcess):
    """A registry on a free port of the loopback address, with Confluent's API at `url`. A start begins empty."""

    kind = "apicurio"
    start_timeout_s = 180.0  # 4 s on an idle machine
    stop_timeout_s = 15.0

    def __init__(self, folder: Path) -> None:
        super().__init__(log=folder / "apicurio.log")
        self._java = java()
        self._jar = jar()

    @property
    def url(self) -> str:
        """Where Confluent's API is."""
        return f"http://{self.bootstrap}/apis/ccompat/v7"

    def command(self) -> Sequence[str | Path]:
        """Return the server's command line."""
        # starts fast and stays small
        flags = ["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        # the management interface would take port 9000 of every address
        listen = {"http.host": HOST, "http.port": self.port, "management.host": HOST, "management.port": free_port()}
        settings = [f"-Dquarkus.{name}={value}" for name, value in listen.items()]
        return [self._java, *flags, *settings, "-jar", self._jar]

    def ready(self) -> bool:
        """Tell whether the registry answers."""
        try:
            return httpx.get(f"{self.url}/subjects", timeout=1).is_success
        except httpx.HTTPError:
            return False
