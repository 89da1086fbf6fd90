"""`streamer dlq ...`: the commands for dead letters."""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.terminal import AsJson, Bootstrap, DryRun, load_settings, milliseconds, time_option

if TYPE_CHECKING:
    from streamer.dlq import Filed, Filter

app = typer.Typer(no_args_is_help=True, help="Dead letters: records that could not be tagged.")

Reason = Annotated[str | None, typer.Option(metavar="CODE", help="Only letters with this reason.", show_default=False)]
Merchant = Annotated[str | None, typer.Option(metavar="ID", help="Only this merchant's.", show_default=False)]
Since = Annotated[datetime | None, time_option("Only those that failed then or later.")]
Until = Annotated[datetime | None, time_option("Only those that failed before.")]


def _filter(reason: str | None, merchant: str | None, since: datetime | None, until: datetime | None) -> "Filter":
    from streamer.dlq import Filter  # noqa: PLC0415

    return Filter(reason, merchant, milliseconds(since), milliseconds(until))


@app.command("list")
def list_letters(
    reason: Reason = None,
    merchant: Merchant = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """A line for each dead letter, without what the merchant wrote, and the count of each reason.

    PLACE is what `streamer dlq show` takes. With --json one object a line.
    """
    from streamer import dlq  # noqa: PLC0415

    async def run() -> tuple[Counter[str], int]:
        reasons: Counter[str] = Counter()
        unreadable = 0
        async for filed in dlq.find(load_settings(bootstrap), _filter(reason, merchant, since, until)):
            if not isinstance(filed, dlq.Filed):
                unreadable += 1
                continue
            reasons[filed.letter.reason] += 1
            typer.echo(json.dumps(filed.as_json(), ensure_ascii=False) if as_json else _line(filed))
        return reasons, unreadable

    reasons, unreadable = asyncio.run(run())
    counts = ", ".join(f"{count} {name}" for name, count in reasons.most_common()) or "no dead letters"
    typer.echo(counts + (f", {unreadable} records that are no dead letters" if unreadable else ""), err=True)


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="Where the letter is, as listed.")],
    raw: Annotated[bool, typer.Option("--raw", help="The original bytes alone.")] = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """One dead letter with its original record, which is read from the source again where the letter was truncated.

    This shows what the merchant wrote.
    """
    from streamer import dlq  # noqa: PLC0415
    from streamer.errors import InputError  # noqa: PLC0415

    filed, original = asyncio.run(dlq.one(load_settings(bootstrap), place))
    letter = filed.letter
    value = letter.value if original is None else original.value
    if raw:
        if original is None:
            raise InputError(f"{place}: the letter was truncated and its record is gone from the source")
        sys.stdout.buffer.write(value or b"")
        return
    fields: dict[str, Any] = filed.as_json()
    fields["failed_at"] = _time(letter.failed_at)
    fields["complete"] = original is not None
    fields["headers"] = {name: _text(content) for name, content in letter.headers}
    fields |= {"key": _text(letter.key), "value": _text(value)}
    if as_json:
        typer.echo(json.dumps(fields, ensure_ascii=False))
    else:
        for name, content in fields.items():
            typer.echo(f"{name:14}{'' if content is None else content}")


@app.command()
def redrive(
    reason: Reason = None,
    merchant: Merchant = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Send the original records to the retry topic, where the workers read them again.

    A letter is redriven once; when it fails again there is a new letter, up to STREAMER_REDRIVE_LIMIT times.
    """
    from streamer import dlq  # noqa: PLC0415

    wanted = _filter(reason, merchant, since, until)
    _report(asyncio.run(dlq.redrive(load_settings(bootstrap), wanted, dry_run=dry_run)), dry_run, as_json)


@app.command()
def purge(
    reason: Reason = None,
    merchant: Merchant = None,
    since: Since = None,
    until: Until = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Delete dead letters for good; without a filter all of them.

    Letters to keep that stand between others are written again at the end of their partition.
    """
    from streamer import dlq  # noqa: PLC0415

    settings, wanted = load_settings(bootstrap), _filter(reason, merchant, since, until)
    if not (yes or dry_run):
        meant = asyncio.run(dlq.purge(settings, wanted, dry_run=True)).purged
        typer.confirm(f"Delete {meant} dead letters from {settings.dead_letter_topic}?", abort=True, err=True)
    _report(asyncio.run(dlq.purge(settings, wanted, dry_run=dry_run)), dry_run, as_json)


def _report(done: Any, dry_run: bool, as_json: bool) -> None:
    counts = asdict(done)
    if as_json:
        typer.echo(json.dumps(counts))
    else:
        prefix = "would be: " if dry_run else ""
        typer.echo(prefix + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))


def _line(filed: "Filed") -> str:
    letter = filed.letter
    source = f"{letter.topic}/{letter.partition}/{letter.offset}"
    what = letter.reason if letter.field is None else f"{letter.reason} {letter.field}"
    size = f"{letter.value_length} bytes" + (", truncated" if letter.truncated else "")
    merchant = f"merchant={letter.merchant_id} " if letter.merchant_id else ""
    again = f", redriven {letter.attempts} times" if letter.attempts else ""
    return f"{filed.place:10} {_time(letter.failed_at)} {what:24} {merchant}{source} ({size}{again})"


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _text(content: bytes | None) -> str | None:
    """Bytes as text: UTF-8, and what is none as escapes."""
    return None if content is None else content.decode("utf-8", "backslashreplace")
