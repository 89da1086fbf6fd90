"""The command `streamer`. Each command imports what it needs: `--help` should not wait for it."""

import asyncio
import json
import logging
import signal
import sys
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from streamer.adapters_cli import app as adapters_app
from streamer.dlq_cli import app as dlq_app
from streamer.errors import InputError, SettingsError, StreamerError
from streamer.mapping_cli import app as map_app
from streamer.replay_cli import replay
from streamer.schemas_cli import app as schemas_app
from streamer.terminal import (
    FAILED,
    INTERRUPTED,
    WRONG_USAGE,
    Bootstrap,
    load_settings,
    milliseconds,
    new_console,
    time_option,
)
from taggen.errors import TaggenError


class Commands(TyperGroup):
    """Turns what is raised on purpose into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except (StreamerError, TaggenError) as error:
            typer.echo(f"streamer: {error}", err=True)
            sys.exit(WRONG_USAGE if isinstance(error, SettingsError | InputError) else FAILED)
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(INTERRUPTED)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False)
topics_app = typer.Typer(no_args_is_help=True, help="The topics of the service.")
app.add_typer(topics_app, name="topics")
app.add_typer(adapters_app, name="adapters")
app.add_typer(dlq_app, name="dlq")
app.add_typer(map_app, name="map")
app.add_typer(schemas_app, name="schemas")
app.command()(replay)


@app.callback(
    epilog="Settings are environment variables, STREAMER_...; the README lists them. "
    "Exit codes: 0 done, 1 the work failed, 2 wrong usage, setting or input, 130 interrupted."
)
def main() -> None:
    """Product events on Kafka in, attribute tags out."""
    # It logs every failed connection; what matters of it is raised. The worker has logging of its own.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@app.command()
def worker() -> None:
    """Consume listings and write their tags, until SIGTERM or Ctrl-C."""
    from streamer import worker as service  # noqa: PLC0415

    sys.exit(service.run(load_settings(None)))


@app.command()
def materialise(bootstrap: Bootstrap = None) -> None:
    """Keep each product's newest tag event in STREAMER_LATEST_TOPIC, until SIGTERM or Ctrl-C.

    Newest by listing version, generation, own adapter before fallback, revision; never by arrival.

    Start several to share the partitions. The broker must have transactions, as Apache Kafka does.
    """
    from streamer import materialise as service  # noqa: PLC0415

    sys.exit(service.run(load_settings(bootstrap)))


@app.command()
def publish(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE.jsonl|-",
            help="Listings, one JSON object a line with the fields of product-listing.avsc; event_time may be left "
            "out. - is standard input. Without FILE: the sample listings.",
            show_default=False,
        ),
    ] = None,
    updated: Annotated[bool, typer.Option("--updated", help="To product-updated, not product-created.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of Avro.")] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.001, metavar="N", help="Listings a second; left out: as fast as they go.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Pass over lines that hold no listing.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Publish listings, keyed by product."""
    from streamer import publish as publishing  # noqa: PLC0415

    settings = load_settings(bootstrap)
    if updated and len(settings.source_topics) < 2:
        raise SettingsError("--updated: STREAMER_SOURCE_TOPICS names one topic only")
    topic = settings.source_topics[1 if updated else 0]

    def skip(bad: publishing.BadLine) -> None:
        typer.echo(f"skipped {bad}", err=True)

    with publishing.listings(file, Console(stderr=True)) as listings:
        published = asyncio.run(
            publishing.publish(settings, listings, topic, as_json=as_json, rate=rate, skip=skip if skip_bad else None)
        )
    typer.echo(f"published {published} listings to {topic} on {settings.kafka_bootstrap}", err=True)


