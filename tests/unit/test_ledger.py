"""The ledger of a verification: a good run has no findings, and each planted fault is found as what it is."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from streamer.codec import Codec
from streamer.ledger import KINDS, Ledger
from streamer.pipeline import Pipeline
from streamer.records import Coordinates
from streamer.retry import Origin
from streamer.scan import Span
from streamer.settings import Settings
from streamer.verify import judge
from tests.unit.fakes import MODEL, FakeTagger, record

SETTINGS = Settings()
CODEC = Codec()
TAGS, LETTERS = SETTINGS.tags_topic, SETTINGS.dead_letter_topic
COUNT = 12


def source(offset, **changes):
    """An input: three products, listings without an id of their own; the last is poison."""
    listing = {
        "merchant_id": "acme",
        "product_id": f"p{offset % 3}",
        "listing_version": offset,
        "title": f"title {offset}",
        "event_time": 1,
    }
    value = b"junk" if offset == COUNT - 1 else json.dumps(listing | changes).encode()
    return record(value, offset)


def tagged(records, model=MODEL):
    """The records of both target topics, as a worker writes them; each topic has one partition."""
    tagger = FakeTagger()
    tagger.model = model
    outputs = Pipeline(SETTINGS, CODEC, tagger).process(records)
    return [(output.topic, output.value) for output in outputs]


def changed(written, **changes):
    """The same tag event with other fields."""
    topic, value = written
    return topic, CODEC.encode_tags(CODEC.decode_tags(value)._replace(**changes))


def verdict(inputs, written, retries=(), required=COUNT):
    """What the ledger says of inputs (all required below `required`) and of what was written, in this order."""
    with Ledger(CODEC, {("product-created", 0): Span(0, COUNT)}) as ledger:
        for one in inputs:
            ledger.enter_input(one, one.offset < required)
        for one in retries:
            ledger.enter_retry(one, required=True)
        for offset, (topic, value) in enumerate(written):
            enter = ledger.enter_tags if topic == TAGS else ledger.enter_letter
            enter(record(value, offset, topic=topic))
        ledger.close()
        return judge(ledger)


@pytest.fixture
def inputs():
    """The inputs of a run."""
    return [source(offset) for offset in range(COUNT)]


@pytest.fixture
def written(inputs):
    """Their outcomes."""
    return tagged(inputs)


def only(judged, kind):
    """The single kind of findings, by source and outcome offset."""
    assert {name: bool(count) for name, count in judged.found.items()} == {name: name == kind for name in KINDS}
    assert not judged.good
    return [(one.source and one.source.offset, one.outcome and one.outcome.offset) for one in judged.examples]


def test_a_good_run(inputs, written):
    """Each input one outcome: nothing to find, and everything is counted."""
    judged = verdict(inputs, written)
    assert judged.good
    assert judged.counts == {
        "inputs": COUNT,
        "required": COUNT,
        "redriven": 0,
        "tag_events": COUNT - 1,
        "dead_letters": 1,
        "repeats": 0,
    }
    json.dumps(judged.as_json())


def test_repeats_are_good(inputs, written):
    """A batch written twice, in its order, and a replay through a new model break no promise."""
    newer = replace(MODEL, fingerprint="cd" * 32, generation=2)
    judged = verdict(inputs, [*written, *written[4:], *tagged(inputs, newer)])
    assert judged.good
    assert judged.counts["repeats"] == len(written[4:]) + 1


def test_a_planted_loss(inputs, written):
    """An acknowledged input without an outcome is lost; one that is not acknowledged is not."""
    del written[5]
    assert only(verdict(inputs, written), "lost") == [(5, None)]
    assert verdict(inputs, written, required=5).good


def test_a_planted_duplicate_with_other_content(inputs, written):
    """The same event id with another tag contradicts."""
    tag = CODEC.decode_tags(written[4][1]).tags[0]
    written.append(changed(written[4], tags=(replace(tag, normalized="other"),)))
    assert [source for source, _ in only(verdict(inputs, written), "contradicted")] == [4]


@pytest.mark.parametrize("numerics_class", ["cpu", "gpu"])
def test_another_confidence(inputs, written, numerics_class):
    """Within a numerics class another confidence contradicts; between two it is measured."""
    event = CODEC.decode_tags(written[4][1])
    tags = (replace(event.tags[0], confidence=0.53125),)
    model = replace(event.model, numerics_class=numerics_class)
    judged = verdict(inputs, [*written, changed(written[4], tags=tags, model=model)])
    if numerics_class == "cpu":
        assert [source for source, _ in only(judged, "contradicted")] == [4]
    else:
        assert judged.good
        assert judged.difference == (1, 0.03125)


def test_a_planted_duplicate_with_another_id(inputs, written):
    """An id that is no function of its input is invented, and so is one of another input."""
    for event_id in ("ab" * 16, CODEC.decode_tags(written[3][1]).event_id):
        extra = [*written, changed(written[4], event_id=event_id)]
        assert (4, COUNT) in [
            (one.source.offset, one.outcome.offset) for one in verdict(inputs, extra).examples if one.kind == "invented"
        ]


def test_a_planted_reordering(inputs, written):
    """Two records of one product that come out the other way round are found; of two products they are nothing."""
    written[2], written[5] = written[5], written[2]  # p2 both
    assert only(verdict(inputs, written), "reordered") == [(2, 5)]
    written[2], written[5] = written[5], written[2]
    written[2], written[3] = written[3], written[2]
    assert verdict(inputs, written).good


@pytest.mark.parametrize(
    "changes",
    [
        {"source": Coordinates("product-created", 0, COUNT - 1)},  # the poison
        {"source": Coordinates("product-created", 1, 0)},
        {"source": Coordinates("another", 0, 0)},
        {"product_id": "p9"},
    ],
)
def test_a_planted_invention(inputs, written, changes):
    """Tags of a record that is not there, holds no listing, or holds another product's."""
    extra = [*written, changed(written[4], **changes)]
    assert [place for _, place in only(verdict(inputs, extra), "invented")] == [COUNT]


