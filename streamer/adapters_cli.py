"""The commands `streamer adapters ...`: who is served by which version, and changing it."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from streamer.adapters_report import (
    BASE_CHARS,
    DEFAULT,
    Report,
    change_json,
    name_of,
    state_json,
    state_words,
    status_json,
    status_words,
)
from streamer.errors import InputError, SettingsError
from streamer.routing import Canary, MerchantRoute
from streamer.terminal import Bootstrap, load_settings, new_console
from taggen.errors import AdapterError

if TYPE_CHECKING:
    from streamer.records import AdapterStatus
    from streamer.rollout import AdapterLog, Entry, Step
    from streamer.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Merchants' adapters: publish, look at, roll back, retire.")

Merchant = Annotated[str, typer.Argument(metavar="MERCHANT", help="Merchant id, as the listings have it.")]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="FINGERPRINT",
        help="Beginning of the base model's fingerprint, for a merchant with routes on several.",
        show_default=False,
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every live worker has answered.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="For the workers' answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@app.command()
def publish(
    merchant: Merchant,
    folder: Annotated[Path, typer.Argument(help="Adapter folder, as `taggen train` writes it.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Labelled listings: if the version is worse on them than what serves now, it is not published.",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[float, typer.Option(min=0.0, metavar="POINTS", help="Of F1 that it may lose.")] = 1.0,
    canary: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Of the merchant's products; publish again with a larger one, which only adds products, and at last "
            "without.",
            show_default=False,
        ),
    ] = None,
    wait: Wait = True,
    timeout: Timeout = 120.0,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Check a version, store it and have it serve a merchant in all running workers.

    Exit code 1 when it is refused here, worse on --data, or refused by a worker; 0 when every live worker has verified
    it or none is live.
    """
    settings = load_settings(bootstrap)
    report = Report(as_json, merchant)
    try:
        asyncio.run(_publish(settings, merchant, folder, data, margin, canary, timeout if wait else None, report))
    except AdapterError as error:
        report.refuse(error)
    report.end()


async def _publish(
    settings: "Settings",
    merchant: str,
    folder: Path,
    data: list[Path] | None,
    margin: float,
    canary: float | None,
    timeout_s: float | None,
    report: "Report",
) -> None:
    from streamer.judge import judge  # noqa: PLC0415  torch, seconds
    from streamer.rollout import AdapterLog, Step, Workers  # noqa: PLC0415
    from streamer.worker import load_tagger  # noqa: PLC0415
    from taggen import corpus  # noqa: PLC0415
    from taggen.adapter import read  # noqa: PLC0415
    from taggen.admission import admit  # noqa: PLC0415
    from taggen.reference import Reference  # noqa: PLC0415
    from taggen.store import Store  # noqa: PLC0415

    if settings.adapter_store is None:
        raise SettingsError("STREAMER_ADAPTER_STORE: needed, a folder, s3://... or gs://... that the workers reach too")
    labelled = corpus.read_any(data)[0] if data else []
    store = Store(settings.adapter_store, settings.adapter_cache_bytes)
    adapter = await asyncio.to_thread(read, folder)
    reference = Reference(adapter.card.name, adapter.card.version, adapter.digest)
    base = adapter.card.base_fingerprint
    async with AdapterLog(settings, merchant) as log, Workers(settings, merchant, base) as workers:
        with report.doing("Loading the base model"):
            tagger: Any = await asyncio.to_thread(load_tagger, settings)
        with report.doing("Checking"):
            await asyncio.to_thread(admit, adapter, reference, merchant, tagger)
        card = adapter.card
        tags = f"{len(card.tags)} tags" + (f", {len(card.labels)} labels" if card.labels else "")
        report.checked(reference, f"{tags}, rank {adapter.rank}, {adapter.nbytes / 1e6:.2g} MB")
        state = log.merchant(base)
        if canary is not None and state.canary is None and reference in state.versions[:1]:
            raise InputError(f"{reference} serves all products of {merchant} already: a canary would take it from most")
        if labelled:
            serving = state.route(merchant, "", replay=True).reference
            with report.doing(f"Evaluating on {len(labelled)} listings"):
                in_use = None if serving is None else await asyncio.to_thread(store.load, serving)
                judgement = await asyncio.to_thread(judge, tagger, adapter, in_use, labelled, margin / 100)
            report.judged(judgement)
            if judgement.worse:
                return
        with report.doing("Storing"):
            stored = await asyncio.to_thread(store.put, folder)
        if stored != reference:
            raise AdapterError(f"{folder} was changed while it was checked", "digest")
        report.stored(f"{settings.adapter_store}/{reference.name}/{reference.version}", reference)
        chosen = None if canary is None else Canary(canary, f"{reference.name}/{reference.version}")
        step = Step("assign", reference, chosen)
        await _change(settings, log, base, lambda _: step, workers, timeout_s, report)


async def _change(
    settings: "Settings",
    log: "AdapterLog",
    base: str,
    step: "Callable[[MerchantRoute], Step]",
    workers: Any,
    timeout_s: float | None,
    report: "Report",
) -> None:
    """Write the record, and tell what the workers make of it until they have answered or the time is up."""
    change, offset = await log.append(base, step)
    report.published(change, f"{settings.adapters_topic}/0/{offset}")
    if timeout_s is None:
        return
    with report.doing("Waiting for the live workers") as say:
        try:
            async with asyncio.timeout(timeout_s):
                async for answers in workers.answers(change, offset):
                    report.answers = answers
                    say(f"Waiting for the live workers: {report.summary()}")
        except TimeoutError:
            report.timed_out = True
    report.answered()


