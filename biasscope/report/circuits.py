"""Faithfulness of sets of sites as a table (one row a size), as a sentence and as a section of a report."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine.statistics.circuits import sized
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.store.runs import DatasetPart
from biasscope.engine.types import MEMBER, SOURCES, Site
from biasscope.report.edges import ends as ends_of
from biasscope.report.numbers import ends, span
from biasscope.report.page.gather import Part, ReportRun
from biasscope.report.tables import Table
from biasscope.report.words import interval

if TYPE_CHECKING:
    from biasscope.report.page.blocks import Block
    from biasscope.report.page.gallery import Gallery

NAMED = 20
"""Sites of a set that are named; the rest is in the file."""


def elsewhere(params: Mapping[str, Any]) -> bool:
    """Whether a file of edges was evaluated, whose groups chose none of them."""
    return str(params.get("from")).endswith(".json")


def sets(summary: pl.DataFrame, part: DatasetPart, params: Mapping[str, Any], folder: Path) -> Table:
    """f of the strongest sites kept alone and removed, random sets of their size beside, and the areas.

    `params`: of the run, which lies in the folder.
    """
    f = {(row["method"], row["kind"], row["k"]): row for row in sized(summary).iter_rows(named=True)}
    sizes = [k for mode, kind, k in f if (mode, kind) == ("keep", "top")]
    small = [k for mode, kind, k in f if (mode, kind) == ("keep", "minimal")]
    members, first = summary.filter(pl.col("statistic") == MEMBER), f["keep", "top", sizes[0]]

    def sites(kind: str, k: int) -> pl.DataFrame:
        return members.filter(subset=f["keep", kind, k]["subset"])

    body = []
    for k in sizes:
        both = ((f[mode, "top", k], f[mode, "random", k]) for mode in ("keep", "remove"))
        body.append([str(k), *(cell for own, random in both for cell in (span(own), ends(random)))])
    last = [[f"{k}*", span(f["keep", "minimal", k]), "", "", ""] for k in small]
    areas = []
    for mode, name in itertools.product(("keep", "remove"), ("area", "area_abs")):
        rows = summary.filter(method=mode, statistic=name)
        areas.append(f"{name} {mode}: {span(next(rows.iter_rows(named=True), None))}")
    extent = f"{first['n']} examples, {first['clusters']} groups"
    edges = graph(folder)
    what = "heads and MLPs" if edges is None else "edges"
    title = f"{part.name}: sets of {what}, source {first['source']}, {extent}"
    drawn = max((row["n"] for row in f.values() if row["kind"] == "random"), default=0)
    chosen = "groups: those that did not choose the sites"
    if elsewhere(params):
        chosen = f"edges: those of {params['from']}, chosen elsewhere; groups: all"
    notes = [
        f"{chosen}; random: 5–95 % of {drawn} sets of that size",
        f"f: 1 as the whole model, 0 as with all {what} replaced; – where these two may be equal",
        *[f"strongest first: {_sites(rows, edges)}" for rows in [sites("top", max(sizes))] if rows.height],
        *[f"* the minimal set, chosen on the other half: {_sites(sites('minimal', k))}" for k in small],
        *areas,
        f"more in {part.path}/summary.parquet",
    ]
    note = resampling.few_clusters_note(first["clusters"], part.noun)
    notes += [note] if note else []
    columns = ["k", "kept: f [95 %]", "random", "removed: f [95 %]", "random"]
    return Table(title, columns, [body, last] if last else [body], notes)


def graph(folder: Path) -> pl.DataFrame | None:
    """GRAPH of the edges of the circuit in this folder; None: it is of heads and MLPs."""
    beside = folder / "graph.parquet"
    return pl.read_parquet(beside) if beside.is_file() else None


def _sites(rows: pl.DataFrame, edges: pl.DataFrame | None = None) -> str:
    """The names of a set's sites or edges, as many as fit."""
    known = {} if edges is None else {row["edge"]: ends_of(row) for row in edges.iter_rows(named=True)}
    sites = rows.select("layer", "component", "head").iter_rows()
    names = [str(known.get(row[2]) or Site(*row)) for row in sites]
    return resampling.listed(names, NAMED)


