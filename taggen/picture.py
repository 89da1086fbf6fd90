"""The picture of an evaluation: F1 by tag, precision against recall, reliability of the confidences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taggen.calibration import Bin, Point, calibration_error
from taggen.evaluate import MICRO, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_TAGS = 40  # bars that can be told apart
# Fonts with Chinese characters on the usual systems.
_CHINESE = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
)


def draw(
    path: Path,
    title: str,
    exact: Mapping[str, Score],
    partial: Mapping[str, Score],
    curve: Sequence[Point],
    reliable: Sequence[Bin],
) -> None:
    """Write a PNG of 1,800 by 750 pixels.

    Tags stand in the order of their marks; a name that no installed font can draw is shown as #n, n its row in the
    table of tags.
    """
    import matplotlib as mpl  # noqa: PLC0415  half a second, for those who want a picture
    from matplotlib.figure import Figure  # noqa: PLC0415

    families = ["DejaVu Sans", *_installed()]
    with mpl.rc_context(
        {"font.family": families, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(18, 7.5), dpi=100, layout="constrained")
        figure.suptitle(_drawable(title, families) or "", x=0.01, ha="left")
        tags, precision, reliability = figure.subplots(1, 3, width_ratios=(4, 3, 3))
        _draw_tags(tags, exact, partial, families)
        _draw_curve(precision, curve, exact[MICRO])
        _draw_reliability(reliability, reliable)
        figure.savefig(path, format="png")


def in_order(scores: Mapping[str, Score]) -> list[str]:
    """Tag names, those with the most marks first."""
    return sorted(scores.keys() - {MICRO}, key=lambda name: (-scores[name].marked, name))


def _draw_tags(axes: "Axes", exact: Mapping[str, Score], partial: Mapping[str, Score], families: list[str]) -> None:
    names = in_order(exact)[:_MOST_TAGS]
    places = range(len(names))
    axes.barh(places, [100 * partial[name].f1 for name in names], color="#c6dbef", label="partial")
    axes.barh(places, [100 * exact[name].f1 for name in names], height=0.5, color="#2171b5", label="exact")
    shown = [_drawable(name, families) or f"#{number}" for number, name in enumerate(names, 1)]
    axes.set_yticks(places, [f"{name}  ({exact[tag].marked})" for name, tag in zip(shown, names, strict=True)])
    axes.invert_yaxis()
    axes.axvline(100 * exact[MICRO].f1, color="#d94801", linestyle=":", label=f"micro {100 * exact[MICRO].f1:.1f}")
    axes.set(xlim=(0, 100), xlabel="F1, percent", title="F1 by tag (marked mentions)")
    axes.legend(loc="lower left")


def _draw_curve(axes: "Axes", curve: Sequence[Point], micro: Score) -> None:
    axes.plot([100 * point.recall for point in curve], [100 * point.precision for point in curve], color="#2171b5")
    axes.plot([100 * micro.recall], [100 * micro.precision], "o", color="#d94801", label="at the tags' thresholds")
    axes.set(xlim=(0, 102), ylim=(0, 102), xlabel="recall, percent", ylabel="precision, percent")
    axes.set_title("precision and recall by confidence")
    axes.legend(loc="lower left")


def _draw_reliability(axes: "Axes", reliable: Sequence[Bin]) -> None:
    centres = [(one.low + one.high) / 2 for one in reliable]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as confident as right")
    axes.bar(centres, [one.precision for one in reliable], width=0.09, color="#2171b5", label="right")
    axes.plot([one.confidence for one in reliable], [one.precision for one in reliable], ".", color="#d94801")
    for centre, one in zip(centres, reliable, strict=True):
        axes.annotate(str(one.mentions), (centre, one.precision), ha="center", va="bottom", fontsize=7)
    axes.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="confidence", ylabel="share that is right")
    axes.set_title(f"reliability (calibration error {100 * calibration_error(reliable):.1f} %)")
    axes.legend(loc="upper left")


def _installed() -> list[str]:
    from matplotlib.font_manager import fontManager  # noqa: PLC0415

    there = {font.name for font in fontManager.ttflist}
    return [name for name in _CHINESE if name in there]


def _drawable(text: str, families: Sequence[str]) -> str | None:
    """The text with its dollars escaped (they begin formulas), or None if no font has all of its characters."""
    from matplotlib.font_manager import findfont, get_font  # noqa: PLC0415

    fonts = [get_font(findfont(family)) for family in families]
    if all(any(font.get_char_index(ord(character)) for font in fonts) for character in text):
        return text.replace("$", r"\$")
    return None