@app.command("list")
def list_(as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """List the merchants that have a version of their own, or had one."""
    from streamer.rollout import AdapterLog  # noqa: PLC0415

    settings = load_settings(bootstrap)

    async def read() -> list[tuple[str, str, MerchantRoute]]:
        async with AdapterLog(settings) as log:
            return [
                (merchant, base, state)
                for base, routing in log.routings.items()
                for merchant, state in sorted(routing.merchants())
            ]

    rows = asyncio.run(read())
    if as_json:
        typer.echo(json.dumps([state_json(*row) for row in rows], ensure_ascii=False))
        return
    table = Table("merchant", "base", "revision", "served by", "canary", "before that", box=None, pad_edge=False)
    for merchant, base, state in rows:
        serves, canary, earlier = state_words(state)
        table.add_row(escape(merchant), base[:BASE_CHARS], str(state.revision), serves, canary, earlier)
    new_console().print(table if rows else "No merchant has an adapter of its own.", highlight=False)


@app.command()
def show(merchant: Merchant, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show a merchant's route, every record about it, and what the workers said in the last hour."""
    from streamer.rollout import AdapterLog, Workers  # noqa: PLC0415

    settings = load_settings(bootstrap)

    async def read() -> "tuple[dict[str, MerchantRoute], list[Entry], dict[str, AdapterStatus]]":
        async with AdapterLog(settings, merchant) as log:
            states = {base: log.merchant(base) for base in log.routings if log.merchant(base).revision}
            said: dict[str, AdapterStatus] = {}
            for base in states:
                async with Workers(settings, merchant, base, since_s=3600) as workers:
                    said |= await workers.said()
            return states, log.history, said

    states, history, said = asyncio.run(read())
    if not states:
        raise InputError(f"{merchant}: no record on {settings.adapters_topic} is about this merchant")
    if as_json:
        content = {
            "routes": [state_json(merchant, base, state) for base, state in states.items()],
            "records": [change_json(entry.change) | {"valid": entry.valid} for entry in history],
            "workers": {name: status_json(status) for name, status in said.items()},
        }
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    console = new_console()
    for base, state in states.items():
        serves, canary, earlier = state_words(state)
        console.print(f"{escape(merchant)} on base {base[:BASE_CHARS]}, revision {state.revision}", highlight=False)
        console.print(f"  served by    {serves}{f', canary {canary}' if canary else ''}", highlight=False)
        console.print(f"  before that  {earlier or DEFAULT}\n", highlight=False)
    table = Table("revision", "issued", "action", "version", "canary", "digest", box=None, pad_edge=False)
    for change, valid in history:
        issued = datetime.fromtimestamp(change.issued_at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        share = "" if change.canary is None else f"{100 * change.canary.share:g} %"
        digest = "" if change.adapter is None else change.adapter.digest[:BASE_CHARS]
        action = change.action if valid else f"{change.action} (void: the revision was taken)"
        table.add_row(str(change.revision), issued, action, name_of(change.adapter), share, digest)
    console.print(table, highlight=False)
    for name, status in sorted(said.items()):
        console.print(f"\n{escape(name)}: {status_words(status)}", end="", highlight=False)
    console.print()


@app.command()
def rollback(
    merchant: Merchant,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="An earlier version of this merchant's, or `default` for the default adapter; left out: the one "
            "before.",
            show_default=False,
        ),
    ] = None,
    base: Base = None,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Serve a merchant by an earlier version again; what came after it serves no listing any more.

    Exit code as of `publish`.
    """
    from streamer.rollout import Step  # noqa: PLC0415

    def step(log: "AdapterLog", state: MerchantRoute) -> "Step":
        if to is None:
            if not state.versions:
                raise InputError(f"{merchant} is served by the {DEFAULT} already")
            return Step("rollback", state.versions[1] if len(state.versions) > 1 else None)
        if to == "default":
            return Step("rollback")
        found = {change.adapter for change, valid in log.history if valid and change.adapter is not None}
        matches = [one for one in found if to in (one.version, f"{one.name}/{one.version}")]
        if len(matches) != 1:
            problem = "never served" if not matches else "more than one adapter's, name it NAME/VERSION for"
            raise InputError(f"version {to}: {problem} {merchant}")
        return Step("rollback", matches[0])

    _step(merchant, base, step, timeout if wait else None, as_json, bootstrap)


@app.command()
def retire(
    merchant: Merchant,
    base: Base = None,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Serve a merchant by the default adapter from here on; its versions stay in the store.

    Exit code as of `publish`.
    """
    from streamer.rollout import Step  # noqa: PLC0415

    def step(log: "AdapterLog", state: MerchantRoute) -> "Step":
        return Step("retire")

    _step(merchant, base, step, timeout if wait else None, as_json, bootstrap)


def _step(
    merchant: str,
    base: str | None,
    step: "Callable[[AdapterLog, MerchantRoute], Step]",
    timeout_s: float | None,
    as_json: bool,
    bootstrap: str | None,
) -> None:
    from streamer.rollout import AdapterLog, Workers  # noqa: PLC0415

    settings = load_settings(bootstrap)
    report = Report(as_json, merchant)

    async def run() -> None:
        async with AdapterLog(settings, merchant) as log:
            found = [known for known in log.routings if log.merchant(known).revision and known.startswith(base or "")]
            if len(found) != 1:
                problem = "never routed" if not found else f"routed on {len(found)} bases, choose one with --base"
                raise InputError(f"{merchant}: {problem}")
            async with Workers(settings, merchant, found[0]) as workers:
                await _change(settings, log, found[0], lambda state: step(log, state), workers, timeout_s, report)

    asyncio.run(run())
    report.end()