@app.command()
def tail(
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="All that the topic holds, not only what comes from now on.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many tag events.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show tag events as they come, with the words that carry each tag; until Ctrl-C."""
    from streamer import table, tail  # noqa: PLC0415

    rows = table.TagTable(new_console())

    def show(sighting: tail.Sighting) -> None:
        if as_json:
            typer.echo(json.dumps(sighting.as_json(), ensure_ascii=False))
        else:
            rows.add(sighting)

    def complain(unreadable: tail.Unreadable) -> None:
        typer.echo(f"streamer: {unreadable}", err=True)

    try:
        asyncio.run(tail.tail(load_settings(bootstrap), show, complain, from_beginning=from_beginning, limit=limit))
    except KeyboardInterrupt:
        return  # the way to end it


@app.command()
def broker(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free port.")] = 9092,
) -> None:
    """Run the embedded broker, in memory and for this machine alone, until Ctrl-C."""
    from streamer.broker import EmbeddedBroker  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with EmbeddedBroker(port) as embedded:
            typer.echo(
                f"{embedded.bootstrap}\n\nFor the other commands:\n"
                f"  export STREAMER_KAFKA_BOOTSTRAP={embedded.bootstrap} STREAMER_IDEMPOTENT_PRODUCER=false\n\n"
                "Ctrl-C ends it, and what it holds is gone then."
            )
            embedded.wait()
    except KeyboardInterrupt:
        return


@app.command()
def verify(
    everything: Annotated[
        bool, typer.Option("--all", help="Every input must have an outcome, not only those the group has acknowledged.")
    ] = False,
    since: Annotated[
        datetime | None,
        time_option("Only inputs whose record is not older."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as JSON.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Read inputs, tag events and dead letters, and tell whether any was lost, invented, contradicted or reordered.

    Reads whole topics, into a temporary file. Exit code 1 when there are findings.
    """
    from streamer import verify as verification  # noqa: PLC0415

    console = Console(stderr=True)
    verdict = asyncio.run(
        verification.verify(load_settings(bootstrap), console, everything=everything, since_ms=milliseconds(since))
    )
    if as_json:
        typer.echo(json.dumps(verdict.as_json(), ensure_ascii=False))
    else:
        for finding in verdict.examples:
            typer.echo(str(finding))
        typer.echo(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in verdict.counts.items()))
        typer.echo(", ".join(f"{count} {kind}" for kind, count in verdict.found.items()))
        if verdict.difference.ids:
            ids, most = verdict.difference
            typer.echo(f"{ids} ids came from several numerics classes, their confidences at most {most:.1g} apart")
    sys.exit(0 if verdict.good else FAILED)


@topics_app.command("create")
def topics_create(
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Of each topic for data; as many workers can share one; 4 when left out."
        ),
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Left out: the broker's default.", show_default=False)
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Create the topics that the worker reads and writes; those that are there are compared, never changed."""
    from streamer import topics  # noqa: PLC0415

    settings = load_settings(bootstrap)
    wanted = topics.wanted(settings, partitions or topics.PARTITIONS, replication_factor)
    for topic in asyncio.run(topics.ensure(wanted, **settings.client_options())):
        partitions_text = f"{topic.partitions} partition{'s' if topic.partitions > 1 else ''}"
        typer.echo(f"{topic.name}: {'created' if topic.created else 'is there'}, {partitions_text}")
        for name, (value, found) in topic.differences.items():
            typer.echo(f"  {name} is {found or 'not known'}, {value} is wanted", err=True)


@app.command()
def demo(
    rate: Annotated[float, typer.Option(min=0.1, metavar="N", help="Listings a second.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="The summary alone, as JSON.")] = False,
    bootstrap: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A broker of yours, instead of the embedded one; topics and group are named demo-...",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Broker, worker, sample listings in, their tags out, and a summary; ends by itself.

    Exit code 1 when a listing has neither tags nor a dead letter.
    """
    from streamer import demo, table  # noqa: PLC0415

    console = Console(stderr=True) if as_json else new_console()
    show = demo.Demo(load_settings(bootstrap), console, None if as_json else table.TagTable(console), rate)
    summary = asyncio.run(show.run(own_broker=bootstrap is not None))
    if as_json:
        typer.echo(summary.as_json())
    else:
        demo.print_summary(summary, console)
    sys.exit(0 if summary.good else FAILED)
