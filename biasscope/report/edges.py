"""What lies between sites, as tables that people read at 80 columns: edges, and what removed sites hid."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, TOTAL
from biasscope.engine.statistics.cells import sites_of
from biasscope.engine.store.runs import DatasetPart
from biasscope.engine.types import FINAL, SOURCES, Edge, Site
from biasscope.report import tables
from biasscope.report.numbers import rest
from biasscope.report.page.gather import Part, ReportRun
from biasscope.report.tables import Table

if TYPE_CHECKING:
    from biasscope.report.page.blocks import Block
    from biasscope.report.page.gallery import Gallery, Picture

EDGE = (
    "edge: what an input reads of a head, an MLP or the embedding, directly; estimated by gradients; "
    "L1KV2.v: the values that key-value head 2 of layer 1 reads"
)
SHOWN = 25
"""Rows of the table; the rest is in the file."""
DRAWN = 30
"""Edges of the figure."""
BEHIND = 12
"""Rows of the table of a conditional scan."""


def ends(row: Mapping[str, Any]) -> Edge:
    """The edge of a row of EDGES."""
    up, down = (Site(*(row[f"{end}_{n}"] for n in ("layer", "component", "head"))) for end in ("up", "down"))
    return Edge(up, down)


def named(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of SUMMARY about sites, or of EDGES, as people read them: the site or edge by its name, its marks,
    and what differs between rows.
    """
    what, of = ("edge", ends) if "edge" in rows.columns else ("site", None)
    names = sites_of(rows) if of is None else map(of, rows.iter_rows(named=True))
    marks = [schemas.mark(row) for row in rows.iter_rows(named=True)]
    differ = [n for n in ("dataset", "method", "source", "position") if n in rows.columns]
    shown: list[str] = [name for name in differ if rows[name].n_unique() > 1]
    shown += ["statistic", "unit", "n", "clusters", "estimate", "ci_low", "ci_high", "p_family", "carried_by"]
    shown += [name for name in ("recovered", "specificity", "exact") if name in rows.columns]
    first = pl.DataFrame({what: list(map(str, names)), "mark": marks}, {what: pl.String, "mark": pl.String})
    return pl.concat([first, rows.select(shown)], how="horizontal")


def strongest(summary: pl.DataFrame, edges: pl.DataFrame, part: DatasetPart) -> Table:
    """The strongest edges: estimate and interval, and what path patching gave where it was measured."""
    rows = edges.head(SHOWN).to_dicts()
    exact = edges["exact"].is_not_null().any()
    first, slopes = rows[0], rows[0]["statistic"] == "slope"
    total = next(summary.filter(component=TOTAL).iter_rows(named=True), None)
    columns = ["edge", f"{'slope' if slopes else 'effect'} [95 % interval]", "p_family"]
    columns += ["exact [95 % interval]"] if exact else []
    sections = [[_cells(row, exact=bool(exact)) for row in rows]]
    if total is not None:
        cells = ["total", tables.interval(total), tables.probability(total["p_family"])]
        sections.append([[*cells, *([""] if exact else [])]])
    left = [f"… {more} in {part.path}/edges.parquet" for more in rest(edges.height - len(rows), "edges")]
    notes = [*schemas.legend(rows), *left, EDGE]
    notes += ["exact: by path patching, where measured"] if exact else []
    notes += tables.of_summary(summary, part, columns)
    title = f"{part.name}: edges, source {first['source']}, {first['n']} examples, {stars(edges)}"
    return Table(title, columns, sections, notes, ("p_family",))


def stars(edges: pl.DataFrame) -> str:
    """How many of all edges have a star."""
    return f"{edges.filter(schemas.starred()).height} of {edges.height} edges with a star"


def _name(row: Mapping[str, Any]) -> str:
    """An edge, and where on the prompt."""
    return str(ends(row)) + ("" if row["position"] == "all" else f" {row['position']}")


