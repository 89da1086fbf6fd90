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
SubjectNaming = Literal["topic", "record", "topic_record"]  # Confluent's strategies, for the values of our topics


class Settings(BaseSettings):
    """Every setting, with its default and unit. Build it with `load`, which says what is wrong in one line."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    # Kafka
    kafka_bootstrap: Annotated[str, Field(min_length=1)] = "127.0.0.1:9092"  # host:port, separated by commas
    group_id: Annotated[str, Field(min_length=1)] = "streamer"
    # static membership (KIP-345), a name no other worker of the group has: one that is back within the session timeout
    # has its old partitions, and nobody else's move. None: it leaves the group when it ends
    group_instance_id: Annotated[str | None, Field(min_length=1)] = None
    source_topics: Names = ("product-created", "product-updated")
    tags_topic: Annotated[str, Field(min_length=1)] = "product-tags"
    dead_letter_topic: Annotated[str, Field(min_length=1)] = "product-tags-dlq"
    latest_topic: Annotated[str | None, Field(min_length=1)] = None  # each product's newest tags; None: there is none
    retry_topic: Annotated[str, Field(min_length=1)] = "product-tags-retry"  # redriven dead letters, for us alone
    attempts_topic: Annotated[str, Field(min_length=1)] = "product-tags-attempts"  # what was in hand, for us alone
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_file: Path | None = None  # None: the system's authorities
    ssl_cert_file: Path | None = None
    ssl_key_file: Path | None = None
    # set: the Confluent frame; None: Avro single-object encoding. http(s)://[USER:PASSWORD@]HOST[:PORT][/PATH]
    schema_registry_url: Annotated[str | None, Field(repr=False)] = None
    subject_naming: SubjectNaming = "topic"
    mapping: Path | None = None  # TOML or JSON: makes listings of events that are not ours

    # the tagger
    base_model: Annotated[str, Field(min_length=1)] = "embedded"  # embedded, a local folder or a Hugging Face id
    default_adapter: Path | None = None  # None: the one shipped with taggen
    quantization: Literal["int8", "none"] = "int8"
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    generation: Annotated[int, Field(ge=0)] = 1  # grows with a new base or default adapter
    torch_threads: Annotated[int | None, Field(ge=1)] = None  # None: torch's own choice

    # merchant adapters
    adapter_store: str | None = None  # a folder, s3://... or gs://...; None: the default adapter serves everybody
    adapter_memory: Annotated[int, Field(ge=MIB)] = 2 * 1024 * MIB  # bytes on the device for all adapters
    adapter_cache_bytes: Annotated[int, Field(ge=0)] = 512 * MIB  # of versions read, in host memory
    adapters_topic: Annotated[str, Field(min_length=1)] = "merchant-adapters"
    adapter_status_topic: Annotated[str, Field(min_length=1)] = "merchant-adapter-status"
    adapter_preload_s: Annotated[float, Field(ge=0)] = 120.0  # for loading and trying versions before the first event
    adapter_wait_ms: Annotated[float, Field(ge=0)] = 200  # how long a listing waits for its merchant's adapter

    # micro-batches and queues
    batch_listings: Annotated[int, Field(ge=1)] = 64
    batch_tokens: Annotated[int, Field(ge=1)] = 8192  # padded
    batch_wait_ms: Annotated[float, Field(ge=0)] = 20  # from the first event of a batch
    queue_records: Annotated[int, Field(ge=1)] = 4096  # fetched and not yet read: a second of the peak rate
    queue_bytes: Annotated[int, Field(ge=1)] = 16 * MIB  # of values fetched and not yet finished
    remembered_versions: Annotated[int, Field(ge=0)] = 100_000  # products whose newest listing version is remembered

    # delivery
    idempotent_producer: bool = True  # off for brokers without it, such as the embedded one
    max_output_bytes: Annotated[int, Field(ge=4 * KIB)] = 1_000_000  # key and value; the topic's own limit may be lower
    fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 500
    commit_interval_s: Annotated[float, Field(gt=0)] = 1.0  # repeats after a crash are bounded by it
    commit_every: Annotated[int, Field(ge=1)] = 1_000
    session_timeout_s: Annotated[float, Field(gt=0, le=90)] = 10.0  # a dead worker's partitions move after it
    rebalance_timeout_s: Annotated[float, Field(gt=0)] = 30.0  # for the batches in hand when partitions move
    broker_retry_s: Annotated[float, Field(gt=0)] = 30.0  # how long a broker may be gone before the worker stops
    drain_s: Annotated[float, Field(gt=0)] = 8.0  # after SIGTERM, for the batches in hand
    stall_s: Annotated[float, Field(gt=0)] = 120.0  # a partition's oldest record in hand for so long: stop

    # dead letters
    dead_letter_headers: Names = ("traceparent", "tracestate", "content-type")  # the ones that are kept
    # more than this share of the last so many records, and at least the minimum, of several merchants: stop
    dead_letter_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    dead_letter_window: Annotated[int, Field(ge=1)] = 200
    dead_letter_minimum: Annotated[int, Field(ge=1)] = 50
    redrive_limit: Annotated[int, Field(ge=1)] = 3  # how often a dead letter is sent again

    # operation
    web_host: str = "127.0.0.1"
    web_port: Annotated[int, Field(ge=0, le=65_535)] = 8080  # 0: any free port, see the log
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
        if {self.tags_topic, self.dead_letter_topic, self.attempts_topic} & set(self.input_topics):
            raise ValueError("source_topics: an output topic must not be read as a source")
        if self.retry_topic in self.source_topics:
            raise ValueError("retry_topic: must not be one that others write to")
        others = {self.tags_topic, self.dead_letter_topic, *self.input_topics}
        if self.latest_topic in others | {self.adapters_topic, self.adapter_status_topic}:
            raise ValueError("latest_topic: must be a topic of its own")
        if self.security_protocol.startswith("SASL") and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(f"security_protocol: {self.security_protocol} needs sasl_username and sasl_password")
        if (self.ssl_cert_file is None) != (self.ssl_key_file is None):
            raise ValueError("ssl_cert_file: a client certificate needs ssl_key_file too, and the reverse")
        if self.dead_letter_minimum > self.dead_letter_window:
            raise ValueError("dead_letter_minimum: must not be larger than dead_letter_window")
        return self

    @property
    def input_topics(self) -> tuple[str, ...]:
        """All that a worker reads: the source topics and the retry topic."""
        return (*self.source_topics, self.retry_topic)

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
