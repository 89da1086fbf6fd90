"""The subjects of the Schema Registry: which schema stands under which name, and what may follow it there.

What others write and we read may grow as long as the newest reader understands every older writer; what we write and
others read must be understood both ways, by every version that was ever released.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import schemas
from streamer.errors import RegistryError, RegistryUnavailable
from streamer.registry import Registry
from streamer.settings import Settings, SubjectNaming

INPUTS, OUTPUTS = "BACKWARD_TRANSITIVE", "FULL_TRANSITIVE"  # compatibility levels, in the registry's terms


class Subject(NamedTuple):
    """A name in the registry, one of our schemas (its name in `schemas`) and the compatibility level."""

    name: str
    schema: str
    level: str


class Finding(NamedTuple):
    """How a subject stands. `state`: registered, new (it would be let in) or refused; `problem` None: as it should."""

    subject: Subject
    state: Literal["registered", "new", "refused"]
    schema_id: int | None = None
    problem: str | None = None


def subject_name(naming: SubjectNaming, topic: str, schema: str) -> str:
    """The subject of a topic's values, as Confluent's three naming strategies have it."""
    parsed = schemas.load(schema)
    record = f"{parsed['namespace']}.{parsed['name']}"
    return {"topic": f"{topic}-value", "record": record, "topic_record": f"{topic}-{record}"}[naming]


def subjects(settings: Settings) -> list[Subject]:
    """All that a deployment needs, once each; with a mapping the source topics hold other people's schemas."""
    inputs = () if settings.mapping else settings.source_topics
    topics = [(topic, schemas.LISTING, INPUTS) for topic in inputs]
    topics += [
        *((topic, schemas.TAGS, OUTPUTS) for topic in (settings.tags_topic, settings.latest_topic) if topic),
        (settings.dead_letter_topic, schemas.DEAD_LETTER, OUTPUTS),
        (settings.adapters_topic, schemas.ADAPTER, OUTPUTS),
        (settings.adapter_status_topic, schemas.ADAPTER_STATUS, OUTPUTS),
    ]
    wanted = (
        Subject(subject_name(settings.subject_naming, topic, schema), schema, level) for topic, schema, level in topics
    )
    return list(dict.fromkeys(wanted))


def register(registry: Registry, wanted: Sequence[Subject]) -> Iterator[Finding]:
    """Set each subject's level, then register its schema; a refusal is a finding, and the others go on.

    Raises RegistryUnavailable.
    """
    for subject in wanted:
        try:
            registry.set_level(subject.name, subject.level)
            schema_id = registry.register(subject.name, schemas.load(subject.schema))
        except RegistryUnavailable:
            raise
        except RegistryError as error:
            yield Finding(subject, "refused", problem=str(error))
        else:
            yield Finding(subject, "registered", schema_id)


def check(registry: Registry, wanted: Sequence[Subject]) -> Iterator[Finding]:
    """Tell how each subject stands, and change nothing. Raises RegistryError."""
    for subject in wanted:
        schema = schemas.load(subject.schema)
        schema_id, level = registry.registered(subject.name, schema), registry.level(subject.name)
        if schema_id is None and not registry.compatible(subject.name, schema):
            yield Finding(subject, "refused", problem=f"not compatible with what is there (level {level})")
            continue
        as_wanted = level == subject.level or (schema_id is None and level is None)  # nothing is there yet
        problem = None if as_wanted else f"its level is {level or 'not set'}, and should be {subject.level}"
        yield Finding(subject, "new" if schema_id is None else "registered", schema_id, problem)