def _cells(row: dict[str, Any], *, exact: bool) -> list[str]:
    measured = {"estimate": row["exact"], "ci_low": row["exact_low"], "ci_high": row["exact_high"]}
    plain = {"p_family": None, "carried_by": None, "caution": None}
    path = NONE if row["exact"] is None else tables.interval(measured | plain)
    return [_name(row), tables.interval(row), tables.probability(row["p_family"]), *([path] if exact else [])]


def hidden(found: pl.DataFrame, rows: pl.DataFrame, part: DatasetPart) -> Table:
    """The sites whose effects change once another is gone, with a star, then most; `rows`: their SUMMARY."""
    known = found.filter(pl.col("estimate").is_not_null())
    shown = known.sort("star", pl.col("estimate").abs(), descending=True).head(BEHIND).to_dicts()
    slopes = rows["statistic"][0] == "slope"
    cells = [_change(row) for row in shown]
    new = found.filter("star", ~pl.col("alone_star").fill_null(value=False)).height
    gone = found.select("gone_layer", "gone_component", "gone_head").n_unique()
    change = f"change of {'slope' if slopes else 'effect'} [95 %]"
    columns = ["site", "behind", "round", "alone", change, "p_family"]
    last = int(found["round"].to_numpy().max())
    title = f"{part.name}: once others are gone, source {rows['source'][0]}, {gone} sites removed in turn, "
    title += f"{last} round{'' if last == 1 else 's'}"
    notes = [*schemas.legend(shown)]
    notes.append(
        "change: effect with the site behind which it stands zeroed − effect alone; one family, those with a "
        "star first"
    )
    notes.append(f"{new} changes have a star at sites without one alone; in {part.path}/conditional.parquet")
    notes += tables.of_summary(rows, part, columns)
    return Table(title, columns, [cells], notes, ("p_family", "round"))


def _change(row: dict[str, Any]) -> list[str]:
    places = (Site(*(row[f"{end}{n}"] for n in ("layer", "component", "head"))) for end in ("", "gone_"))
    alone = schemas.number(row["alone"]) + (schemas.STAR if row["alone_star"] else " ")
    cells = [*map(str, places), str(row["round"]), alone]
    return [*cells, tables.interval(row), tables.probability(row["p_family"])]


def neurons(rows: pl.DataFrame, part: DatasetPart, file: str, folder: Path) -> Table:
    """The strongest neurons, and how many of all have a star; `rows`: their SUMMARY by one method."""
    table = tables.effects(rows, part, file)
    if rows["method"][0] == "exact":
        return table
    every = pl.read_parquet(folder / "neurons.parquet")
    found = every.filter(schemas.starred())
    shown = [
        f"{site} {schemas.number(row)}" for site, row in zip(sites_of(found), found["estimate"], strict=True)
    ]
    named = f": {', '.join(shown[:SHOWN])}" if shown else ""
    note = f"{found.height} of {every.height} neurons with a star{named}; all in {part.path}/neurons.parquet"
    return replace(table, notes=[*table.notes, note])


def lines(edges: pl.DataFrame) -> pl.DataFrame:
    """The strongest edges as the figure takes them: name and place of their ends."""
    rows = edges.filter(position=edges["position"][0]).head(DRAWN).to_dicts()
    pairs = [tuple(_node(site) for site in (ends(row).up, ends(row).down)) for row in rows]
    places = _places({node for pair in pairs for node in pair})
    drawn = []
    for row, pair in zip(rows, pairs, strict=True):
        named = {"estimate": row["estimate"], "exact": row["exact"]}
        for end, node in zip(("up", "down"), pair, strict=True):
            named |= {end: node[1], f"{end}_x": places[node][0], f"{end}_y": places[node][1]}
        drawn.append(named)
    return pl.DataFrame(drawn, schema_overrides={"estimate": pl.Float64, "exact": pl.Float64})


def _node(site: Site) -> tuple[float, str]:
    """Height and name of a node; a query stands for its head."""
    if site.component == "resid_pre":
        return -1.0, "embed"
    head = Site(site.layer, "z", site.head) if site.component == "q" else site
    return _height(site), str(head)


