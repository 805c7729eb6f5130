"""The steps of `circuit` over edges: ranked anew on half of the groups, sets measured on the other.

What a circuit of either kind sums up to stands here too.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from biasscope.engine.errors import DataError
from biasscope.engine.experiments.between.edges import graph_of
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.statistics import circuits as faithfulness
from biasscope.engine.statistics import edges as statistics
from biasscope.engine.statistics.edges import Sums
from biasscope.engine.types import EDGE, Site, Unit

if TYPE_CHECKING:
    from biasscope.engine.model.stream import Stream

SIZES = "10,30,100,300,1000,3000"
"""How many edges are kept, or removed, unless --sizes says."""


@dataclass(frozen=True)
class Halves:
    """A run over edges, split by groups: who chooses, who reports, and how both are patched."""

    choosing: Scan
    reporting: Scan
    source: str
    steps: int | None
    chosen: Sequence[int] | None = None
    """The edges that a file gives, strongest first, which then nobody chooses here."""

    @property
    def twins(self) -> bool:
        """Whether the prompts have twins."""
        return self.source == "corrupt"


def measure(
    scan: Scan, halves: Halves, sizes: Sequence[int], refuse: Callable[[Sequence[str], int], None]
) -> None:
    """Measure what is not stored yet; `refuse` raises where all edges together do nothing."""
    from biasscope.engine.measure.between import edges, graphs
    from biasscope.engine.measure.sources import whole

    reporting, lm = halves.reporting, scan.run.lm
    graph = edges.stream(lm)
    sizes = [k for k in sizes if k < len(graph.edges)]
    if not sizes:
        raise DataError(f"--sizes: {lm.name} has {len(graph.edges)} edges; give a smaller size")
    forest = reporting.forest(twins=halves.twins)
    source = reporting.source(halves.source, forest, sorted({whole(site) for site in graph.ups}))

    def measured(sets: Sequence[graphs.Edges], label: str, prefix: str = "") -> list[str]:
        units = graphs.units(graph, forest, sets, source, scan.batch)
        return reporting.measure(units, label, prefix=prefix)

    names = measured([graphs.none(graph)], "whole and none", "none-")
    refuse(names, len(graph.edges))
    ranked = _ranked(halves, graph) if halves.chosen is None else list(halves.chosen)
    members = [[graph.edges[n].down.layer, EDGE, n] for n in ranked[: max(sizes)]]
    plan = {"sites": len(graph.edges), "sizes": sizes, "ranked": members}
    scan.journal.set("circuit", plan)
    named = Unit("graph", lambda: {"graph": graph_of(graph.edges)})
    names += scan.measure([named], None)
    names += measured(graphs.points(ranked, sizes, scan.run.options.seed), "sets of edges")
    outside = len(scan.dataset.examples) - len(reporting.dataset.examples)
    dropped = forest.dropped + Counter({"its group chose the edges": outside})
    scan.close(forest.examples, names, dropped, forest.partly)


def _ranked(halves: Halves, graph: "Stream") -> list[int]:
    """All edges by |ranking statistic| on the half that chooses, estimated there as the run was."""
    from biasscope.engine.measure.between import edges
    from biasscope.engine.measure.sources import Sweep, whole

    here, nodes = halves.choosing, sorted({whole(site) for site in graph.ups})
    forest = here.forest(share="example", twins=halves.twins)
    sweep = Sweep(nodes, here.source(halves.source, forest, nodes), metrics=("target",))
    names = here.measure(edges.units(graph, forest, sweep, halves.steps), "ranking", prefix="rank-")
    with here.run.phase("statistics"):
        sums = Sums.of(list(here.journal.tables("groups", names)), "all")
        size = np.abs(statistics.estimate(sums, here.ungrouped))
    return [int(n) for n in np.argsort(-size, kind="stable")]


def written(sites: Sequence[Site]) -> list[list[Any]]:
    """The sites as the journal keeps them: Site(*row) gives one back."""
    return [[site.layer, site.component, site.head] for site in sites]


def summary(scan: Scan) -> pl.DataFrame:
    """SUMMARY of the sets: f, areas, random sets, the minimal one; which sites that and the largest hold."""
    effects, facts = scan.table("effects").collect(), scan.journal.facts
    design, plan = scan.design, facts["circuit"]
    with scan.run.phase("statistics"):
        sets = faithfulness.of_sets(effects, model=scan.run.slug, design=design)
        areas = faithfulness.areas(effects, plan["sites"], plan["sizes"], design)
        tables = [faithfulness.curve(sets, plan["sizes"], areas)]
        named = {"top": [Site(*row) for row in plan["ranked"]]}
        if plan["ranked"][0][1] == EDGE:
            graph = scan.journal.get("graph", "graph")
            graph = graph.filter(pl.col("edge").is_in([row[2] for row in plan["ranked"]]))
            scan.run.write(scan.run.folder(scan.dataset.name, scan.key), "graph", [graph])
        if small := facts.get("minimal"):
            named["minimal"] = [Site(*row) for row in small]
            tables.append(faithfulness.minimal(sets, len(small)))
    return pl.concat([*tables, *(faithfulness.members(sets, *pair) for pair in named.items())])


def refusing(scan: Scan, source: str) -> Callable[[Sequence[str], int], None]:
    """What raises DataError where m(all) − m(none) may be 0, so that there is nothing to share out."""

    def refuse(names: Sequence[str], edges: int) -> None:
        effects = pl.concat(scan.journal.tables("effects", names))
        row = faithfulness.denominator(effects, model=scan.run.slug, design=scan.design)
        if row["ci_low"] is None or row["ci_low"] * row["ci_high"] <= 0:
            raise DataError(
                f"{scan.dataset.name}: replacing all {edges} edges (source {source}) changes the "
                f"{row['statistic']} of target by an amount that may be 0: there is nothing to share out; "
                "take more examples or another dataset"
            )

    return refuse
