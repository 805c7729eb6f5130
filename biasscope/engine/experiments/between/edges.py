"""The steps of `patch --method edges`: estimates of every edge, and path patching of some of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from biasscope.engine.errors import UsageError
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.schemas import EDGES, GRAPH, SUMMARY
from biasscope.engine.settings import Direction, Patched
from biasscope.engine.statistics import edges as statistics
from biasscope.engine.statistics import reliability, stability, summary
from biasscope.engine.statistics.edges import Sums
from biasscope.engine.statistics.inference.estimates import Columns
from biasscope.engine.types import EDGE, Edge, Site, Unit

if TYPE_CHECKING:
    from biasscope.engine.model.tokens import Forest

SHOWN = 100
"""Edges in the summary; all of them stand in the table EDGES."""
_RANDOM = 51


@dataclass(frozen=True)
class Asked:
    """How sites or edges are to be patched."""

    source: Patched
    direction: Direction
    positions: tuple[str, ...]
    steps: int | None
    calibrate: int | None

    def forest(self, each: Scan, share: Literal["all", "example"]) -> tuple["Forest", str]:
        """The prompts, with twins where they are the source, and the name of the source that patches them."""
        everywhere = self.positions == ("all",)
        forest = each.forest(share=share, twins=self.source == "corrupt", positions=not everywhere)
        for position in self.positions:
            if not everywhere and not any(prompt.part(position) for prompt in forest.prompts):
                raise UsageError(
                    f"--positions {position} is no token of any prompt of {each.dataset.name}: the term "
                    "ends each; take --positions term"
                )
        if self.direction == "denoising":
            swapped = tuple(block.swapped() for block in forest.blocks)
            return replace(forest, blocks=swapped), "clean"
        return forest, self.source


def patch(each: Scan, asked: Asked) -> None:
    """Measure what is not stored yet of a scan, and save it."""
    if not each.complete:
        _measure(each, asked)
    _save(each, asked)


def _measure(each: Scan, asked: Asked) -> None:
    from biasscope.engine.measure.between import edges, paths
    from biasscope.engine.measure.sources import Sweep, whole

    graph = edges.stream(each.run.lm)
    forest, name = asked.forest(each, "example")
    nodes = sorted({whole(site) for site in graph.ups})
    sweep = Sweep(nodes, each.source(name, forest, nodes), asked.positions, ("target",))
    named = Unit("graph", lambda: {"graph": graph_of(graph.edges)})
    names = each.measure([named], None)
    names += each.measure(edges.units(graph, forest, sweep, asked.steps), f"edges ({name})")
    if asked.calibrate:
        estimates = sizes(each, names, asked.positions)
        numbers = sorted({n for part in drawn(each, estimates, asked.calibrate) for n in part})
        units = paths.units(graph, forest, [graph.edges[n] for n in numbers], sweep, each.batch)
        names += each.measure(units, f"path patching ({name})", prefix="exact-", table="exact")
    each.close(forest.examples, names, forest.dropped, forest.partly)


def graph_of(edges: Sequence[Edge]) -> pl.DataFrame:
    """GRAPH of a model's edges."""
    rows = [
        (number, *(value for site in (e.up, e.down) for value in (site.component, site.layer, site.head)))
        for number, e in enumerate(edges)
    ]
    return pl.DataFrame(rows, schema=GRAPH, orient="row")


def sums_of(each: Scan, names: Sequence[str], position: str) -> Sums:
    """The sums over groups at one position."""
    return Sums.of(list(each.journal.tables("groups", names)), position)


def sums_at(each: Scan, names: Sequence[str], positions: Sequence[str]) -> Sums:
    """The sums over groups at each position, beside each other."""
    first, *others = (sums_of(each, names, position) for position in positions)
    return reduce(Sums.beside, others, first)


def sizes(each: Scan, names: Sequence[str], positions: Sequence[str]) -> np.ndarray:
    """The largest |estimate| of each member over the positions."""
    with each.run.phase("statistics"):
        values = [statistics.estimate(sums_of(each, names, p), each.ungrouped) for p in positions]
        return np.abs(np.stack(values)).max(0)


def drawn(each: Scan, size: np.ndarray, n: int, stream: int = _RANDOM) -> tuple[list[int], list[int]]:
    """The numbers of the n strongest members, and of n random ones of the others."""
    order = np.argsort(-size, kind="stable")
    rng = np.random.default_rng((each.run.options.seed, stream))
    others = np.sort(order[n:])
    return order[:n].tolist(), others[np.sort(rng.permutation(len(others))[:n])].tolist()


