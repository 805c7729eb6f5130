"""The exact sweep down attribution's ranking; it stops when hardly any site left can be among the first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine.experiments.scan import Scan
from biasscope.engine.statistics import reliability, resampling, summary
from biasscope.engine.statistics.summary import BIAS, unit
from biasscope.engine.types import Site

STRONGEST = 10
"""The k of "the k-th effect found", unless --top says otherwise."""
FIRST = 3
"""Times k: how many sites are measured before any is drawn at random."""
_DRAW = 31


def measure(scan: Scan, every: Sequence[Site], source_name: str, k: int, miss: float) -> None:
    """Measure what is not stored yet.

    First the 3 k sites of which attribution's interval reaches furthest, then random ones of the others;
    while `resampling.most_beyond` leaves open that a share `miss` of the others, unmeasured, exceeds the k-th
    effect found, k more of each.
    """
    from biasscope.engine.measure import exact
    from biasscope.engine.measure.sources import Sweep

    ranked = [
        site
        for site in summary.by_upper_bound(scan.estimated(every, source_name, ends=True))
        if site in set(every)
    ]
    forest = scan.forest()
    source, seed = scan.source(source_name, forest, every), scan.run.options.seed
    names: list[str] = []
    done: set[Site] = set()

    def sweep(sites: Sequence[Site], stage: str) -> None:
        new = sorted(
            (s for s in sites if s not in done),
            key=lambda s: (s.layer, s.component, -1 if s.head is None else s.head),
        )
        if new:
            units = exact.units(scan.run.lm, forest, Sweep(new, source), scan.batch)
            names.extend(scan.measure(units, f"ablate ({source_name}), {stage}", prefix=f"{stage}-"))
            done.update(new)

    sweep(ranked[: FIRST * k], "stage-00")
    rest = ranked[FIRST * k :]
    order = [rest[i] for i in np.random.default_rng((seed, _DRAW)).permutation(len(rest))]
    drawn, stage = resampling.enough(len(rest), miss), 0
    while True:
        stage += 1
        sweep(order[:drawn], f"stage-{stage:02}")
        size = _sizes(scan, names)
        threshold = sorted((size[s] for s in done), reverse=True)[min(k, len(done)) - 1]
        seen = sum(size[s] > threshold for s in order[:drawn])
        open_ = [s for s in rest if s not in done]
        seen_otherwise = sum(size[s] > threshold for s in rest if s in done and s not in set(order[:drawn]))
        most = resampling.most_beyond(len(rest), drawn, seen) if rest else 0
        beyond = max(0, most - seen - seen_otherwise)
        if not open_ or most - seen - seen_otherwise < max(1.0, miss * len(rest)):
            break
        sweep(open_[:k], f"stage-{stage:02}b")
        drawn = min(len(order), drawn + k)
    measured_in = unit(BIAS[0], _ranked(scan, names)["statistic"][0])
    outcome: dict[str, Any] = {
        "measured": len(done),
        "sites": len(every),
        "beyond": beyond,
        "open": len(open_),
    }
    outcome |= {"threshold": threshold, "k": k, "unit": measured_in}
    share = (
        f"at most {beyond} of the {len(open_)} others (95 % confidence) exceed the effect in place {k}, "
        f"{threshold:.3g} {measured_in}"
    )
    scan.warn(f"{len(done)} of {len(every)} sites measured; {share}")
    scan.journal.set("adaptive", outcome)
    scan.close(forest.examples, names, forest.dropped, forest.partly)


def _sizes(scan: Scan, names: Sequence[str]) -> dict[Site, float]:
    """|ranking statistic| of the sites measured so far."""
    return {
        Site(r["layer"], r["component"], r["head"]): abs(r["estimate"] or 0.0)
        for r in _ranked(scan, names).iter_rows(named=True)
    }


def _ranked(scan: Scan, names: Sequence[str]) -> pl.DataFrame:
    """The ranking statistic of the sites measured so far, estimates alone."""
    effects = pl.concat(scan.journal.tables("effects", names)).filter(pl.col("metric") == "target")
    return summary.estimated(effects, scan.ungrouped)


def reported(scan: Scan, trusted: pl.DataFrame) -> pl.DataFrame:
    """RELIABILITY with what the adaptive sweep measured and what it leaves open."""
    outcome = scan.journal.facts["adaptive"]
    first = trusted.row(0, named=True)
    base = {name: first[name] for name in ("model", "dataset", "method", "source", "metric", "statistic")}
    numbers = {
        "adaptive_measured": ("share", outcome["measured"] / outcome["sites"]),
        "adaptive_beyond": ("share", outcome["beyond"] / outcome["open"] if outcome["open"] else 0.0),
        "adaptive_threshold": (outcome["unit"], outcome["threshold"]),
    }
    rows = [
        {**base, "quantity": q, "unit": unit, "n": outcome["sites"], "estimate": value}
        for q, (unit, value) in numbers.items()
    ]
    return pl.concat([trusted, reliability.table(rows)])
