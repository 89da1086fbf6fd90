"""The worker's metrics, for Prometheus. Labels are topics, partitions, stages, reasons and versions: all are few."""

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from taggen.tag import Model

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATENCY = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
_LISTINGS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Slots(Protocol):
    """What the metrics need of `taggen.slots.SlotTable`."""

    hits: int
    loads: int
    evictions: int

    def __len__(self) -> int:
        """Slots with an adapter in them."""


Lags = Callable[[], Iterable[tuple[str, int, int]]]


class Metrics:
    """All metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # processor time, memory, start, open files
        self.events_in = Counter(
            "streamer_events_in", "Records read and finished, by source topic.", ["topic"], registry=self.registry
        )
        self.events_out = Counter(
            "streamer_events_out",
            "Records written and acknowledged by the broker: tags, deletion, dead_letter.",
            ["kind"],
            registry=self.registry,
        )
        self.dead_letters = Counter(
            "streamer_dead_letters", "Dead letters written, by reason code.", ["reason"], registry=self.registry
        )
        self.stale = Counter(
            "streamer_stale_versions",
            "Listings older than the newest version of their product that this worker remembers.",
            registry=self.registry,
        )
        self.flags = Counter(
            "streamer_flags",
            "Tag events with a flag: text_truncated, claim_withheld, personal_data_withheld, adapter_fallback.",
            ["flag"],
            registry=self.registry,
        )
        self.batch_listings = Histogram(
            "streamer_batch_listings", "Records per micro-batch.", buckets=_LISTINGS, registry=self.registry
        )
        self.batch_tokens = Histogram(
            "streamer_batch_tokens", "Padded tokens per micro-batch.", buckets=_TOKENS, registry=self.registry
        )
        self.padding_tokens = Counter(
            "streamer_padding_tokens", "Padded tokens that carry no text.", registry=self.registry
        )
        self.stage_seconds = Histogram(
            "streamer_stage_seconds",
            "Seconds per micro-batch: queue (of its oldest record), prepare, model, deliver.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.latency = Histogram(
            "streamer_latency_seconds",
            "From the event's own time (event) or the record's timestamp (record) to the acknowledged output.",
            ["since"],
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.adapter_loads = Counter(
            "streamer_adapter_loads",
            "Versions of merchants' adapters brought into memory, by outcome: ready, refused, retried.",
            ["outcome"],
            registry=self.registry,
        )
        self.adapter_refusals = Counter(
            "streamer_adapter_refusals", "Versions refused, by reason code.", ["reason"], registry=self.registry
        )
        self.adapter_fallbacks = Counter(
            "streamer_adapter_fallbacks",
            "Listings tagged by another version than their merchant's, by which: previous, default.",
            ["by"],
            registry=self.registry,
        )
        self.adapter_swap_seconds = Histogram(
            "streamer_adapter_swap_seconds",
            "From a record on the control topic to the first listing tagged by its version.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.adapter_trial_seconds = Histogram(
            "streamer_adapter_trial_seconds",
            "Of the model's thread, or of a core beside it, to try a new version: no batch is delayed by more.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "streamer_events_waiting", "Records aside that wait for their merchant's adapter.", registry=self.registry
        )
        self.in_hand = Gauge("streamer_events_in_hand", "Records read and not finished.", registry=self.registry)
        self.model = Info("streamer_model", "What serves: base, adapter, version, fingerprint.", registry=self.registry)

    def serves(self, model: Model) -> None:
        """Publish the model in use."""
        self.model.info(
            {
                "base": model.base,
                "generation": str(model.generation),
                "quantization": model.quantization,
                "compute_dtype": model.compute_dtype,
                "adapter": model.adapter,
                "version": model.version,
                "fingerprint": model.fingerprint,
            }
        )

    def watch_lag(self, lags: Lags) -> None:
        """Publish (topic, partition, records behind the broker's end), asked for at each scrape."""
        self.registry.register(_Lag(lags))

    def watch_slots(self, table: Slots) -> None:
        """Publish the device's adapters, asked for at each scrape."""
        self.registry.register(_Slots(table))

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Lag(Collector):
    def __init__(self, lags: Lags) -> None:
        self._lags = lags

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        family = GaugeMetricFamily(
            "streamer_lag", "Records between the last finished one and the broker's end.", labels=["topic", "partition"]
        )
        for topic, partition, lag in self._lags():
            family.add_metric([topic, str(partition)], lag)
        yield family


class _Slots(Collector):
    def __init__(self, table: Slots) -> None:
        self._table = table

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        table = self._table
        yield GaugeMetricFamily("streamer_adapter_slots", "Adapters on the device.", value=len(table))
        for name, text, count in (
            ("hits", "Batches' adapters that were on the device.", table.hits),
            ("copies", "Adapters copied to the device.", table.loads),
            ("evictions", "Adapters that made room on the device for others.", table.evictions),
        ):
            yield CounterMetricFamily(f"streamer_adapter_slot_{name}", text, value=count)