def kind(circuit: ReportRun) -> str:
    """What its sets are of."""
    return "sites" if graph(circuit.folder) is None else "edges"


def sentence(circuit: ReportRun) -> str:
    """What keeping the strongest sites alone keeps, against random sets."""
    rows = list(sized(circuit.summary).filter(method="keep").iter_rows(named=True))
    tops = [row for row in rows if row["kind"] == "top" and row["estimate"] is not None]
    source = circuit.summary["source"].drop_nulls().to_list()[0]
    what = kind(circuit)
    start = f"Run {circuit.key}{circuit.record.given}, sets of {what} ({SOURCES[source].noun})"
    if not tops:
        return f"{start}: f is not given, because the whole model and none of it may not differ."
    last, end = tops[-1], ""
    params = circuit.record.params
    given = elsewhere(params)
    of, among = (f" of {params['from']}", "") if given else ("", " in groups that did not choose them")
    many = f"the {last['k']} strongest{of} keep" if last["k"] > 1 else f"the strongest{of} keeps"
    kept = f"{many} f = {interval(last)}{among}"
    beats = _beats(tops, {row["k"]: row for row in rows if row["kind"] == "random"}, what)
    for row in [row for row in rows if row["kind"] == "minimal"][:1]:
        confirmed = row["ci_low"] is not None and row["ci_low"] > 0
        doubt = "" if confirmed else ", which does not confirm it"
        end = f" The minimal set of {row['k']} keeps {interval(row)} there{doubt}."
    return f"{start}: {kept}; {beats}.{end}"


def _beats(tops: Sequence[Mapping[str, Any]], random: Mapping[int, Mapping[str, Any]], kind: str) -> str:
    """At which sizes the interval of f lies above the band of random sets of that size."""
    known = [row for row in tops if row["ci_low"] is not None and random[row["k"]]["ci_high"] is not None]
    better = [row["k"] for row in known if row["ci_low"] > random[row["k"]]["ci_high"]]
    if not known:
        return "without intervals they are not compared with random sets"
    if not better:
        return "no size is shown to keep more than random sets"
    onwards = better == [row["k"] for row in tops if row["k"] >= better[0]]
    named = kind.removesuffix("s") if better == [1] or (onwards and better[0] == 1) else kind
    sizes = f"from {better[0]} {named} on" if onwards else f"at {', '.join(map(str, better))} {named}"
    return f"more than random sets {sizes}"


def section(parts: Sequence[Part], gallery: "Gallery") -> "Iterator[Block]":
    """Faithfulness of the strongest sites beside random sets."""
    from biasscope.report.drawing import figures
    from biasscope.report.page.blocks import Block, paragraph, pictures

    for part in parts:
        drawn, tables = [], []
        for run in part.circuits:
            table = sets(run.summary, run.placed, run.record.params, run.folder)
            tables.append(replace(table, title=f"{part.model}, {table.title}{run.record.given}"))
            if run.summary.filter(statistic="faithfulness")["estimate"].is_not_null().any():
                source = run.summary["source"].drop_nulls().to_list()[0]
                title = f"Sets of {kind(run)}: {part.model}{run.record.given}\n"
                title += f"{part.data.name}, {SOURCES[source].noun}"
                own = "" if graph(run.folder) is None else kind(run)
                name = gallery.name("sets", part.model, part.data.name, own, source)
                drawn.append(
                    gallery.picture(name, figures.faithfulness, run.summary, sentence(run), title=title)
                )
            else:
                yield paragraph(sentence(run))
        yield from pictures(drawn)
        yield from (Block("table", table=table) for table in tables)
