"""The exceptions of streamer.

StreamerError
├── SettingsError        a setting is wrong: one readable line, exit code 2
├── InputError           a file of listings with a line that holds none, exit code 2
├── BrokerError          the broker did not do what was asked of it
│   ├── BrokerUnavailable    not reachable, after bounded retries
│   ├── AccessDenied         the broker refuses us, or we its certificate
│   ├── TopicMissing         a source or target topic does not exist
│   ├── OffsetLost           a committed offset that the broker no longer has
│   ├── NotFetched           nothing comes of a partition, while the broker answers
│   ├── Fenced               another process has taken this one's place
│   └── DeliveryError        an output was not taken
├── RegistryError        the schema registry refused what was asked of it
│   └── RegistryUnavailable  not reachable, or not answering as a registry does
├── DecodeError          bytes that are no event of ours: poison, a dead letter each
├── TooManyDeadLetters   too large a share of the recent records: a fault of ours or of a producer's release
└── Stalled              a partition with records in hand and no progress

Errors of third parties are translated once, at the edge (delivery, offsets, codec, registry). All but DecodeError stop
the worker with its inputs unacknowledged. Messages name what and where and never quote a listing.
"""


class StreamerError(Exception):
    """Root of everything that streamer raises on purpose."""


class SettingsError(StreamerError):
    """A setting is wrong or unknown; the message is one readable line."""


class InputError(StreamerError):
    """A file of listings cannot be read; the message starts with file:line where a line is at fault."""


class BrokerError(StreamerError):
    """The broker did not do what was asked of it."""


class BrokerUnavailable(BrokerError):
    """The broker could not be reached, after bounded retries."""


class AccessDenied(BrokerError):
    """Credentials or a certificate were not accepted, or a topic is not for this user. Asking again is no use."""


class TopicMissing(BrokerError):
    """A topic that the worker reads from or writes to does not exist."""


class OffsetLost(BrokerError):
    """The group's committed offset is outside what the broker holds: records would be skipped or read twice."""

    def __init__(self, topic: str, partition: int, offset: int, beginning: int, end: int | None = None) -> None:
        held = f"from {beginning} on" if end is None else f"{beginning} to {end}"
        super().__init__(
            f"{topic}/{partition}: the group's committed offset {offset} is not on the broker, which holds {held}; "
            "set the group's offsets, or use another group id, to say where to go on"
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset


class NotFetched(BrokerError):
    """Nothing answers a partition's fetches, though the broker answers and the partition has a leader."""


class Fenced(BrokerError):
    """Another process has taken this one's place: it slept too long, or they have one name. It must write no more."""


class DeliveryError(BrokerError):
    """An output was not taken by the broker."""


class RegistryError(StreamerError):
    """The schema registry answered and refused: a schema against its rules, or credentials that it does not take."""


class RegistryUnavailable(RegistryError):
    """The schema registry cannot be reached or does not answer as one. Nobody's record is to blame."""


class DecodeError(StreamerError):
    """Bytes that are no event of ours.

    `reason` is the dead letter's code: undecodable, unknown_schema, invalid_listing, unmapped, too_large or null_value,
    or invalid_record on the control topic; `field` the field at fault and `merchant_id` whose listing it is, where they
    could be read; `expression` what the mapping, if there is one, reads the field with. The message quotes no listing;
    the exception it came from may.
    """

    def __init__(
        self,
        reason: str,
        problem: str,
        field: str | None = None,
        merchant_id: str | None = None,
        expression: str | None = None,
    ) -> None:
        super().__init__(f"{reason}: {problem}" if field is None else f"{reason}: {field}: {problem}")
        self.reason = reason
        self.field = field
        self.merchant_id = merchant_id
        self.expression = expression


class TooManyDeadLetters(StreamerError):
    """Too large a share of the recent records became dead letters."""


class Stalled(StreamerError):
    """The oldest record in hand of a partition has not been finished for too long."""
