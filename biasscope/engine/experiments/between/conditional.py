"""The steps of `ablate --conditional`: what sites do once others are gone, which no single ablation shows.

Candidates are the sites with a star when replaced alone, by attribution of their removal (which finds one
whose backup takes over) or when patched with the twin's (which finds one of two that do the same). Each is
zeroed and all others are measured again; what is tested is how their effects change.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.experiments.scans.scan import Aggregates, Scan
from biasscope.engine.schemas import CONDITIONAL, EFFECTS
from biasscope.engine.statistics import reliability, summary
from biasscope.engine.statistics.cells import sites_of
from biasscope.engine.types import Design, Edit, Site

MOST = 10
"""Candidates of a round."""
KEYS = ["example_id", "metric", "component", "layer", "head"]


@dataclass(frozen=True)
class Behind:
    """A candidate that was removed, and in which round."""

    site: Site
    round: int

    @property
    def position(self) -> str:
        """The position of rows about other sites once it is gone."""
        return f"behind {self.site}"


def measure(each: Scan, sites: Sequence[Site], source_name: str, rounds: int) -> None:
    """Measure what is not stored yet, round by round, until one adds no candidate."""
    from biasscope.engine.measure import exact
    from biasscope.engine.measure.sources import Sweep, zero

    lm, forest = each.run.lm, each.forest()
    source = each.source(source_name, forest, sites)
    alone = each.measure(exact.units(lm, forest, Sweep(sites, source), each.batch), f"ablate ({source_name})")
    names, aside = list(alone), _aside(each, sites)
    names += aside
    estimated, patched = ([n for n in aside if n.startswith(kind)] for kind in ("estimates-", "twin-"))
    lists = [_starred(each, part, each.ungrouped) for part in (alone, estimated)]
    lists.append(_starred(each, patched, each.design))
    before, gone = _effects(each, alone), list[Behind]()
    # each way to find them has its strongest among the first
    turns = (site for same in itertools.zip_longest(*lists) for site in same if site is not None)
    candidates = list(dict.fromkeys(turns))[:MOST]
    for number in range(1, rounds + 1):
        for site in candidates:
            others = [other for other in sites if other != site]
            sweep = Sweep(others, source, metrics=("target",), edit=Edit({site: zero(lm)}))
            units = exact.units(lm, forest, sweep, each.batch)
            prefix = f"given-{site}-"
            names += each.measure(units, f"round {number}, without {site}", prefix=prefix)
            gone.append(Behind(site, number))
        if not candidates:
            break
        rows = _changes(each, before, gone)
        known = {behind.site for behind in gone}
        candidates = [site for site in _stars(rows) if site not in known][:MOST]
    each.journal.set(
        "conditional",
        {
            "alone": alone,
            "gone": [[b.site.layer, b.site.component, b.site.head, b.round] for b in gone],
        },
    )
    each.close(forest.examples, names, forest.dropped, forest.partly)


def _aside(each: Scan, sites: Sequence[Site]) -> list[str]:
    """The units that only choose candidates: attribution of removal, and patching with the twin."""
    from biasscope.engine.measure import attribution, exact
    from biasscope.engine.measure.sources import Sweep, corrupt, zero

    lm = each.run.lm
    estimated = Sweep(sites, zero(lm), metrics=("target",))
    units = attribution.units(lm, each.forest(share="example"), estimated)
    names = each.measure(units, "attribution (zero)", prefix="estimates-", table="aside")
    if each.dataset.rule == "none":
        return names
    forest = each.forest(twins=True)
    patched = exact.units(lm, forest, Sweep(sites, corrupt(lm, sites), metrics=("target",)), each.batch)
    return names + each.measure(patched, "patch (corrupt)", prefix="twin-", table="aside")


def _effects(each: Scan, names: Sequence[str]) -> pl.DataFrame:
    table = "aside" if names and "aside" in each.journal.units[names[0]] else "effects"
    return pl.concat(each.journal.tables(table, names)).filter(metric="target")


def _starred(each: Scan, names: Sequence[str], design: Design) -> list[Site]:
    """The sites with a star in these units, strongest first."""
    if not names:
        return []
    with each.run.phase("statistics"):
        effects = _effects(each, names)
        return _stars(summary.summarise(effects, model=each.run.slug, method="exact", design=design))


def _stars(rows: pl.DataFrame) -> list[Site]:
    return list(dict.fromkeys(sites_of(summary.ranking(rows).filter(schemas.starred()))))


def _change(each: Scan, before: pl.DataFrame, behind: Behind) -> pl.DataFrame:
    """EFFECTS whose baseline is a site's effect alone, and whose value its effect once another is gone."""
    names = [n for n in each.journal.units if n.startswith(f"given-{behind.site}-")]
    alone = before.select(*KEYS, baseline="effect")
    with_it = _effects(each, names).drop("baseline").rename({"effect": "after"})
    both = with_it.join(alone, on=KEYS, how="inner", nulls_equal=True, maintain_order="left")
    whole = both.with_columns(
        position=pl.lit(behind.position), value="after", effect=pl.col("after") - pl.col("baseline")
    )
    return whole.select(EFFECTS.names())


def _changes(each: Scan, before: pl.DataFrame, gone: Sequence[Behind]) -> pl.DataFrame:
    """SUMMARY of how effects change behind every candidate that is gone so far: one family."""
    with each.run.phase("statistics"):
        changed = pl.concat(_change(each, before, behind) for behind in gone)
        return summary.summarise(changed, model=each.run.slug, method="conditional", design=each.ungrouped)


def aggregated(each: Scan) -> Aggregates:
    """SUMMARY of the effects alone and of their changes, a family of their own; CONDITIONAL is written."""
    facts = each.journal.facts["conditional"]
    gone = [Behind(Site(*row[:3]), row[3]) for row in facts["gone"]]
    effects = pl.concat(each.journal.tables("effects", facts["alone"]))
    each.run.write(each.run.folder(each.dataset.name, each.key), "effects", [effects])
    with each.run.phase("statistics"):
        design, slug = each.ungrouped, each.run.slug
        alone = summary.summarise(effects, model=slug, method="exact", design=design)
        trusted = reliability.assess(effects, alone, design=design)
    if not gone:
        each.warn("no site has a star alone, by attribution or patched with its twin: nothing was removed")
        return alone, trusted
    rows = _changes(each, effects.filter(metric="target"), gone)
    table = _table(alone, rows, gone)
    each.run.write(each.run.folder(each.dataset.name, each.key), "conditional", [table])
    return pl.concat([alone, rows]), trusted


def _table(alone: pl.DataFrame, rows: pl.DataFrame, gone: Sequence[Behind]) -> pl.DataFrame:
    """CONDITIONAL, the largest change first."""
    sites = pl.DataFrame(
        [(b.position, b.round, b.site.component, b.site.layer, b.site.head) for b in gone],
        schema={"position": pl.String, **{name: CONDITIONAL[name] for name in list(CONDITIONAL)[:4]}},
        orient="row",
    )
    place = ["component", "layer", "head"]
    before = summary.ranking(alone).select(*place, alone="estimate", alone_star=schemas.starred())
    changed = summary.ranking(rows).join(sites, on="position", how="left", maintain_order="left")
    changed = changed.join(before, on=place, how="left", nulls_equal=True, maintain_order="left")
    return changed.with_columns(star=schemas.starred()).select(CONDITIONAL.names()).cast(CONDITIONAL)
