"""The steps of `patch --components neuron`: attribution of every neuron, exact effects of some of them.

There are too many for a row per example: as of edges, sums over groups are kept.
"""

from collections.abc import Sequence

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.experiments.between.edges import (
    Asked,
    drawn,
    repeated,
    sizes,
    sums_at,
    total,
    warn_lost,
)
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.schemas import SUMMARY
from biasscope.engine.statistics import edges as statistics
from biasscope.engine.statistics import reliability, summary
from biasscope.engine.types import Site

SHOWN = 100
"""Neurons in the summary, beside those with a star; all of them stand in the table `neurons`."""
_RANDOM = 53


def patch(each: Scan, asked: Asked, layers: Sequence[int] | None) -> None:
    """Measure what is not stored yet of a scan, and save it."""
    if not each.complete:
        _measure(each, asked, layers)
    names = each.journal.facts["finished"]["units"]
    order = [Site(layer, "neuron", n) for layer, width in each.journal.facts["neurons"] for n in range(width)]
    source = next(each.journal.tables("groups", names))["source"][0]
    with each.run.phase("statistics"):
        whole = sums_at(each, names, asked.positions)
        statistic, columns, critical = statistics.judged(whole, each.design, SHOWN)
        label = {"model": each.run.slug, "dataset": each.dataset.name, "subset": "all"}
        label |= {
            "method": "attribution",
            "metric": "target",
            "statistic": statistic,
            "unit": summary.unit("target", statistic),
        }
        places = pl.concat(_places(order, position, source) for position in asked.positions)
        every = summary.ranked(summary.table(places, columns, label, whole.groups))
        trusted = repeated(whole, each, every, (columns, critical))
    warn_lost(each, names)
    rest = every.slice(SHOWN).filter(schemas.starred())
    shown = [total(each, names, every), every.head(SHOWN), rest]
    if asked.calibrate:
        exact, agreement = _exact(each, every, asked)
        shown.append(exact)
        trusted = pl.concat([trusted, agreement])
    each.run.write(each.run.folder(each.dataset.name, each.key), "neurons", [every])
    each.save(pl.concat(shown), trusted)


def _places(order: Sequence[Site], position: str, source: str) -> pl.DataFrame:
    kinds = {"layer": pl.Int32, "head": pl.Int32}
    columns = {"layer": [s.layer for s in order], "head": [s.head for s in order]}
    table = pl.DataFrame(columns, schema_overrides=kinds)
    same = {"component": "neuron", "source": source, "position": position}
    return table.with_columns(pl.lit(value).alias(name) for name, value in same.items())


def _measure(each: Scan, asked: Asked, layers: Sequence[int] | None) -> None:
    from biasscope.engine.measure import attribution, exact
    from biasscope.engine.measure.between import attention
    from biasscope.engine.measure.sources import Sweep, sites

    lm = each.run.lm
    attention.check(lm, ["neuron"])
    forest, name = asked.forest(each, "example")
    points = sorted({Site(site.layer, "neuron") for site in sites(lm, ["neuron"], layers)})
    sweep = Sweep(points, each.source(name, forest, points), asked.positions, ("target",))
    names = each.measure(attribution.group_units(lm, forest, sweep, asked.steps), f"attribution ({name})")
    each.journal.set("neurons", [[point.layer, lm.d_mlp] for point in points])
    if asked.calibrate:
        size = sizes(each, names, asked.positions)
        chosen = [n for part in drawn(each, size, asked.calibrate, _RANDOM) for n in part]
        some = sorted(Site(points[n // lm.d_mlp].layer, "neuron", n % lm.d_mlp) for n in chosen)
        measured = Sweep(some, sweep.source, asked.positions, ("target",))
        units = exact.units(lm, forest, measured, each.batch)
        names += each.measure(units, f"exact ({name})", prefix="exact-", table="exact")
    each.close(forest.examples, names, forest.dropped, forest.partly)


def _exact(each: Scan, every: pl.DataFrame, asked: Asked) -> tuple[pl.DataFrame, pl.DataFrame]:
    """SUMMARY of the neurons that were replaced, untested, and how far the estimates agree with it."""
    effects = each.table("exact")
    with each.run.phase("statistics"):
        rows = summary.summarise(effects, model=each.run.slug, method="exact", design=each.design)
        gone = (pl.lit(None, SUMMARY[name]).alias(name) for name in ("p_family", "q", "carried_by"))
        exact = rows.filter(pl.col("component") == "neuron").with_columns(gone)
        strongest = every.unique(["layer", "head"], maintain_order=True).head(asked.calibrate or 0)
        first = set(strongest.select("layer", "head").rows())
        measured = exact.select("layer", "head").unique().rows()
        others = [Site(layer, "neuron", n) for layer, n in measured if (layer, n) not in first]
        return exact, reliability.calibration(every, exact, others)
