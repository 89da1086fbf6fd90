"""A Schema Registry that speaks Confluent's API: schemas by id, ids for our schemas."""

from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx
from schema_registry.client import SchemaRegistryClient
from schema_registry.client.errors import ClientError

from streamer.errors import RegistryError, RegistryUnavailable, SettingsError

TIMEOUT_S = 5.0  # to connect, and for each part of the answer
SCHEMA_NOT_FOUND = 40403  # the code in the registry's own 404; another 404 is a wrong URL or a proxy's
NO_REGISTRY = "what answers there is not a schema registry"
_REFUSALS = {401, 403, 409, 422}  # credentials, or a schema that breaks the registry's rules: no use in a retry


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

        Raises RegistryUnavailable, and RegistryError when the registry refuses the schema or the credentials.
        """
        try:
            return int(self._client.register(subject, schema))
        except ClientError as error:
            raise self._failed(error.http_code, f"subject {subject}: {error.message}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unavailable(type(error).__name__) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._unavailable(NO_REGISTRY) from error

    def _failed(self, status: int | None, asked: str) -> RegistryError:
        kind = RegistryError if status in _REFUSALS else RegistryUnavailable
        return kind(f"schema registry {self.url}: it answered {status} for {asked}")

    def _unavailable(self, problem: str) -> RegistryUnavailable:
        return RegistryUnavailable(f"schema registry {self.url}: {problem}")
