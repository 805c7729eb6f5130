"""The folder of a report's figures: each under a readable name as PNG, SVG and PDF, drawn when it changes."""

import functools
import importlib.metadata
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.console import safe_text
from biasscope.engine.store import digests, files
from biasscope.report.drawing import canvas, figures, points

INDEX = "figures.json"
"""File of the folder: each figure's name → the digest of what it was drawn from."""
ENDINGS = ("png", "svg", "pdf")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,119}")
"""Names that a report writes into its folder of figures, and may remove."""
OLDER = re.compile(r"[a-z-]+-[0-9a-f]{12}\.(png|svg)")
"""Names of files that older versions wrote."""


@dataclass(frozen=True)
class Picture:
    """A figure, drawn or found as it was drawn before."""

    stem: str
    """Its files' name without ending."""
    alt: str
    """What it shows, for those who do not see it."""
    caption: str
    """What stands below it: the same without its title."""
    png: Path
    svg: str
    view: str = ""
    """What the page's script shows in its place, or of its dots; empty: nothing (see `views`)."""
    points: pl.DataFrame | None = None
    """Of a scatter the rows of its dots, in their order: group, x, y."""


@dataclass
class Gallery:
    """The folder of a report's figures: draws what is not there yet, drops what is shown no more."""

    folder: Path
    several: bool = False
    """Whether the report shows several models, so that names hold the model's."""
    drawn: int = 0
    kept: int = 0
    now: dict[str, str] = field(default_factory=dict)
    """Name → digest of the figures of this report."""

    @functools.cached_property
    def before(self) -> dict[str, str]:
        """Name → digest of those that are there; what was edited into something else counts as not there."""
        try:
            held = json.loads((self.folder / INDEX).read_bytes())
        except (OSError, ValueError):
            return {}
        pairs = held.items() if isinstance(held, dict) else ()
        return {k: v for k, v in pairs if NAME.fullmatch(k) and isinstance(v, str)}

    def picture(
        self, name: str, draw: Callable[..., Any], data: Any, says: str, *, title: str, **named: Any
    ) -> Picture:
        """The figure that `draw(data, title=title, **named)` gives, which `says` more; drawn only once."""
        named = {"title": title, **named}
        seen = {"data": _plain(data), "named": _plain(named), "code": _code()}
        digest, stem = digests.digest(seen), self._free(name)
        self.now[stem] = digest
        png, svg, pdf = paths = [self.folder / f"{stem}.{end}" for end in ENDINGS]
        if self.before.get(stem) == digest and all(path.is_file() for path in paths):
            self.kept += 1
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            figure = draw(data, **named)
            files.write_bytes(svg, canvas.svg(figure, stem).encode())
            files.write_bytes(png, canvas.png(figure))
            files.write_bytes(pdf, canvas.pdf(figure))
            self.drawn += 1
        caption = safe_text(says).strip()
        alt = safe_text(f"{title}. {says}".replace("\n", ", "))
        return Picture(stem, alt, caption, png, svg.read_text(encoding="utf-8"))

    def name(self, kind: str, model: str, *what: str) -> str:
        """The name of a figure of that kind: what it shows, and the model where there are several."""
        return "-".join([kind, *([model] if self.several else []), *filter(None, what)])

    def sweep(self) -> None:
        """Remove the figures of earlier reports, and note what is there now."""
        if not self.folder.is_dir():
            return
        gone = [f"{stem}.{end}" for stem in self.before.keys() - self.now.keys() for end in ENDINGS]
        gone += [path.name for path in self.folder.iterdir() if OLDER.fullmatch(path.name)]
        for name in gone:
            if name.rpartition(".")[0] not in self.now:
                (self.folder / name).unlink(missing_ok=True)
        files.write_json(self.folder / INDEX, self.now)

    def _free(self, name: str) -> str:
        """The name as files can have it, with a number where the report has another figure of it."""
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:110] or "figure"
        same = (f"{plain}-{n}" if n > 1 else plain for n in range(1, len(self.now) + 2))
        return next(stem for stem in same if stem not in self.now)


@functools.cache
def _code() -> str:
    """What draws: with another version of our code or of matplotlib, figures are drawn again."""
    ours = [digests.of_file(Path(str(module.__file__))) for module in (canvas, figures, points)]
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
