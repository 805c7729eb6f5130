"""Faithfulness of sets of sites as a table that people read at 80 columns: one row a size. Text only."""

import polars as pl

from biasscope.engine import stats
from biasscope.engine.types import MEMBER, Site
from biasscope.probe_table import share
from biasscope.tables import NONE, Table

NAMED = 20
"""Sites of a set that are named; the rest is in the file."""


def sets(summary: pl.DataFrame, dataset: str, file: str) -> Table:
    """f of the strongest sites kept alone and removed, random sets of the same size beside each, and the areas."""
    named, numbers = summary.filter(pl.col("statistic") == MEMBER), summary.filter(pl.col("statistic") != MEMBER)
    cells = {(row["method"], row["subset"], row["statistic"]): row for row in numbers.iter_rows(named=True)}
    sizes = [int(subset.split()[1]) for method, subset, _ in cells if method == "keep" and subset.startswith("top ")]

    def one(mode: str, subset: str) -> str:
        return share(cells.get((mode, subset, "faithfulness")))

    def band(mode: str, k: int) -> str:
        row = cells[mode, f"random {k}", "faithfulness"]
        return NONE if row["ci_low"] is None else share(row)[share(row).index("[") :]

    body = []
    for k in sizes:
        both = [cell for mode in ("keep", "remove") for cell in (one(mode, f"top {k}"), band(mode, k))]
        body.append([str(k), *both])
    small = [subset for _, subset, _ in cells if subset.startswith("minimal ")]
    last = [[subset.split()[1] + "*", one("keep", subset), "", "", ""] for subset in small]
    areas = []
    for mode, name in (("keep", "area"), ("keep", "area_abs"), ("remove", "area"), ("remove", "area_abs")):
        areas.append(f"{name} {mode}: {share(cells.get((mode, 'all sizes', name)))}")
    first = cells["keep", f"top {sizes[0]}", "faithfulness"]
    title = f"{dataset}: sets of heads and MLPs, source {first['source']}, {first['n']} examples, {first['clusters']} groups"
    notes = [
        "groups: those that did not choose the sites; random: 5–95 % of 20 sets of that size",
        "f: 1 as the whole model, 0 as with every head and MLP replaced; – where these two may be equal",
        *[f"strongest first: {_sites(rows)}" for rows in [named.filter(pl.col("subset").str.starts_with("top "))] if rows.height],
        *[f"* the minimal set, chosen on the other half: {_sites(named.filter(subset=subset))}" for subset in small],
        *areas,
        f"more in {file}",
    ]
    note = stats.few_clusters_note(first["clusters"], "term" if dataset.startswith("stereoset") else "group")
    notes += [note] if note else []
    return Table(title, ["k", "kept: f [95 %]", "random", "removed: f [95 %]", "random"], [body, last] if last else [body], notes)


def _sites(rows: pl.DataFrame) -> str:
    """The names of a set's sites, as many as fit."""
    names = [str(Site(*row)) for row in rows.select("layer", "component", "head").iter_rows()]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
