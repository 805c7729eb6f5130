"""What the page's script shows of single heads: numbers, groups, prompts and attention, as JSON. Capped."""

import base64
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.statistics.baseline import COVARIATE
from biasscope.engine.statistics.cells import VALUE
from biasscope.engine.types import SOURCES, Site
from biasscope.report.page import details
from biasscope.report.page.blocks import clean_text
from biasscope.report.page.details import PLACE, Values, rounded
from biasscope.report.page.gallery import Picture
from biasscope.report.page.gather import Gathered, Map, Part, ReportRun
from biasscope.report.tables import grows, on

LARGEST = 900_000
"""Bytes of all that is embedded for one model; with its figures a page then stays below 3 MB."""
DETAILED = (60, 25, 10, 3, 0)
"""Sites of a map whose groups and prompts are embedded: the first number that fits."""
BESIDE = ((("target", "mean"), "shift"), (("competence", "rms"), "competence"), (("kl", "mean"), "kl"))
"""Statistics that a map can be coloured by beside the one that ranks: metric and statistic, and its name."""
COVARIATES = (COVARIATE, "share_of_men")
"""Metrics under which a baseline holds the covariate of each group; the second: of older versions."""


@dataclass(frozen=True)
class Embedded:
    """The data of a page's script, and what they leave out."""

    maps: dict[str, dict[str, Any]]
    dots: dict[str, dict[str, Any]]
    left: list[str] = field(default_factory=list)
    """Sentences for the page."""

    @property
    def json(self) -> str:
        """The data as JSON that no HTML around it can be ended by."""
        text = json.dumps({"maps": self.maps, "dots": self.dots}, separators=(",", ":"), allow_nan=False)
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def name(site_map: Map) -> str:
    """What a map is called in the page's data, and in links to it."""
    return f"{site_map.run.key}-{site_map.source}"


def embedded(gathered: Gathered, pictures: Sequence[Picture]) -> Embedded:
    """The views of all maps of a report, and of the scatters among its pictures: as many details as fit."""
    pairs = [(part, m) for part in gathered.parts for m in part.shown if m.sites("z").height]
    dots = dict(each for part in gathered.parts for each in _dots(part, pictures))
    limit = LARGEST * max(1, len({part.model for part in gathered.parts}))
    for detailed in DETAILED:
        found = Embedded({name(m): view(part, m, detailed) for part, m in pairs}, dots)
        if len(found.json) <= limit:
            break
    while len(found.json) > limit and found.maps:
        found.maps.popitem()
    return Embedded(found.maps, dots, [*_left_out(pairs, found.maps)])


def _left_out(pairs: Sequence[tuple[Part, Map]], maps: Mapping[str, Any]) -> Iterator[str]:
    for part, site_map in pairs:
        what, shown = f"{part.name}, {site_map.name} (run {site_map.run.key})", maps.get(name(site_map))
        if shown is None:
            yield f"{what}: too large to be embedded, only the figure is shown."
            continue
        if (of := len(shown["sites"])) > (kept := len(shown["details"])):
            yield f"{what}: groups and prompts of the {kept} strongest of {of} sites are embedded."
        if shown["unread"]:
            yield f"{what}: {shown['unread']}."


def view(part: Part, site_map: Map, detailed: int) -> dict[str, Any]:
    """One map: its sites with their statistics, and of the strongest `detailed` their groups and prompts."""
    rows = site_map.rows.filter(schemas.heads_and_mlps(), subset="all")
    first = site_map.ranked.row(0, named=True)["metric"], site_map.statistic
    twin = SOURCES[site_map.source].twin or site_map.statistic != "slope"
    wanted = [(first, "slope" if site_map.statistic == "slope" else "effect")]
    wanted += [(key, called) for key, called in BESIDE if not (called == "shift" and twin)]
    tables = [(called, rows.filter(metric=key[0], statistic=key[1])) for key, called in wanted]
    tables = [(called, table) for called, table in tables if table["estimate"].is_not_null().any()]
    data = site_map.run.data
    facts = {"title": clean_text(site_map.name), "run": site_map.run.key, "model": clean_text(part.model)}
    facts |= {"data": clean_text(data.name), "noun": data.noun}
    facts["grows"] = clean_text(grows(data, "slope"))
    statistics = [{"name": called, "unit": table["unit"][0]} for called, table in tables]
    chosen = _strongest(site_map, detailed)
    known, texts, unread = details.details(site_map, chosen)
    return {
        **facts,
        "sides": list(map(clean_text, data.sides)),
        "statistics": statistics,
        "sites": _sites([table for _, table in tables], site_map),
        "groups": _groups(part, known),
        "details": {str(site): detail for site, detail in known.items()},
        "prompts": texts,
        "unread": unread,
    }


