"""A report as text, tables and pictures, and its two forms: Markdown with PNG files, and one HTML page."""

import functools
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from biasscope.console import safe_text
from biasscope.engine.store import digests, files
from biasscope.report import canvas, figures
from biasscope.report.tables import Table, escaped

NAME = re.compile(r"^[a-z-]+-[0-9a-f]{12}\.(png|svg)$")
"""Names of files that a report writes into its folder of figures, and may remove."""
LONGEST = 400
"""Characters of a cell; what is longer is cut, and says so."""


@dataclass(frozen=True)
class Picture:
    """A figure, drawn or found as it was drawn before."""

    stem: str
    """Its files' name without ending: what it shows, and the digest of what it was drawn from."""
    alt: str
    """What it shows, for those who do not see it."""
    png: Path
    svg: str
    view: str = ""
    """What the page's script shows in its place, or of its dots; empty: nothing (see `views`)."""


@dataclass(frozen=True)
class Block:
    """A paragraph, a list, a table, a row of pictures, lines of code, or what is missing."""

    kind: str
    text: str = ""
    lines: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()


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


@dataclass
class Gallery:
    """The folder of a report's figures: draws what is not there yet, drops what is shown no more."""

    folder: Path
    drawn: int = 0
    kept: int = 0
    names: set[str] = field(default_factory=set)

    def picture(
        self, name: str, draw: Callable[..., Any], data: Any, says: str, *, title: str, **named: Any
    ) -> Picture:
        """The figure that `draw(data, title=title, **named)` gives, which `says` more; drawn only once."""
        named = {"title": title, **named}
        seen = {"name": name, "data": _plain(data), "named": _plain(named), "code": _code()}
        stem = f"{name}-{digests.digest(seen)[:12]}"
        png, svg = (self.folder / f"{stem}.{end}" for end in ("png", "svg"))
        if png.is_file() and svg.is_file():
            self.kept += 1
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            figure = draw(data, **named)
            files.write_bytes(svg, canvas.svg(figure, stem).encode())
            files.write_bytes(png, canvas.png(figure))
            self.drawn += 1
        self.names |= {png.name, svg.name}
        alt = safe_text(f"{title}{says}".replace("\n", ", "))
        return Picture(stem, alt, png, svg.read_text(encoding="utf-8"))

    def sweep(self) -> None:
        """Remove the figures of earlier reports."""
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            if NAME.match(file.name) and file.name not in self.names:
                file.unlink()


@functools.cache
def _code() -> str:
    """What draws: with another version of our code or of matplotlib, figures are drawn again."""
    ours = [digests.of_file(Path(str(module.__file__))) for module in (canvas, figures)]
    return digests.digest([*ours, importlib.metadata.version("matplotlib")])


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: tables as rows, keys as text, numbers that do not exist as words."""
    if hasattr(value, "iter_rows"):
        return [value.columns, [list(map(_plain, row)) for row in value.iter_rows()]]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | bool | None) else repr(value)


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
        "md": lambda text: escaped(clean_text(text)),
        "drawn": _drawn,
        "fence": fenced,
        "embed": Markup,
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
