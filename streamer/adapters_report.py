"""What `streamer adapters ...` says of merchants' adapters: to people, and as JSON."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from streamer.routing import MerchantRoute, RouteChange
from streamer.terminal import FAILED, new_console
from taggen.errors import AdapterError

if TYPE_CHECKING:
    from streamer.judge import Judgement
    from streamer.records import AdapterStatus
    from taggen.reference import Reference

DEFAULT = "default adapter"
BASE_CHARS = 12  # of a base fingerprint, where people read it


class Report:
    """What a change came to: lines for people as it goes on, or one JSON object at the end."""

    def __init__(self, as_json: bool, merchant: str) -> None:
        self.answers: Mapping[str, AdapterStatus | None] = {}
        self.timed_out = False
        self._as_json = as_json
        self._content: dict[str, Any] = {"merchant_id": merchant}
        self._good = True
        self._console = new_console()
        self._progress = Console(stderr=True)

    @contextmanager
    def doing(self, what: str) -> "Iterator[Callable[[str], None]]":
        """A spinner on a terminal; gives a function that changes its text."""
        with self._progress.status(what) as status:
            yield lambda text: status.update(escape(text))

    def _say(self, title: str, text: str) -> None:
        if not self._as_json:
            self._console.print(f"{title:<11}{escape(text)}", soft_wrap=True, highlight=False)

    def checked(self, reference: "Reference", what: str) -> None:
        """Admitted here."""
        self._say("Checked", f"{reference}: {what}")

    def judged(self, judgement: "Judgement") -> None:
        """Compared with what serves now."""
        contests = {"mentions": judgement.mentions, "labels": judgement.labels}
        self._content["evaluation"] = judgement._asdict() | {
            name: None if contest is None else contest._asdict() for name, contest in contests.items()
        }
        self._say("Evaluated", f"on {judgement.listings} listings, against {judgement.in_use}, in use")
        for name, contest in contests.items():
            if contest is not None:
                f1, in_use, low, high = (100 * share for share in contest)
                self._say(
                    "", f"F1 of {name} {f1:.1f}, in use {in_use:.1f} (difference, 95 %: {low:+.1f} to {high:+.1f})"
                )
        if judgement.worse:
            self._good = False
            self._say("Worse", "not published")

    def stored(self, where: str, reference: "Reference") -> None:
        """In the store."""
        self._say("Stored", f"{where}, SHA-256 {reference.digest[:BASE_CHARS]}...")

    def published(self, change: RouteChange, where: str) -> None:
        """On the control topic."""
        self._content |= change_json(change) | {"record": where}
        share = "" if change.canary is None else f" for {100 * change.canary.share:g} % of the products"
        served = "retired: " if change.action == "retire" else "served by "
        self._say("Published", f"revision {change.revision} on {where}: {served}{name_of(change.adapter)}{share}")

    def summary(self) -> str:
        """Counts of the workers' answers."""
        states = [status.state if status is not None else "no answer" for status in self.answers.values()]
        verified = states.count("verified") + states.count("in_use")
        others = [f"{states.count(state)} {state}" for state in ("refused", "retrying", "no answer") if state in states]
        return ", ".join([f"{verified} of {len(states)} verified", *others])

    def answered(self) -> None:
        """By the workers, or not in time."""
        self._content["timed_out"] = self.timed_out
        self._content["workers"] = {
            name: None if status is None else status_json(status) for name, status in self.answers.items()
        }
        refused = [status for status in self.answers.values() if status is not None and status.state == "refused"]
        self._good = not refused and not self.timed_out
        if not self.answers:
            self._say("Workers", "none is live; each checks the version when it starts")
        elif self._good:
            self._say("Verified", f"by {len(self.answers)} of {len(self.answers)} live workers")
        else:
            self._say("Timed out" if self.timed_out else "Refused", self.summary())
        for name, answer in sorted(self.answers.items()):
            if answer is None or answer.state in ("refused", "retrying"):
                self._say("", f"{name}: {'no answer' if answer is None else status_words(answer)}")

    def refuse(self, error: AdapterError) -> None:
        """Refused here: nothing was published."""
        self._good = False
        self._content["refused"] = {"reason": error.reason, "detail": str(error)}
        self._say("Refused", f"{error.reason}: {error}")

    def end(self) -> NoReturn:
        """Print the JSON object if that was asked for, and leave."""
        if self._as_json:
            typer.echo(json.dumps(self._content, ensure_ascii=False))
        sys.exit(0 if self._good else FAILED)


def name_of(reference: "Reference | None") -> str:
    """An adapter's version, or the default."""
    return DEFAULT if reference is None else str(reference)


def state_words(state: MerchantRoute) -> tuple[str, str, str]:
    """What serves, what is a canary beside it, and what was before, newest first."""
    versions = list(state.versions)
    canary = ""
    if state.canary is not None:
        canary = f"{name_of(versions.pop(0))} for {100 * state.canary.share:g} %"
    return name_of(versions[0] if versions else None), canary, ", ".join(map(str, versions[1:]))


def status_words(status: "AdapterStatus") -> str:
    """What a worker said of a version."""
    what = f"{status.state} revision {status.revision}, {name_of(status.adapter)}"
    why = [text for text in (status.reason, status.detail) if text]
    return f"{what}: {': '.join(why)}" if why else what


def state_json(merchant: str, base: str, state: MerchantRoute) -> dict[str, Any]:
    """A merchant's state on a base."""
    return {
        "merchant_id": merchant,
        "base_fingerprint": base,
        "revision": state.revision,
        "versions": [_reference_json(version) for version in state.versions],
        "canary": None if state.canary is None else state.canary._asdict(),
    }


def change_json(change: RouteChange) -> dict[str, Any]:
    """A record of the control topic."""
    canary = None if change.canary is None else change.canary._asdict()
    return change._asdict() | {"adapter": _reference_json(change.adapter), "canary": canary}


def status_json(status: "AdapterStatus") -> dict[str, Any]:
    """What a worker said, for scripts."""
    return {"state": status.state, "revision": status.revision, "reason": status.reason, "detail": status.detail}


def _reference_json(reference: "Reference | None") -> dict[str, str] | None:
    if reference is None:
        return None
    return {"name": reference.name, "version": reference.version, "digest": reference.digest}