def test_an_invented_dead_letter(inputs, written):
    """Its record is there, but with other bytes."""
    topic, value = written[-1]
    letter = CODEC.decode_dead_letter(value)._replace(offset=3)
    written.append((topic, CODEC.encode_dead_letter(letter)))
    assert only(verdict(inputs, written), "invented") == [(3, COUNT)]


def test_outside_of_the_span(inputs, written):
    """An outcome of a record that retention has taken, or that came after the end, is nobody's concern."""
    written.append(changed(written[4], source=Coordinates("product-created", 0, COUNT + 7)))
    assert verdict(inputs, written).good


def test_junk_on_an_output_topic(inputs, written):
    """What none of ours wrote is named."""
    assert only(verdict(inputs, [*written, (TAGS, b"junk")]), "unreadable") == [(None, COUNT)]


def test_redriven(inputs, written):
    """A redriven record needs an outcome of its attempt; its late tags are no reordering."""
    poison = inputs[-1]
    sent = record(poison.value, 0, topic=SETTINGS.retry_topic)
    came_from = Origin(Coordinates(poison.topic, poison.partition, poison.offset), poison.timestamp, 1)
    sent = sent._replace(headers=came_from.headers())
    assert only(verdict(inputs, written, [sent]), "lost") == [(COUNT - 1, None)]
    again = tagged([poison._replace(attempts=1)])
    assert verdict(inputs, [*written, *again], [sent]).good


def test_late_tags_of_a_redriven_record(inputs, written):
    """A record that was refused once and tagged later stands behind newer ones of its product, as it must."""
    value = inputs[2].value
    refused = CODEC.decode_dead_letter(written[-1][1])._replace(
        offset=2, value=value, value_length=len(value), value_sha256=sha256(value).hexdigest()
    )
    late = [*written[:2], (LETTERS, CODEC.encode_dead_letter(refused)), *written[3:], written[2]]
    assert verdict(inputs, late).good
    assert only(verdict(inputs, late[:2] + late[3:]), "reordered") == [(2, COUNT - 1)]
