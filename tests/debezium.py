"""Change events as Debezium's Postgres connector writes them in Avro, of the table of docs/examples/debezium.toml."""

import json
from io import BytesIO
from typing import Any

import fastavro

ROW = {
    "type": "record",
    "name": "Value",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "shop_id", "type": "int"},
        {"name": "name", "type": ["null", "string"], "default": None},
        {"name": "description_html", "type": ["null", "string"], "default": None},
        {"name": "category", "type": ["null", {"type": "string", "connect.name": "io.debezium.data.Enum"}]},
        {"name": "locale", "type": "string"},
        {"name": "specs", "type": ["null", {"type": "string", "connect.name": "io.debezium.data.Json"}]},
        {"name": "pictures", "type": ["null", {"type": "string", "connect.name": "io.debezium.data.Json"}]},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "updated_at", "type": {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}},
    ],
}
ENVELOPE = {
    "type": "record",
    "name": "Envelope",
    "namespace": "shop.public.products",
    "fields": [
        {"name": "before", "type": ["null", ROW], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {
            "name": "source",
            "type": {
                "type": "record",
                "name": "Source",
                "namespace": "io.debezium.connector.postgresql",
                "fields": [{"name": "ts_ms", "type": "long"}, {"name": "lsn", "type": ["null", "long"]}],
            },
        },
        {"name": "op", "type": {"type": "string", "connect.parameters": {"allowed": "c,u,d,r"}}},
    ],
}


def row(product: int, name: str | None) -> dict[str, Any]:
    """A row of the table; its price is 14.30."""
    texts = {"name": name, "description_html": None, "category": "Shoes", "locale": "en-GB", "pictures": None}
    specs = json.dumps({"Colour": "Walnut"})
    updated = 1_764_000_000_123_456
    return {"id": product, "shop_id": 17, **texts, "specs": specs, "price": b"\x05\x96", "updated_at": updated}


def change(lsn: int, op: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> bytes:
    """The Avro body of an event."""
    body = BytesIO()
    plain = json.loads(json.dumps(ENVELOPE).replace('"logicalType"', '"was"'))  # take the bytes as they are
    source = {"ts_ms": 1_764_000_000_124, "lsn": lsn}
    event = {"before": before, "after": after, "source": source, "op": op}
    fastavro.schemaless_writer(body, fastavro.parse_schema(plain), event)
    return body.getvalue()