def _save(each: Scan, asked: Asked) -> None:
    """Aggregate the edges; write EDGES, and the strongest ones' SUMMARY."""
    names, graph = each.journal.facts["finished"]["units"], each.journal.get("graph", "graph")
    with each.run.phase("statistics"):
        whole = sums_at(each, names, asked.positions)
        source = next(each.journal.tables("groups", names))["source"][0]
        statistic, columns, critical = statistics.judged(whole, each.design, SHOWN)
        label = {"model": each.run.slug, "dataset": each.dataset.name, "subset": "all", "method": "edges"}
        label |= {"metric": "target", "statistic": statistic, "unit": summary.unit("target", statistic)}
        rows = summary.table(_places(graph, asked.positions, source), columns, label, whole.groups)
        every = summary.ranked(rows)
        trusted = repeated(whole, each, every, (columns, critical))
    warn_lost(each, names)
    exact = None
    if asked.calibrate:
        size = sizes(each, names, asked.positions)
        exact, agreement = _exact(each, every, drawn(each, size, asked.calibrate)[1])
        trusted = pl.concat([trusted, agreement])
    each.run.write(each.run.folder(each.dataset.name, each.key), "edges", [_table(every, graph, exact)])
    shown = [every.head(SHOWN), *([] if exact is None else [exact])]
    each.save(pl.concat([total(each, names, every), *shown]), trusted)


def _places(graph: pl.DataFrame, positions: Sequence[str], source: str) -> pl.DataFrame:
    """The site columns of SUMMARY of each edge at each position."""
    same = graph.select("edge", layer="down_layer", component=pl.lit(EDGE), source=pl.lit(source))
    named = same.rename({"edge": "head"})
    return pl.concat(named.with_columns(position=pl.lit(position)) for position in positions)


def repeated(sums: Sums, each: Scan, every: pl.DataFrame, test: tuple[Columns, float]) -> pl.DataFrame:
    """RELIABILITY: how many the family has, what half of the groups repeats, and what groups drawn again.

    `test`: the columns and the critical |t| of `statistics.judged`.
    """
    x = statistics.graded(sums, each.design)
    kept = sums if x is None else sums.rows(np.isfinite(x))
    clusters = statistics.clustered(kept, each.design)
    line = None if x is None else statistics.standard(x[np.isfinite(x)])
    label = {name: every[name][0] for name in ("model", "dataset", "method", "source", "metric", "statistic")}
    label |= {"component": every["component"][0], "heads": False}
    size = stability.Quantity("family_sites", "sites", every.height, float(every.height))
    halves = stability.split(kept.cells(), clusters, line, each.run.options.seed)
    low, middle, high = statistics.again(sums, each.design, *test)
    stable = stability.Quantity("bootstrap_jaccard", "share", stability.BOOTSTRAPS, middle, low, high)
    return reliability.table(stability.labelled(label, [size, *halves, stable]))


def total(each: Scan, names: Sequence[str], every: pl.DataFrame) -> pl.DataFrame:
    """SUMMARY of the whole prompt exchanged for its twin; no rows of another source."""
    tables = list(each.journal.tables("effects", names))
    if not tables:
        return SUMMARY.to_frame()
    rows = summary.summarise(
        pl.concat(tables), model=each.run.slug, method=every["method"][0], design=each.design
    )
    return rows.filter(metric="target", statistic=every["statistic"][0], subset="all")


def _exact(each: Scan, every: pl.DataFrame, others: Sequence[int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """SUMMARY of the edges that were path-patched, untested, and how far the estimates agree with it."""
    effects = each.table("exact")
    with each.run.phase("statistics"):
        exact = summary.summarise(effects, model=each.run.slug, method="exact", design=each.design)
        gone = (pl.lit(None, SUMMARY[name]).alias(name) for name in ("p_family", "q", "carried_by"))
        exact = exact.with_columns(gone)
        sites = [Site(layer, EDGE, n) for layer, n in _numbers(every) if n in set(others)]
        return exact, reliability.calibration(every, exact, sites)


def _numbers(every: pl.DataFrame) -> list[tuple[int, int]]:
    return every.select("layer", "head").unique().rows()


def warn_lost(each: Scan, names: Sequence[str]) -> None:
    """Say how many examples enter no sum."""
    tables = each.journal.tables("groups", names)
    if lost := sum(int(table.unique("position")["lost"].sum()) for table in tables):
        each.warn(f"the scores of {lost} examples are not finite and enter no statistic")


def _table(every: pl.DataFrame, graph: pl.DataFrame, exact: pl.DataFrame | None) -> pl.DataFrame:
    """EDGES, the strongest first."""
    table = every.rename({"head": "edge"}).join(graph, on="edge", how="left", maintain_order="left")
    measured = SUMMARY.to_frame() if exact is None else exact
    same = measured.filter(metric="target", statistic=every["statistic"][0], subset="all").select(
        "position", edge="head", exact="estimate", exact_low="ci_low", exact_high="ci_high"
    )
    whole = table.join(same, on=["edge", "position"], how="left", maintain_order="left")
    return whole.select(EDGES.names()).cast(EDGES)
