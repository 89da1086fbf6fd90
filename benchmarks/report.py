"""What the benchmarks print: figures with their spread, and the kind of machine they were measured on."""

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table


class Figure(NamedTuple):
    """A figure measured several times: median, lowest and highest; shown as median ± half of what lies between."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Sum up some measurements of the same thing."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        spread = "" if self.low == self.high else f" ±{(self.high - self.low) / 2 / abs(self.median):.0%}"
        return f"{self.median:,.{digits}f}{spread}"


class Neighbours:
    """How busy other processes kept the machine since this was made: figures from a busy machine are worth little."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = self._others()

    def share(self) -> float:
        """Of all cores' time, 0 to 1; our children count as ours once they have ended."""
        seconds = time.monotonic() - self._began
        return max(0.0, (self._others() - self._before) / seconds / (psutil.cpu_count() or 1))

    @staticmethod
    def _others() -> float:
        all_ = psutil.cpu_times()
        own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return float(all_.user + all_.nice + all_.system) - sum(used.ru_utime + used.ru_stime for used in own)


def machine(neighbours: Neighbours) -> dict[str, Any]:
    """The kind of machine: what figures depend on, nothing that tells one machine from another of its kind."""
    import torch  # noqa: PLC0415  seconds: not for the processes that are measured

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": torch.cpu._is_avx512_bf16_supported(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "busy_with_others": neighbours.share(),
    }


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], notes: Mapping[str, object] | None = None
) -> None:
    """Print a table, a column of names first, and lines of `name: figure` under it."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        wraps = position == len(columns) - 1
        table.add_column(column, justify="right" if position and column != "what" else "left", no_wrap=not wraps)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console()
    console.print(table)
    for name, figure in (notes or {}).items():
        console.print(f"{name}: [bold]{figure}[/bold]", highlight=False)
    console.print()


def describe(machine: Mapping[str, Any]) -> str:
    """The machine in a line."""
    return ", ".join(
        f"{name} {value:.0%}" if isinstance(value, float) else f"{name} {value}" for name, value in machine.items()
    )


def plain(content: Any) -> Any:
    """The content with each figure as an object, for JSON."""
    if isinstance(content, Figure):
        return {name: round(value, 4) for name, value in content._asdict().items()}
    if isinstance(content, Mapping):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return round(content, 4) if isinstance(content, float) else content


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object, figures as median, low and high."""
    print(json.dumps(plain(content), indent=2))
