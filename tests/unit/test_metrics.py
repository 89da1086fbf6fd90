"""The metrics: what a scrape shows, and that workers do not share it."""

from streamer.metrics import Metrics
from tests.unit.fakes import MODEL


def test_exposition_shows_what_was_counted() -> None:
    """Counters, the model in use, and the lag as it is at the scrape."""
    metrics = Metrics()
    metrics.dead_letters.labels("undecodable").inc(3)
    metrics.serves(MODEL)
    lag = [("in", 0, 5)]
    metrics.watch_lag(lambda: lag)
    assert b'streamer_lag{partition="0",topic="in"} 5.0' in metrics.exposition()
    lag[0] = ("in", 0, 4)
    text = metrics.exposition()
    assert b'streamer_lag{partition="0",topic="in"} 4.0' in text
    assert b'streamer_dead_letters_total{reason="undecodable"} 3.0' in text
    assert b'adapter="fake"' in text


def test_each_worker_has_its_own() -> None:
    """Two in one process do not add up."""
    first, second = Metrics(), Metrics()
    first.stale.inc()
    assert b"streamer_stale_versions_total 0.0" in second.exposition()


def test_flags_are_counted_apart() -> None:
    """What is withheld shows by its reason."""
    metrics = Metrics()
    metrics.flags.labels("claim_withheld").inc()
    assert b'streamer_flags_total{flag="claim_withheld"} 1.0' in metrics.exposition()
