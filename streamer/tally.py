"""The report of a replay: what was tagged again, and what that changed."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from streamer.errors import InputError
from streamer.history import History, pairs
from streamer.pipeline import Deleted, Output, Rejected


@dataclass
class Changes:
    """Of one tag name: values that came, that went, and that others took the place of."""

    added: int = 0
    removed: int = 0
    changed: int = 0


@dataclass
class Tally:
    """Counts of a replay's outcomes; `as_json` and back, so that one that is resumed goes on with them."""

    records: int = 0  # read, meant or not
    listings: int = 0  # tagged
    deletions: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)  # by reason
    same: int = 0  # listings whose tags are those of before
    different: int = 0
    unknown: int = 0  # listings whose product had no tags before
    superseded: int = 0  # of a listing version that is not the one of before
    tags: dict[str, Changes] = field(default_factory=dict)  # by tag name

    def count(self, output: Output, history: History) -> None:
        """Take in an outcome that was written."""
        outcome = output.outcome
        if isinstance(outcome, Rejected):
            self.dead_letters[outcome.reason] += 1
            return
        if isinstance(outcome, Deleted):
            self.deletions += 1
            return
        self.listings += 1
        before = history.before(outcome.listing.merchant_id, outcome.listing.product_id)
        if before is None:
            self.unknown += 1
        elif before.listing_version != outcome.listing.listing_version:
            self.superseded += 1
        else:
            self._compare(before.tags, pairs(outcome.tagging.tags))

    def _compare(self, before: frozenset[tuple[str, str]], after: frozenset[tuple[str, str]]) -> None:
        if before == after:
            self.same += 1
            return
        self.different += 1
        came = Counter(name for name, _ in after - before)
        went = Counter(name for name, _ in before - after)
        for name in came.keys() | went.keys():
            changes = self.tags.setdefault(name, Changes())
            both = min(came[name], went[name])
            changes.changed += both
            changes.added += came[name] - both
            changes.removed += went[name] - both

    def add(self, other: "Tally") -> None:
        """Take in another's counts."""
        for name in ("records", "listings", "deletions", "same", "different", "unknown", "superseded"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dead_letters.update(other.dead_letters)
        for name, theirs in other.tags.items():
            changes = self.tags.setdefault(name, Changes())
            changes.added += theirs.added
            changes.removed += theirs.removed
            changes.changed += theirs.changed

    def as_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`."""
        tags = {name: asdict(changes) for name, changes in self.tags.items()}
        # Not asdict(self): it makes a Counter of a Counter's items.
        return {**vars(self), "dead_letters": dict(self.dead_letters), "tags": tags}

    @classmethod
    def from_file(cls, path: Path, replay_id: str) -> "Tally":
        """The tally in a replay's report. Raises InputError for a file that is another's or no report."""
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            content = report["tally"]
            content["dead_letters"] = Counter(content["dead_letters"])
            content["tags"] = {name: Changes(**changes) for name, changes in content["tags"].items()}
            tally = cls(**content)
            same = report["id"] == replay_id
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not the report of a replay: {type(error).__name__}") from None
        if not same:
            raise InputError(f"{path}: the report of another replay; name another file")
        return tally


def show(tally: Tally, console: Console) -> None:
    """Print the report for people."""
    outcomes = Table("outcome", "listings")
    for name, count in (
        ("same tags as before", tally.same),
        ("other tags", tally.different),
        ("no tags before", tally.unknown),
        ("not the version of before", tally.superseded),
        ("deletions", tally.deletions),
        *((f"dead letter: {reason}", count) for reason, count in sorted(tally.dead_letters.items())),
    ):
        if count:
            outcomes.add_row(name, f"{count:,}")
    console.print(outcomes)
    if tally.tags:
        names = Table("tag", "added", "removed", "changed")
        for name, changes in sorted(tally.tags.items()):
            names.add_row(name, f"{changes.added:,}", f"{changes.removed:,}", f"{changes.changed:,}")
        console.print(names)
