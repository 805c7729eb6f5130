"""Sheets that figures are drawn on: size, colours, axes, ticks, and how one becomes PNG and SVG bytes."""

import functools
import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WARM, COOL = "#c85a1e", "#2864be"
"""Towards the first side and away from it, as in the terminal: told apart by the colour-blind too."""
INK = "#1b1b1f"
"""Text and axes. Replaced by the page's own colour in SVG, so that a figure reads on dark pages too."""
MUTED, NEUTRAL = "#8a8a94", "#f4f4f2"
"""Bands and reference lines; a heat map's zero."""
DIVERGING = LinearSegmentedColormap.from_list("biasscope", [COOL, NEUTRAL, WARM]).with_extremes(bad="#c9c9d0")

WIDTH = 3.6
"""Inches of a sheet: 346 pixels of a browser, which a phone shows at full size; two fit a page in print."""
LEFT, RIGHT, BOTTOM, LINE, HEAD = 0.62, 0.12, 0.46, 0.155, 0.26
"""Inches left, right and below the axes, of a line of the title, and around it."""
TITLE = 44
"""Characters of a line of the title."""
NAMES = {"nats/SD": "nats per SD of the covariate", "nats": "nats", "share": "share of the total effect"}
"""Units as axes and colour bars spell them out."""
SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # names come from data: `$` is a character
    "svg.hashsalt": "biasscope",  # the same figure gives the same bytes
    "svg.fonttype": "path",
    "axes.unicode_minus": True,
    "axes.formatter.limits": (-2, 4),  # 0.0005 as 5, and 1e−4 once at the end of the axis: labels stay short
}


@dataclass(frozen=True)
class Sheet:
    """One figure with its axes, first the upper one."""

    figure: Figure
    axes: tuple[Axes, ...]


def sheet(title: str, heights: tuple[float, ...], *, left: float = LEFT, right: float = RIGHT) -> Sheet:
    """An empty sheet of the standard width: axes of these heights (inches) below each other, a title.

    The margins are fixed, not computed: drawing stays quick, and the figures of a row line up.
    """
    parts = title.split("\n")  # the first names the subject, in one line where others follow
    lines = [line for part in parts[-1:] for line in textwrap.wrap(shortened(part, 2 * TITLE - 8), TITLE)]
    lines = [*(shortened(part, TITLE) for part in parts[:-1]), *lines]
    gap = 0.18
    total = BOTTOM + sum(heights) + gap * (len(heights) - 1) + LINE * len(lines) + HEAD
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, total))
        top, axes = total - LINE * len(lines) - HEAD, []
        look: Any = {"va": "top", "ha": "left", "weight": "bold", "size": 8.5, "linespacing": 1.25}
        figure.text(0.06 / WIDTH, 1 - 0.07 / total, "\n".join(lines), **look)
        for height in heights:
            width = (WIDTH - left - right) / WIDTH
            axes.append(figure.add_axes((left / WIDTH, (top - height) / total, width, height / total)))
            top -= height + gap
    return Sheet(figure, tuple(axes))


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The drawing function, drawing in the house style and no other."""

    @functools.wraps(draw)
    def drawn(*given: Any, **named: Any) -> Figure:
        with matplotlib.rc_context(SETTINGS):
            return draw(*given, **named)

    return drawn


def spelt(unit: str) -> str:
    """The unit as axes and colour bars spell it out."""
    return NAMES.get(unit, unit)


def whole_numbers(axis: Any, most: int) -> None:
    """Put ticks at whole numbers, so few that their labels cannot meet."""
    axis.set_major_locator(MaxNLocator(nbins=most, integer=True, min_n_ticks=1))


def few_numbers(axes: Axes, *, x: bool = True, y: bool = True, most: int = 5) -> None:
    """Put so few ticks on the axes of numbers that their labels cannot meet."""
    for axis in [axes.xaxis] * x + [axes.yaxis] * y:
        axis.set_major_locator(MaxNLocator(nbins=most))


def colour_bar(drawn: Sheet, image: Any, unit: str) -> None:
    """Draw a colour bar right of the axes, its unit along it."""
    box = drawn.axes[0].get_position()
    beside = drawn.figure.add_axes((box.x1 + 0.1 / WIDTH, box.y0, 0.1 / WIDTH, box.height))
    bar = drawn.figure.colorbar(image, cax=beside)
    bar.set_label(spelt(unit), fontsize=7.5)
    bar.outline.set_visible(False)
    few_numbers(beside, x=False)


def labels(drawn: Sheet, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points, without those that would overlap another or leave the axes."""
    axes: Axes = drawn.axes[0]
    taken: list[Any] = []
    inside = axes.get_window_extent()
    for x, y, name in points:
        right = x > sum(axes.get_xlim()) / 2
        look: Any = {"textcoords": "offset points", "size": 7, "ha": "right" if right else "left"}
        text = axes.annotate(shortened(name, 24), (x, y), xytext=(-4 if right else 4, 3), **look)
        box = text.get_window_extent()
        clear = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        if clear and not any(box.overlaps(other) for other in taken):
            taken.append(box)
        else:
            text.remove()


def shortened(text: str, most: int) -> str:
    """The text without line breaks and control characters, its middle left out where it is too long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def png(drawn: Figure) -> bytes:
    """The figure for print and Markdown: white paper, 300 dots an inch."""
    out = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        drawn.savefig(out, format="png", dpi=300, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def pdf(drawn: Figure) -> bytes:
    """The figure for papers: one page, its text as text, the same bytes for the same figure."""
    out = io.BytesIO()
    with matplotlib.rc_context({**SETTINGS, "pdf.fonttype": 42}):
        nothing = dict.fromkeys(("CreationDate", "Creator", "Producer"))
        drawn.savefig(out, format="pdf", facecolor="white", metadata=nothing)
    return out.getvalue()


def svg(drawn: Figure, prefix: str) -> str:
    """The figure for an HTML page: no paper, no header, the page's colour, ids that begin with `prefix`."""
    out = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    return text.replace(INK, "currentColor")
