"""What a sighting says of a tag event."""

import json

import pytest

from streamer.records import Coordinates, TagEvent
from streamer.tail import Sighting, cut
from taggen.listing import Listing
from taggen.tag import Evidence, Tag
from tests.unit.fakes import MODEL

LISTING = Listing("acme", "1", 1, "Grey 👟 shoe", description="A grey one", attributes={"Colour.main": "Grey"})
COLOR = Tag(
    "color",
    "Grey",
    "grey",
    0.9,
    "attribute",
    (Evidence("title", 0, 4), Evidence("description", 2, 6), Evidence("attributes.Colour.main", 0, 4)),
)
SHOE = Tag("product_type", "shoe", "shoe", 0.5, "attribute", (Evidence("title", 7, 11),))
EVENT = TagEvent(
    "id", "source-id", Coordinates("product-created", 1, 7), "acme", "1", 1, False, (COLOR, SHOE), MODEL, 5, ()
)


def test_words():
    """A tag's words are cut from the original fields by code points, each different wording once."""
    sighting = Sighting(EVENT, LISTING, 12)
    assert sighting.words(COLOR) == ("Grey", "grey")
    assert sighting.words(SHOE) == ("shoe",)


@pytest.mark.parametrize("evidence", [Evidence("attributes.gone", 0, 4), Evidence("title", 90, 94)])
def test_evidence_of_another_listing(evidence):
    """Evidence that the listing does not have cuts nothing, rather than failing."""
    assert cut(LISTING, evidence) == ""


def test_json():
    """The JSON form has every field of the event, the title, the words of each evidence and the latency."""
    read = json.loads(json.dumps(Sighting(EVENT, LISTING, 12).as_json()))
    assert set(TagEvent._fields) | {"title", "latency_ms"} == set(read)
    assert read["source"] == {"topic": "product-created", "partition": 1, "offset": 7}
    assert read["title"] == "Grey 👟 shoe"
    assert [one["words"] for one in read["tags"][0]["evidence"]] == ["Grey", "grey", "Grey"]
    assert read["model"]["adapter"] == "fake"
    assert read["latency_ms"] == 12


def test_json_without_the_listing():
    """When the listing's record is gone, title, words and latency are null."""
    read = Sighting(EVENT, None, None).as_json()
    assert (read["title"], read["latency_ms"]) == (None, None)
    assert read["tags"][0]["evidence"][0] == {"field": "title", "start": 0, "end": 4, "words": None}
