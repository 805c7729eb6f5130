"""A report as text, tables and pictures, and its two forms: Markdown with PNG files, and one HTML page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from biasscope.console import safe_text
from biasscope.report.page import glossary
from biasscope.report.page.gallery import Picture
from biasscope.report.tables import Table, escaped

LONGEST = 1000
"""Characters of a cell or a paragraph; what is longer is cut, and says so."""


@dataclass(frozen=True)
class Block:
    """A paragraph, a list, a table, a row of pictures, lines of code, what is missing, a verdict (its title,
    sentences, points and pictures), or terms with their meanings (points).
    """

    kind: str
    text: str = ""
    lines: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    points: Sequence[tuple[str, str]] = ()
    """What is said, under its name."""

    @property
    def texts(self) -> list[str]:
        """All of its words but those of commands and pictures."""
        table = self.table or Table("", [], [], [])
        cells = [cell for rows in table.sections for row in rows for cell in row]
        said = [text for _, text in self.points]
        under = [picture.caption for picture in self.pictures]
        lines = [] if self.kind == "code" else self.lines
        return [self.text, *lines, table.title, *table.columns, *table.notes, *cells, *said, *under]


@dataclass(frozen=True)
class Section:
    """A heading with its blocks; level 2 or 3."""

    title: str
    blocks: list[Block]
    level: int = 2

    @property
    def anchor(self) -> str:
        """The heading as the end of a link."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:60] or "section"


def paragraph(text: str) -> Block:
    """A block of running text."""
    return Block("text", text)


def bullets(lines: Sequence[str]) -> Block:
    """A block of points."""
    return Block("list", lines=lines)


def pictures(drawn: Sequence[Picture]) -> list[Block]:
    """A row of figures, where there are any."""
    return [Block("pictures", pictures=drawn)] if drawn else []


def missing(text: str) -> Block:
    """A block that names what was not measured."""
    return Block("missing", text)


def render(form: str, **given: Any) -> str:
    """The report as "md" or "html"; everything that comes from data is made harmless on the way."""
    loader = Environment(
        loader=PackageLoader("biasscope.report.page", "templates"),
        autoescape=select_autoescape(["html.j2", "html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    loader.filters |= {
        "safe_text": clean_text,
        "explained": glossary.Explained(clean_text),
        "md": lambda text: escaped(clean_text(text)),
        "drawn": _drawn,
        "fence": fenced,
        "embed": Markup,
        "anchor": glossary.anchor,
    }
    return loader.get_template(f"report.{form}.j2").render(**given)


def clean_text(text: str) -> str:
    """One line without control and steering characters, cut where it is very long."""
    text = safe_text(str(text))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def fenced(text: str) -> str:
    """A command as a line of a code block, which no run of backticks can leave."""
    return safe_text(text).replace("`", "'")


def _drawn(picture: Picture) -> Markup:
    """The figure's SVG with a name for those who do not see it. Its text is outlines: no markup of data."""
    label = Markup('role="img" aria-label="{}"').format(picture.alt)
    return Markup(picture.svg.replace("<svg ", f"<svg {label} ", 1))  # noqa: S704  made by matplotlib, escaped by it
