"""A table in a terminal: what does not fit leaves, least needed first."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from biasscope.console import encodable, safe_text
from biasscope.report import tables

if TYPE_CHECKING:
    from rich.table import Table as Drawing


LONG = 32
"""Characters to which a column of text may be folded; names and numbers are shorter and stay on one line."""


def draw(table: tables.Table, stream: TextIO) -> None:
    """Draw one table as wide as the stream (80 where it is no terminal); what has no room leaves whole."""
    from rich.console import Console
    from rich.text import Text

    def shown(text: str) -> str:
        return encodable(safe_text(text), stream)

    console = Console(file=stream, width=None if stream.isatty() else 80, highlight=False, soft_wrap=False)
    columns = list(map(shown, table.columns))
    sections = [[list(map(shown, cells)) for cells in section] for section in table.sections]
    fit = replace(table, title=shown(table.title), columns=columns, sections=sections)
    kept = list(range(len(columns)))
    while _width(fit, kept) > console.width and len(kept) > 1:
        kept.remove(_least(table, kept))
    if columns:
        console.print(_drawn(fit, kept))
    left = [name for index, name in enumerate(table.columns) if index not in kept]
    about = [table.about.get(name) for name in left]
    notes = [note for note in table.notes if note not in about]
    for note in [*notes, *([f"no room for: {', '.join(left)}"] if left else [])]:
        console.print(Text(shown(note)), soft_wrap=True)


def _least(table: tables.Table, kept: Sequence[int]) -> int:
    """The column needed least of those kept, never the first: the table's spare ones, then from the right."""
    names = [table.columns[index] for index in kept]
    return next((kept[names.index(name, 1)] for name in table.spare if name in names[1:]), kept[-1])


def _width(table: tables.Table, kept: Sequence[int]) -> int:
    """Characters that the table needs with these columns."""
    return sum(min(LONG, _longest(table, index)) for index in kept) + 2 * len(kept)


def _longest(table: tables.Table, index: int) -> int:
    """Characters of a column's longest cell."""
    from rich.cells import cell_len

    column = [table.columns[index], *(row[index] for rows in table.sections for row in rows)]
    return max(map(cell_len, column))


def _drawn(table: tables.Table, kept: Sequence[int]) -> "Drawing":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    look: Any = {"box": box.SIMPLE_HEAD, "padding": (0, 1), "pad_edge": False, "collapse_padding": True}
    drawn = Table(title=Text(table.title), title_justify="left", **look)
    for index in kept:
        text, name = _longest(table, index) > LONG, Text(table.columns[index])
        side: Any = "left" if index == 0 or text else "right"
        drawn.add_column(name, justify=side, no_wrap=not text, overflow="fold")
    for section in table.sections:
        for cells in section:
            drawn.add_row(*(Text(cells[index]) for index in kept))
        drawn.add_section()
    return drawn
