"""What is made of a measured scan: its aggregates, its prompts, and where its first heads look."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from biasscope.engine import schemas
from biasscope.engine.experiments.scans.scan import Aggregates, Scan
from biasscope.engine.schemas import PROMPTS, RELIABILITY
from biasscope.engine.statistics import baseline, reliability, summary
from biasscope.engine.types import UNEDITED, Edit, Example, Site

if TYPE_CHECKING:
    from biasscope.engine.measure.patterns import Wanted

FIRST = 10
"""Heads of a ranking that are looked at, besides all with a star."""
EVERY, MOVED, DRAWN = 500, 50, 400
"""Up to EVERY prompts all are kept; of more, for each head the MOVED that it moves most each way, and DRAWN
ones that are drawn.
"""
_DRAW = 7


def _beside(scan: Scan, measured: pl.LazyFrame) -> pl.LazyFrame | None:
    """EFFECTS of the estimated sites that were not measured; None where nothing chose among them."""
    if "estimates" not in scan.journal.facts:
        return None
    estimates = pl.concat(scan.journal.tables("effects", scan.journal.facts["estimates"]))
    keys = ["source", "component", "layer", "head"]
    own = measured.select(keys).unique()
    return estimates.lazy().filter(metric="target").join(own, on=keys, how="anti", nulls_equal=True)


def aggregated(scan: Scan, table: str, method: str) -> Aggregates:
    """The aggregates of a table of effects: SUMMARY and RELIABILITY."""
    effects = scan.table(table)
    beside = _beside(scan, effects)
    rounded = any("floor" in tables for tables in scan.journal.units.values())
    nothing = scan.table("floor") if rounded else None
    same: dict[str, Any] = {"model": scan.run.slug, "method": method, "design": scan.design, "beside": beside}
    with scan.run.phase("statistics"):
        wanted = scan.run.options.assess
        if wanted and (warning := baseline.nothing_to_find(effects, scan.ungrouped)):
            scan.warn(warning)
        noise = RELIABILITY.to_frame()
        if nothing is not None:
            own = {name: same[name] for name in ("model", "method", "design")}
            noise = reliability.noise_floor(nothing.collect(), **own)
        whole = summary.doubted(summary.summarise(effects, **same), reliability.floor(noise))
        if not wanted:
            return whole, noise
        trusted = reliability.assess(effects, whole, design=scan.design, beside=beside)
        return whole, pl.concat([trusted, noise])


def prompts(each: Scan, table: str) -> None:
    """Write PROMPTS: the texts of the examples that a finished table has."""
    file = each.run.folder(each.dataset.name, each.key) / f"{table}.parquet"
    known = set(pl.scan_parquet(file).select(pl.col("example_id").unique()).collect().to_series())
    each.run.write(file.parent, "prompts", [texts([e for e in each.dataset.examples if e.id in known])])


def texts(examples: Sequence[Example]) -> pl.DataFrame:
    """PROMPTS of these examples."""
    names = ("id", *list(PROMPTS)[1:])
    return pl.DataFrame([[getattr(e, name) for name in names] for e in examples], PROMPTS, orient="row")


def patterns(each: Scan, whole: pl.DataFrame, edit: Callable[[], Edit] = lambda: UNEDITED) -> None:
    """Measure what is not stored yet of PATTERNS, and write it; `whole`: SUMMARY of the run's effects.

    `edit`: what stands in the model all the while. A run without heads, and a model whose attention cannot be
    read, go without; the record says so.
    """
    if not each.run.options.assess:
        return
    folder, facts = each.run.folder(each.dataset.name, each.key), each.journal.facts
    if not set(facts.get("patterns", {"units": [""]})["units"]) <= each.journal.units.keys():
        wanted, says = _wanted(each, whole.filter(dataset=each.dataset.name), folder)
        names = _measure(each, wanted, edit) if wanted else []
        if isinstance(names, str):
            says, names = names, []
            each.warn(f"{says}: where its heads look is not kept")
        each.journal.set("patterns", {"units": names, "says": says})
    if names := each.journal.facts["patterns"]["units"]:
        with each.run.phase("tables"):
            each.run.write(folder, "patterns", each.journal.tables("patterns", names))


def _measure(each: Scan, wanted: "Wanted", edit: Callable[[], Edit]) -> list[str] | str:
    """The names of the units with the attention of these heads, or why there is none."""
    from biasscope.engine.measure import patterns as measure
    from biasscope.engine.model import attention, tokens

    lm = each.run.lm
    with each.run.phase("passes"):
        if reason := attention.missing(lm):
            return reason
    ids = set().union(*wanted.values())
    with each.run.phase("tokens"):
        forest = tokens.forest(lm, [e for e in each.dataset.examples if e.id in ids])
    # without a label, so in this process: workers would have to rank the heads anew for one clean pass
    return each.measure(measure.units(lm, forest, wanted, edit()), None, prefix="attention-")


def heads(whole: pl.DataFrame) -> list[Site]:
    """The first heads of each source's ranking and all that have a star, in the model's order."""
    ranked = summary.ranking(whole).filter(pl.col("head").is_not_null(), component="z")
    first = [
        site
        for _, rows in ranked.group_by("source", maintain_order=True)
        for site in summary.top(rows, FIRST)
    ]
    starred = ranked.filter(schemas.starred()).select("layer", "component", "head").rows()
    return sorted({*first, *(Site(*row) for row in starred)})


def _wanted(each: Scan, whole: pl.DataFrame, folder: Path) -> tuple["Wanted", str]:
    """The heads with the examples in which they are looked at, and what that leaves out, in words."""
    kept = heads(whole)
    if not kept:
        return {}, "no head was measured"
    effects = pl.scan_parquet(folder / "effects.parquet").filter(metric="target")
    ids = effects.select(pl.col("example_id").unique(maintain_order=True)).collect().to_series().to_list()
    measured = whole.filter(pl.col("head").is_not_null()).select("layer", "head").n_unique()
    says = f"{len(kept)} of {measured} heads (the first {FIRST} and those with a star)"
    if len(ids) <= EVERY:
        return {head: set(ids) for head in kept}, f"{says}, all {len(ids)} prompts"
    rng = np.random.default_rng((each.run.options.seed, _DRAW))
    drawn = {ids[i] for i in rng.permutation(len(ids))[:DRAWN]}
    says += f"; of {len(ids)} prompts the {MOVED} that each moves most each way and {DRAWN} drawn ones"
    return {head: drawn | _moved(effects, head) for head in kept}, says


def _moved(effects: pl.LazyFrame, head: Site) -> set[str]:
    """The examples that a head moves most each way."""
    own = effects.filter(pl.col("effect").is_finite(), layer=head.layer, component="z", head=head.head)
    ordered = own.sort("effect").select("example_id").collect()["example_id"].to_list()
    return {*ordered[:MOVED], *ordered[-MOVED:]}
