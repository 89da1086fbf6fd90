"""A table of tag events that grows as they come, on a terminal and in a log alike."""

from collections.abc import Iterable

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamer.records import DeadLetter
from streamer.tail import Sighting
from taggen.tag import Tag

GAP = 2
ADAPTER_WIDTH = 14
LATENCY_WIDTH = 8
SURE, FAIR = 0.9, 0.7  # confidences, for the colours


class TagTable:
    """Prints a row for each event. Widths are fixed at the start, so nothing is ever drawn twice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        room = console.width - ADAPTER_WIDTH - LATENCY_WIDTH - 3 * GAP
        self._product_width = min(36, max(16, room * 2 // 5))
        self._tags_width = max(20, room - self._product_width)
        self._headed = False

    def add(self, sighting: Sighting) -> None:
        """Print a tag event."""
        event = sighting.event
        tags = [_tag(tag, sighting.words(tag)) for tag in event.tags]
        if event.deleted:
            tags.append(Text("deleted", "dim"))
        elif not tags:
            tags.append(Text("no tags", "dim"))
        tags.extend(Text(flag, "yellow") for flag in event.flags)
        model = "" if event.model is None else f"{event.model.adapter} {event.model.version}"
        title = "" if sighting.listing is None else sighting.listing.title
        self._row(f"{event.merchant_id}/{event.product_id}", title, tags, model, _time(sighting.latency_ms))

    def add_dead_letter(self, letter: DeadLetter) -> None:
        """Print a record that became a dead letter."""
        what = Text("dead letter", "red")
        what.append(f" {letter.reason}" + (f" ({letter.field})" if letter.field else ""))
        self._row(f"{letter.topic}/{letter.partition}/{letter.offset}", letter.merchant_id or "", [what], "", "")

    def _row(self, product: str, title: str, tags: Iterable[Text], model: str, latency: str) -> None:
        cell = Text(_shortened(_printable(product), self._product_width), "cyan")
        if title:
            cell.append("\n" + _shortened(_printable(title), self._product_width), "default")
        if not self._headed:
            self._headed = True
            head = ("Product", 'Tags: name=value "words of the listing" confidence', "Adapter", "Latency")
            self._print(*(Text(name, "bold") for name in head))
        self._print(cell, _packed(tags, self._tags_width), Text(_printable(model)), Text(latency))

    def _print(self, *cells: Text) -> None:
        grid = Table.grid(padding=(0, GAP, 0, 0))
        for width in (self._product_width, self._tags_width, ADAPTER_WIDTH):
            grid.add_column(width=width, overflow="fold")
        grid.add_column(width=LATENCY_WIDTH, justify="right", no_wrap=True)
        grid.add_row(*cells)
        self._console.print(grid)


def _tag(tag: Tag, words: tuple[str, ...]) -> Text:
    text = Text()
    text.append(f"{_printable(tag.name)}=", "dim")
    text.append(_printable(tag.normalized), "bold")
    for word in words:
        text.append(f' "{_printable(word)}"', "dim")
    colour = "green" if tag.confidence >= SURE else "yellow" if tag.confidence >= FAIR else "red"
    text.append(f" {tag.confidence:.2f}", colour)
    return text


def _packed(texts: Iterable[Text], width: int) -> Text:
    """The texts with a separator between them, broken between two of them rather than within one."""
    packed = Text()
    used = 0
    for text in texts:
        if used and used + 2 + text.cell_len > width:
            packed.append("\n")
            used = 0
        elif used:
            packed.append("  ")
            used += 2
        packed.append_text(text)
        used += text.cell_len
    return packed


def _shortened(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _printable(text: str) -> str:
    """Listings are anyone's: what would steer a terminal is taken out."""
    return "".join(char if char.isprintable() else " " for char in text)


def _time(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"
