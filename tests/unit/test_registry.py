"""The registry client against answers that a real registry gives only on a bad day."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import schemas
from streamer.broker import free_port
from streamer.codec import Codec
from streamer.errors import DecodeError, RegistryError, RegistryUnavailable, SettingsError
from streamer.records import Record
from streamer.registry import Registry
from taggen.listing import Listing

SCHEMA = json.dumps({"schema": json.dumps(schemas.load(schemas.LISTING))})
LISTING = Listing("acme", "p-1", 3, "Boots")


@dataclass
class Server:
    """An HTTP server that gives every request the same answer and remembers its path and credentials."""

    status: int = 200
    body: str = SCHEMA
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a free port; `status` and `body` may be set, `release` is what a status of 0 waits for."""
    told = Server()
    told.release.clear()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.seen.append((self.path, self.headers["Authorization"]))
            if told.status == 0:
                told.release.wait(10)
                return
            self.send_response(told.status)
            if told.status == 302:
                self.send_header("Location", "http://127.0.0.1:1/login")
            self.end_headers()
            self.wfile.write(told.body.encode())

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield told
    told.release.set()
    listening.shutdown()
    thread.join()
    listening.server_close()


def frame(schema_id: int = 1) -> Record:
    """A record of a Confluent frame."""
    body = Codec().encode_listing(LISTING)[10:]
    return Record("product-created", 0, 0, 0, None, b"\x00" + schema_id.to_bytes(4, "big") + body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, '{"error_code": 50001, "message": "store failed"}'),
        (503, "<html>"),
        (429, "{}"),
        (401, '{"error_code": 401, "message": "Unauthorized"}'),
        (404, "<html>no such page"),
        (404, '{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (302, ""),
        (200, "<html>sign in"),
        (200, '["what"]'),
        (200, "{}"),
        (0, ""),
    ],
)
def test_a_registry_in_trouble_is_not_poison(server: Server, status: int, body: str) -> None:
    """Whatever does not say that an id is unknown raises RegistryUnavailable with the host; soon, when it hangs.

    Only refused credentials are RegistryError itself: a retry does not help.
    """
    server.status, server.body = status, body
    registry = Registry(f"http://user:hunter2@127.0.0.1:{server.port}", timeout_s=5 if status else 0.2)
    codec = Codec(registry)
    began = time.monotonic()
    for call in (
        lambda: codec.decode_listing(frame()),
        lambda: codec.encode_listing(LISTING),
        lambda: registry.compatible("s", {}),
        lambda: registry.level("s"),
    ):
        with pytest.raises(RegistryError, match=f"127.0.0.1:{server.port}") as caught:
            call()
        assert "hunter2" not in str(caught.value)
        assert isinstance(caught.value, RegistryUnavailable) is (status != 401)
    assert time.monotonic() - began < 10  # what one that hangs takes


def test_nobody_listens() -> None:
    """A refused connection raises RegistryUnavailable."""
    with pytest.raises(RegistryUnavailable, match="ConnectError"):
        Codec(Registry(f"http://127.0.0.1:{free_port()}")).decode_listing(frame())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, '{"error_code": 40403, "message": "Schema 1 not found"}'),
        (200, '{"schema": "syntax = \\"proto3\\";", "schemaType": "PROTOBUF"}'),
        (200, '{"schema": "not JSON"}'),
        (200, json.dumps({"schema": "[" * 100_000})),
        (200, json.dumps({"schema": '{"type": "record", "name": "R", "fields": [{"name": "f", "type": "Other"}]}'})),
    ],
)
def test_a_schema_that_cannot_be_had_is_poison(server: Server, status: int, body: str) -> None:
    """The registry answered: it has no such schema, or none that we can read with."""
    server.status, server.body = status, body
    with pytest.raises(DecodeError, match="unknown_schema"):
        Codec(Registry(server.url)).decode_listing(frame())


def test_a_schema_is_asked_for_once(server: Server) -> None:
    """The id is four bytes, the highest first; its schema is remembered."""
    codec = Codec(Registry(f"{server.url}/apis/v7"))
    for _ in range(3):
        assert codec.decode_listing(frame(0x01020304)) == LISTING
    codec.decode_listing(frame(1))
    assert [path for path, _ in server.seen] == ["/apis/v7/schemas/ids/16909060", "/apis/v7/schemas/ids/1"]


@pytest.mark.parametrize("schema_id", [0, 2**31, 2**32 - 1])
def test_an_id_that_no_registry_gives_is_not_asked_for(server: Server, schema_id: int) -> None:
    """Ids are positive and fit a signed integer of four bytes."""
    with pytest.raises(DecodeError, match="unknown_schema"):
        Codec(Registry(server.url)).decode_listing(frame(schema_id))
    assert server.seen == []


@pytest.mark.parametrize(
    ("user", "sent"),
    [("", None), ("me:p%40ss@", "Basic " + base64.b64encode(b"me:p@ss").decode())],
)
def test_credentials_of_the_url_are_sent(server: Server, user: str, sent: str | None) -> None:
    """User and password are decoded; without them none are sent, not empty ones."""
    registry = Registry(f"http://{user}127.0.0.1:{server.port}")
    Codec(registry).decode_listing(frame())
    assert server.seen == [("/schemas/ids/1", sent)]
    assert registry.url == server.url


@pytest.mark.parametrize("url", ["", "localhost:8081", "ftp://host", "http://", "http://host:port"])
def test_a_wrong_url_stops_the_start(url: str) -> None:
    """One readable line that names the setting and does not quote it."""
    with pytest.raises(SettingsError, match="STREAMER_SCHEMA_REGISTRY_URL"):
        Registry(url)
