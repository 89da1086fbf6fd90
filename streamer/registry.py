"""A Schema Registry that speaks Confluent's API: schemas by id, ids for our schemas, and what it lets pass."""

import json
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx
from schema_registry.client import SchemaRegistryClient
from schema_registry.client.errors import ClientError

from streamer.errors import RegistryError, RegistryUnavailable, SettingsError

TIMEOUT_S = 5.0  # to connect, and for each part of the answer
# the codes in the registry's own 404; another 404 is a wrong URL or a proxy's
SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, SCHEMA_NOT_FOUND, LEVEL_NOT_FOUND = 40401, 40402, 40403, 40408
NO_REGISTRY = "what answers there is not a schema registry"
_REFUSALS = {401, 403, 409, 422}  # credentials, or a schema that breaks the registry's rules: no use in a retry
_MAX_REASON_CHARS = 500  # of the registry's own words

T = TypeVar("T")


class Registry:
    """One registry. User and password may stand in its URL; they never come out in a message.

    Nothing is retried or remembered here but the ids of our own schemas.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number
            valid = False
        if not valid:
            raise SettingsError("STREAMER_SCHEMA_REGISTRY_URL: must be http(s)://[USER:PASSWORD@]HOST[:PORT][/PATH]")
        auth = httpx.Auth()  # none: left to itself, the client would send empty credentials
        if parts.username:
            auth = httpx.BasicAuth(unquote(parts.username), unquote(parts.password or ""))
        self.url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        self._client = SchemaRegistryClient(self.url, timeout=httpx.Timeout(timeout_s), auth=auth)
        # it would read the authorities again for each request: 30 ms of CPU
        self._client.client_kwargs["verify"] = httpx.create_ssl_context()

    def schema(self, schema_id: int) -> str | None:
        """The text of the Avro schema with this id; None when the registry has none.

        Raises RegistryUnavailable, and RegistryError when it refuses the credentials.
        """
        # The client's own get_by_id takes a proxy's 404 for the registry's, and fails on schemas that are not Avro.
        url, method = self._client.url_manager.url_for("get_by_id", schema_id=schema_id)
        try:
            response = self._client.request(url, method=method)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unavailable(type(error).__name__) from error
        try:
            answer = response.json()
            if response.is_success and (answer.get("schemaType") or "AVRO") == "AVRO":
                return str(answer["schema"])
            unknown = response.is_success or answer.get("error_code") == SCHEMA_NOT_FOUND
        except (ValueError, KeyError, AttributeError) as error:
            raise self._unavailable(NO_REGISTRY) from error
        if unknown:
            return None
        raise self._failed(response.status_code, f"schema {schema_id}")

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        """The id of a schema under a subject, registered when it is not yet.

        Raises RegistryUnavailable, and RegistryError, with the registry's reason, when it refuses schema or
        credentials.
        """
        return int(self._ask(f"subject {subject}", lambda: self._client.register(subject, schema)))

    def registered(self, subject: str, schema: dict[str, Any]) -> int | None:
        """The id of a schema under a subject, None when it is not there. Raises as `register` does."""
        found = self._ask(f"subject {subject}", lambda: self._client.check_version(subject, schema))
        return None if found is None else int(found.schema_id)

    def compatible(self, subject: str, schema: dict[str, Any]) -> bool:
        """Whether the subject's level would let a schema in; any, when nothing is there. Raises as `register` does."""
        url, _ = self._client.url_manager.url_for("register", subject=subject)
        # the client asks for the comparison with one version only
        url = url.replace("/subjects/", "/compatibility/subjects/")

        def ask() -> bool:
            response = self._client.request(url, method="POST", body={"schema": json.dumps(schema)})
            answer = response.json()
            if response.is_success:
                return bool(answer["is_compatible"])
            if answer["error_code"] in (SUBJECT_NOT_FOUND, VERSION_NOT_FOUND):
                return True
            raise ClientError("the comparison failed", http_code=response.status_code, server_traceback=answer)

        return self._ask(f"subject {subject}", ask)

    def level(self, subject: str) -> str | None:
        """The compatibility level of a subject, None when it has none of its own. Raises as `register` does."""

        def ask() -> str | None:
            try:
                return str(self._client.get_compatibility(subject))
            except ClientError as error:
                if error.server_traceback["error_code"] in (SUBJECT_NOT_FOUND, LEVEL_NOT_FOUND):
                    return None
                raise

        return self._ask(f"the level of {subject}", ask)

    def set_level(self, subject: str, level: str) -> None:
        """Set a subject's compatibility level, also before it has a schema. Raises as `register` does."""
        self._ask(f"the level of {subject}", lambda: self._client.update_compatibility(level, subject))

    def _ask(self, asked: str, request: Callable[[], T]) -> T:
        """Run a request of the client and translate its errors."""
        try:
            return request()
        except ClientError as error:
            raise self._failed(error.http_code, f"{asked}: {_reason(error)}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unavailable(type(error).__name__) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._unavailable(NO_REGISTRY) from error

    def _failed(self, status: int | None, asked: str) -> RegistryError:
        kind = RegistryError if status in _REFUSALS else RegistryUnavailable
        return kind(f"schema registry {self.url}: it answered {status} for {asked}")

    def _unavailable(self, problem: str) -> RegistryUnavailable:
        return RegistryUnavailable(f"schema registry {self.url}: {problem}")


def _reason(error: ClientError) -> str:
    """The client's words and the registry's, on one line."""
    answer = error.server_traceback
    told = answer.get("message") if isinstance(answer, dict) else None
    return " ".join(f"{error.message}: {told}".split())[:_MAX_REASON_CHARS] if told else str(error.message)