def _sites(tables: Sequence[pl.DataFrame], site_map: Map) -> list[Values]:
    """Per site: layer, head (null: the MLP), each statistic's numbers, recovered, specificity."""
    more = {tuple(row[n] for n in PLACE): row for row in site_map.ranked.iter_rows(named=True)}
    each = [{tuple(row[n] for n in PLACE): row for row in t.iter_rows(named=True)} for t in tables]
    sites = []
    for key in sorted(each[0] if each else {}, key=lambda k: (k[1], k[2] is None, k[2])):
        row = more.get(key, {})
        numbers = [_numbers(of[key]) if key in of else None for of in each]
        sites.append(
            [key[1], key[2], numbers, rounded(row.get("recovered")), rounded(row.get("specificity"))]
        )
    return sites


def _numbers(row: Mapping[str, Any]) -> Values:
    """Estimate, ends, p, p_family, n, clusters and marks of a SUMMARY row."""
    floats = [rounded(row[column]) for column in ("estimate", "ci_low", "ci_high", "p", "p_family")]
    return [*floats, row["n"], row["clusters"], schemas.mark(row)]


def _strongest(site_map: Map, n: int) -> pl.DataFrame:
    rows = site_map.ranked.filter(schemas.heads_and_mlps(), pl.col("estimate").is_not_null())
    return rows.sort(pl.col("estimate").abs(), descending=True, maintain_order=True).head(n).select(PLACE)


def _groups(part: Part, known: Mapping[Site, Any]) -> dict[str, Any]:
    """What groups are laid out by: the covariate of each that is shown, where the data have one."""
    shown = {group for detail in known.values() for group in detail["effects"]}
    rows = _subsets(part.baseline, COVARIATES).select("group", "estimate").rows() if part.baseline else []
    values = {clean_text(group): value for group, value in rows}
    unit = part.data.covariate[1] if part.data.covariate else ""
    return {
        "axis": f"{on(part.data)}{', ' if unit else ''}{unit}",
        "at": {group: rounded(values[group], 4) for group in sorted(shown & values.keys())},
    }


def _subsets(run: ReportRun, metrics: Sequence[str]) -> pl.DataFrame:
    """The rows of a baseline's single groups, by the group's name."""
    rows = run.summary.filter(
        pl.col("metric").is_in(list(metrics)), pl.col("subset").str.contains(": "), statistic="mean"
    )
    return rows.with_columns(group=VALUE)


def _dots(part: Part, pictures: Sequence[Picture]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The scatters of a part, by what they are called: each dot: group, x, y, n, interval of y."""
    name, unit = part.data.covariate or ("covariate", "")
    about = {"x": clean_text(name), "unit": clean_text(unit), "sides": list(map(clean_text, part.data.sides))}
    for picture in pictures:
        if picture.points is not None and part.baseline and picture.view.startswith(part.baseline.key):
            rows = picture.points.select("group", "x", "y", "n", "ci_low", "ci_high").rows()
            points = [[clean_text(row[0]), *(rounded(value) for value in row[1:])] for row in rows]
            yield picture.view, {**about, "points": points}


@functools.cache
def script() -> tuple[str, str]:
    """The page's script, and what its content security policy calls it."""
    text = resources.files("biasscope.report.page").joinpath("assets", "page.js").read_text(encoding="utf-8")
    return text, f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
