"""The settings of a worker: environment variables with the prefix STREAMER_, read once, frozen."""

import os
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streamer.errors import SettingsError

PREFIX = "STREAMER_"
KIB = 1024
MIB = 1024 * KIB

Names = Annotated[tuple[str, ...], NoDecode]  # in the environment: separated by commas


class Settings(BaseSettings):
    """Every setting, with its default and unit. Build it with `load`, which says what is wrong in one line."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    # Kafka
    kafka_bootstrap: str = Field("127.0.0.1:9092", min_length=1)  # host:port, separated by commas
    group_id: str = Field("streamer", min_length=1)
    source_topics: Names = ("product-created", "product-updated")
    tags_topic: str = Field("product-tags", min_length=1)
    dead_letter_topic: str = Field("product-tags-dlq", min_length=1)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_file: Path | None = None  # None: the system's authorities
    ssl_cert_file: Path | None = None
    ssl_key_file: Path | None = None
    schema_registry_url: str | None = None  # set: the Confluent frame; None: Avro single-object encoding

    # the tagger
    base_model: str = Field("embedded", min_length=1)  # embedded, a local folder or a Hugging Face id
    default_adapter: Path | None = None  # None: the one shipped with taggen
    quantization: Literal["int8", "none"] = "int8"
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    generation: int = Field(1, ge=0)  # grows with a new base or default adapter
    torch_threads: int | None = Field(None, ge=1)  # None: torch's own choice

    # micro-batches and queues
    batch_listings: int = Field(64, ge=1)
    batch_tokens: int = Field(8192, ge=1)  # padded
    batch_wait_ms: float = Field(20, ge=0)  # from the first event of a batch
    queue_records: int = Field(4096, ge=1)  # fetched and not yet read: a second of the peak rate
    queue_bytes: int = Field(16 * MIB, ge=1)  # of values fetched and not yet in a batch
    remembered_versions: int = Field(100_000, ge=0)  # products whose newest listing version is remembered

    # delivery
    idempotent_producer: bool = True  # off for brokers without it, such as the embedded one
    linger_ms: float = Field(5, ge=0)
    max_output_bytes: int = Field(1_000_000, ge=4 * KIB)  # key and value; the topic's own limit may be lower
    fetch_max_wait_ms: int = Field(500, ge=1)
    commit_interval_s: float = Field(1.0, gt=0)  # repeats after a crash are bounded by it
    commit_every: int = Field(1_000, ge=1)
    session_timeout_s: float = Field(10.0, gt=0)  # a dead worker's partitions move after it
    broker_retry_s: float = Field(30.0, gt=0)  # how long a broker may be gone before the worker stops
    drain_s: float = Field(8.0, gt=0)  # after SIGTERM, for the batches in hand
    stall_s: float = Field(120.0, gt=0)  # records in hand and none finished for so long: stop

    # dead letters
    dead_letter_headers: Names = ("traceparent", "tracestate", "content-type")  # the ones that are kept
    dead_letter_share: float = Field(0.5, gt=0, le=1)  # of the last dead_letter_window records: stop above it
    dead_letter_window: int = Field(200, ge=1)
    dead_letter_minimum: int = Field(50, ge=1)

    # operation
    web_host: str = "127.0.0.1"
    web_port: int = Field(8080, ge=0, le=65_535)  # 0: any free port, see the log
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("source_topics", "dead_letter_headers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if not self.source_topics:
            raise ValueError("source_topics: at least one is needed")
        if {self.tags_topic, self.dead_letter_topic} & set(self.source_topics):
            raise ValueError("source_topics: an output topic must not be read as a source")
        if self.security_protocol.startswith("SASL") and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(f"security_protocol: {self.security_protocol} needs sasl_username and sasl_password")
        if (self.ssl_cert_file is None) != (self.ssl_key_file is None):
            raise ValueError("ssl_cert_file: a client certificate needs ssl_key_file too, and the reverse")
        if self.dead_letter_minimum > self.dead_letter_window:
            raise ValueError("dead_letter_minimum: must not be larger than dead_letter_window")
        return self

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context of the broker connections, None for plain text; SettingsError for files that do not load."""
        if "SSL" not in self.security_protocol:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_file)
            if self.ssl_cert_file and self.ssl_key_file:
                context.load_cert_chain(self.ssl_cert_file, self.ssl_key_file)
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(f"{PREFIX}SSL_*_FILE: cannot be loaded: {error.strerror or error}") from None
        return context

    def client_options(self) -> dict[str, Any]:
        """What every aiokafka client needs to reach the broker."""
        return {
            "bootstrap_servers": [server.strip() for server in self.kafka_bootstrap.split(",")],
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context(),
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password.get_secret_value() if self.sasl_password else None,
        }


def load() -> Settings:
    """Read the settings from the process's environment.

    Raises SettingsError, one readable line that names the variable and never quotes a value.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"{unknown[0]}: no such setting")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name, _, problem = first["msg"].removeprefix("Value error, ").partition(": ")
        if first["loc"]:
            name, problem = str(first["loc"][0]), first["msg"]
        raise SettingsError(f"{PREFIX}{name.upper()}: {problem}") from None