def _places(nodes: Iterable[tuple[float, str]]) -> dict[tuple[float, str], tuple[float, float]]:
    """Where each node stands: a line a height, those of one side by side, a lone one aside in turn."""
    places = {}
    for y, (_, same) in enumerate(itertools.groupby(sorted(nodes), key=lambda node: node[0])):
        line = list(same)
        for i, node in enumerate(line):
            places[node] = (4 * (i + 0.5) / len(line) if len(line) > 1 else 1.0 + y % 3, float(y))
    return places


def _height(site: Site) -> float:
    """The layer, half a layer more for MLPs, which stand above the heads."""
    above = {"mlp_in": 0.5, "mlp_out": 0.5, FINAL: 1.0}
    return site.layer + above.get(site.component, 0.0)


def sentence(run: ReportRun, edges: pl.DataFrame) -> str:
    """How many edges have a star, the strongest of them, and how estimates and path patching agree."""
    some = edges.filter(schemas.starred()).head(3).to_dicts()
    named = ", ".join(_name(row) for row in some)
    text = f"Run {run.key}: {stars(edges)}" + (f", the strongest {named}" if some else "")
    if run.reliability is not None:
        rows = run.reliability.filter(quantity="calibration_spearman")
        again = run.reliability.filter(pl.col("estimate").is_not_null(), quantity="bootstrap_jaccard")
        if again.height:
            row = again.row(0, named=True)
            text += f"; with groups drawn again {100 * row['estimate']:.0f} % of the starred set is the same"
        rows = rows.filter(pl.col("estimate").is_not_null())  # of one drawn edge there is no ρ
        if rows.height:
            text += f"; of {rows['n'][0]} random ones path patching agrees with ρ = {rows['estimate'][0]:.2f}"
    return text + "."


def section(parts: Sequence[Part], gallery: "Gallery") -> "Iterator[Block]":
    """The strongest edges as a graph, what sites do once others are gone, what is inside heads."""
    from biasscope.report.page.blocks import Block, pictures

    for part in parts:
        drawn, shown = list["Picture"](), list[Table]()
        for run in part.between:
            if "edges" in run.data.tables:
                edges = pl.read_parquet(run.folder / "edges.parquet")
                drawn.append(_picture(run, edges, part, gallery))
                table = strongest(run.summary, edges, run.placed)
                found = [replace(table, title=table.title + _steps(run))]
            elif "conditional" in run.data.tables:
                changes = pl.read_parquet(run.folder / "conditional.parquet")
                rows = run.summary.filter(method="conditional")
                found = [hidden(changes, rows, run.placed)] if rows.height else []
            else:
                same = run.summary.partition_by("method", "source", maintain_order=True)
                found = [_inside(run, rows) for rows in same]
            of = f"{run.record.given} (run {run.key})"
            shown += [replace(each, title=f"{part.model}, {each.title}{of}") for each in found]
        yield from pictures(drawn)
        yield from (Block("table", table=each) for each in shown)


def _inside(run: ReportRun, rows: pl.DataFrame) -> Table:
    """Effects inside heads or MLPs by one method."""
    if "neurons" in run.data.tables:
        table = neurons(rows, run.placed, run.file, run.folder)
    else:
        table = tables.effects(rows, run.data, run.file)
    return replace(table, title=table.title + _steps(run, rows["method"][0]))


def _steps(run: ReportRun, method: str = "edges") -> str:
    """Over how many steps the gradients are, where they are over any."""
    steps = run.record.params.get("steps")
    return f", in {steps} steps" if steps and method != "exact" else ""


def _picture(run: ReportRun, edges: pl.DataFrame, part: Part, gallery: "Gallery") -> "Picture":
    """The graph of the strongest edges at the run's first position."""
    from biasscope.report.drawing import figures

    source, position = SOURCES[edges["source"][0]].noun, edges["position"][0]
    where = "" if position == "all" else f", {position}"
    title = f"Strongest edges: {part.model}{_steps(run)}{run.record.given}\n{part.data.name}, {source}{where}"
    name = gallery.name("edges", part.model, part.data.name, edges["source"][0])
    says = f"Dashed: only estimated. {sentence(run, edges)}"
    return gallery.picture(name, figures.graph, lines(edges), says, title=title)
