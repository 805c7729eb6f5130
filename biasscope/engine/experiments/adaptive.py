"""The exact sweep down attribution's ranking; it stops when hardly any site left can be among the first."""

import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl

from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.statistics import reliability, summary
from biasscope.engine.statistics.cells import sites_of
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.stability import Quantity, labelled
from biasscope.engine.types import Site

STRONGEST = 10
"""The k of "the k-th effect found", unless --top says otherwise."""
FIRST = 3
"""Times k: how many sites are measured before any is drawn at random."""
_DRAW = 31


def estimated(
    scan: Scan, every: Sequence[Site], sources: Sequence[str], *, ends: bool = False
) -> pl.DataFrame:
    """The ranking of the sites by attribution with the first source (see `summary.estimated`).

    The estimates of all sources are kept: their sites could have been chosen, and stand beside the measured
    ones in the family.
    """
    from biasscope.engine.measure import attribution
    from biasscope.engine.measure.sources import Sweep

    forest, names = scan.forest(share="example"), []
    for source in sources:
        prefix = "estimate-" if source == sources[0] else f"estimate-{source}-"
        sweep = Sweep(every, scan.source(source, forest, every, prefix))
        units = attribution.units(scan.run.lm, forest, sweep)
        names.append(scan.measure(units, f"attribution ({source})", prefix=prefix, whole=True))
    scan.journal.set("estimates", [name for of_source in names for name in of_source])
    with scan.run.phase("attribution"):
        effects = pl.concat(scan.journal.tables("effects", names[0]))
        return summary.estimated(effects, scan.ungrouped, ends=ends)


def measure(scan: Scan, every: Sequence[Site], source_name: str, k: int, miss: float) -> None:
    """Measure what is not stored yet.

    First the 3 k sites of which attribution's interval reaches furthest, then random ones of the others;
    while `resampling.most_beyond` leaves open that a share `miss` of the others, unmeasured, exceeds the k-th
    effect found, k more of each.
    """
    from biasscope.engine.measure import exact
    from biasscope.engine.measure.sources import Sweep

    reach = summary.by_upper_bound(estimated(scan, every, [source_name], ends=True))
    ranked = [site for site in reach if site in set(every)]
    forest = scan.forest()
    source = scan.source(source_name, forest, every)
    names: list[str] = []
    done: set[Site] = set()

    def sweep(sites: Sequence[Site], stage: str) -> None:
        if new := sorted(set(sites) - done):
            units = exact.units(scan.run.lm, forest, Sweep(new, source), scan.batch)
            names.extend(scan.measure(units, f"ablate ({source_name}), {stage}", prefix=f"{stage}-"))
            done.update(new)

    sweep(ranked[: FIRST * k], "stage-00")
    rest = ranked[FIRST * k :]
    rng = np.random.default_rng((scan.run.options.seed, _DRAW))
    order = [rest[i] for i in rng.permutation(len(rest))]
    drawn = resampling.enough(len(rest), miss)
    for stage in itertools.count(1):
        sweep(order[:drawn], f"stage-{stage:02}")
        sizes, unit = _sizes(scan, names)
        threshold = sorted(sizes.values(), reverse=True)[min(k, len(done)) - 1]
        exceeding = {site for site in rest if sizes.get(site, 0.0) > threshold}
        seen = len(exceeding & set(order[:drawn]))
        beyond = resampling.most_beyond(len(rest), drawn, seen) - len(exceeding)
        left = [site for site in rest if site not in done]
        if not left or beyond < max(1.0, miss * len(rest)):
            break
        sweep(left[:k], f"stage-{stage:02}b")
        drawn = min(len(order), drawn + k)
    beyond = max(0, beyond)
    outcome = {"measured": len(done), "sites": len(every), "beyond": beyond, "open": len(left)}
    scan.warn(
        f"{len(done)} of {len(every)} sites measured; at most {beyond} of the {len(left)} others (95 % "
        f"confidence) exceed the effect in place {k}, {threshold:.3g} {unit}"
    )
    scan.journal.set("adaptive", {**outcome, "threshold": threshold, "k": k, "unit": unit})
    scan.close(forest.examples, names, forest.dropped, forest.partly)


def _sizes(scan: Scan, names: Sequence[str]) -> tuple[dict[Site, float], str]:
    """|ranking statistic| of the sites measured so far, and its unit."""
    ranked = summary.estimated(pl.concat(scan.journal.tables("effects", names)), scan.ungrouped)
    return dict(zip(sites_of(ranked), ranked["estimate"].abs().fill_null(0.0), strict=True)), ranked["unit"][
        0
    ]


def reported(scan: Scan, trusted: pl.DataFrame) -> pl.DataFrame:
    """RELIABILITY with what the adaptive sweep measured and what it leaves open."""
    outcome = scan.journal.facts["adaptive"]
    names = ("model", "dataset", "method", "source", "metric", "statistic")
    beyond = outcome["beyond"] / outcome["open"] if outcome["open"] else 0.0
    numbers = [
        Quantity("adaptive_measured", "share", outcome["sites"], outcome["measured"] / outcome["sites"]),
        Quantity("adaptive_beyond", "share", outcome["sites"], beyond),
        Quantity("adaptive_threshold", outcome["unit"], outcome["sites"], outcome["threshold"]),
    ]
    rows = labelled(trusted.select(names).row(0, named=True), numbers)
    return pl.concat([trusted, reliability.table(rows)])
