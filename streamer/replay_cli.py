"""`streamer replay`: the command."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from streamer.errors import InputError
from streamer.terminal import AsJson, Bootstrap, DryRun, load_settings, milliseconds, new_console, time_option

if TYPE_CHECKING:
    from streamer.crew import Crew
    from streamer.plan import Plan
    from streamer.replay import Replay, Result
    from streamer.tally import Tally

SHOW_S = 0.5
LINE_S = 10.0  # between two lines of progress where there is no terminal


def replay(
    replay_id: Annotated[
        str, typer.Option("--id", metavar="NAME", help="The same name goes on where it stopped.", show_default=False)
    ],
    everything: Annotated[bool, typer.Option("--all", help="All that the source topics hold.")] = False,
    since: Annotated[datetime | None, time_option("Records from then on.")] = None,
    until: Annotated[datetime | None, time_option("Records from before then.")] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="TOPIC/PARTITION:START-[END]", help="Offsets; may be given several times."),
    ] = None,
    topics: Annotated[
        list[str] | None,
        typer.Option("--topic", metavar="TOPIC", help="A source topic, instead of all of them; several times."),
    ] = None,
    merchants: Annotated[list[str] | None, typer.Option("--merchant", metavar="ID", help="Only theirs.")] = None,
    products: Annotated[list[str] | None, typer.Option("--product", metavar="ID", help="Only these.")] = None,
    categories: Annotated[list[str] | None, typer.Option("--category", metavar="NAME", help="Only of these.")] = None,
    newest: Annotated[bool, typer.Option("--newest", help="Only each product's newest version among them.")] = False,
    flag: Annotated[
        str | None,
        typer.Option(metavar="FLAG", help="Only what went out with this flag, as adapter_fallback, and not since."),
    ] = None,
    into: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Write tag events there, not to the live topic.")
    ] = None,
    adapter: Annotated[
        str,
        typer.Option(metavar="NAME/VERSION", help="One version for all; latest follows the routes, default none."),
    ] = "latest",
    rate: Annotated[float | None, typer.Option(min=0.001, metavar="N", help="Listings a second, at most.")] = None,
    max_lag: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pause while the workers are more records behind.")
    ] = 1_000,
    workers: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Processes that share the partitions, each with a model of its own."),
    ] = 1,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the report there, as JSON; one that is resumed adds to it."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Tag records of the source topics again, beside the workers.

    It ends at the ends that the topics had when it began. The same model gives the same event ids and tags; a new one
    gives events that say so.
    """
    from streamer import logs  # noqa: PLC0415
    from streamer.crew import Crew  # noqa: PLC0415
    from streamer.plan import Range, Selection  # noqa: PLC0415
    from streamer.replay import Options, Replay  # noqa: PLC0415
    from streamer.tally import Tally, show  # noqa: PLC0415
    from streamer.worker import load_tagger  # noqa: PLC0415

    settings = load_settings(bootstrap)
    logs.configure(settings)
    if not (everything or since or until or ranges):
        raise InputError("say what to replay: --since, --until, --range or --all")
    selection = Selection(
        topics=tuple(topics or settings.source_topics),
        ranges=tuple(Range.parse(text) for text in ranges or ()),
        since_ms=milliseconds(since),
        until_ms=milliseconds(until),
        merchants=frozenset(merchants or ()),
        products=frozenset(products or ()),
        categories=frozenset(categories or ()),
        newest=newest,
        flag=flag,
    )
    options = Options(replay_id, selection, into, adapter, rate, max_lag, workers)
    tally = Tally.from_file(report, replay_id) if report is not None and report.exists() else None

    def saved(plan: "Plan", counts: "Tally") -> None:
        if report is not None:
            _write(report, _content(replay_id, plan, counts))

    running: Crew | Replay
    if workers > 1 and not dry_run:
        running = Crew(settings, options, load_tagger, tally, saved)
        work = running.run()
    else:
        running = Replay(settings, options, load_tagger, tally, saved)
        work = running.run(dry_run=dry_run)
    try:
        result = asyncio.run(_followed(running, work, replay_id, dry_run))
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo(f"stopped; --id {replay_id} goes on", err=True)
        raise
    content = _content(replay_id, result.plan, result.tally) | {
        "finished_before": result.finished,
        "estimate_s": result.estimate_s,
    }
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
    elif result.finished:
        typer.echo(f"{replay_id}: finished already, nothing left to do")
    elif result.estimate_s is not None:
        seconds, tally = result.estimate_s, result.tally
        shared = f", shared by {workers} workers" if workers > 1 else ""
        typer.echo(f"{tally.listings:,} of {tally.records:,} records are meant, about {seconds:,.0f} s of work{shared}")
    else:
        show(result.tally, new_console())


def _content(replay_id: str, plan: "Plan", tally: "Tally") -> dict[str, Any]:
    spans = {f"{one.topic}/{one.partition}": list(span) for one, span in plan.spans.items()}
    return {"id": replay_id, "spans": spans, "resumed": plan.resumed, "tally": tally.as_json()}


def _write(path: Path, content: dict[str, Any]) -> None:
    """In one step: a reader sees the old report or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(path)


async def _followed(
    running: "Crew | Replay", run: "Coroutine[Any, Any, Result]", replay_id: str, dry_run: bool
) -> "Result":
    """Run it, and show how far it is: a bar on a terminal, else a line now and then. SIGTERM counts as Ctrl-C."""
    work = asyncio.create_task(run)
    if (ours := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ours.cancel)
    try:
        with _progress() as progress:
            task = progress.add_task(replay_id, total=None, state="")
            loop = asyncio.get_running_loop()
            began, due, first = loop.time(), loop.time() + LINE_S, None
            while not work.done():
                await asyncio.wait({work}, timeout=SHOW_S)
                status = running.status
                if status is None or dry_run:
                    continue
                first = status.done if first is None else first
                if status.done == first:
                    began = loop.time()  # loading the model says nothing of its rate
                speed = (status.done - first) / max(SHOW_S, loop.time() - began)
                state = f"{status.listings:,} tagged, {status.different:,} differ, {speed:,.0f}/s"
                state += ", paused for live traffic" if status.paused else ""
                progress.update(task, total=status.total, completed=status.done, state=state)
                if progress.disable and loop.time() > due and not work.done():
                    due = loop.time() + LINE_S
                    left = f", {(status.total - status.done) / speed:,.0f} s left" if speed else ""
                    typer.echo(f"{replay_id}: {status.done:,} of {status.total:,}, {state}{left}", err=True)
        return await work
    finally:
        work.cancel()


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
