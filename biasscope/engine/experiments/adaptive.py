"""The exact sweep as a race: all sites on a few groups, more groups for those that may be among the first."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine.errors import Stopped
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.schemas import number
from biasscope.engine.statistics import reliability, summary
from biasscope.engine.statistics.cells import sites_of
from biasscope.engine.statistics.racing import Race
from biasscope.engine.statistics.stability import Quantity, labelled
from biasscope.engine.store import runs
from biasscope.engine.types import Site

STRONGEST = 10
"""How many sites are looked for, unless --top says otherwise."""


def estimated(scan: Scan, every: Sequence[Site], sources: Sequence[str]) -> pl.DataFrame:
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
        return summary.estimated(effects, scan.ungrouped)


def measure(scan: Scan, every: Sequence[Site], source_name: str, k: int, miss: float) -> None:
    """Measure what is not stored yet, until it is known which sites are the k strongest.

    Each is among those measured on all groups with a chance of 1 − `miss`. Stopped: at Ctrl-C or SIGTERM,
    once there is something to show.
    """
    from biasscope.engine.measure import exact
    from biasscope.engine.measure.sources import Sweep
    from biasscope.engine.model import tokens

    estimated(scan, every, [source_name])
    forest, race, names = scan.forest(), started(scan, k, miss), list[str]()
    source = scan.source(source_name, forest, every)

    def sweep(sites: np.ndarray, groups: set[str], stage: str) -> None:
        examples = [e for e in forest.examples if e.group in groups]
        if examples and sites.any():
            part = tokens.forest(scan.run.lm, examples)
            units = exact.units(scan.run.lm, part, Sweep(race.sites(sites), source), scan.batch)
            label = f"ablate ({source_name}), {sites.sum()} sites in {len(groups)} groups"
            names.extend(scan.measure(units, label, prefix=f"{stage}-"))
        race.look(_target(scan, names))

    try:
        for look, seen in enumerate(race.looks):
            sweep(race.racing, race.groups(race.looks[look - 1] if look else 0, seen), f"look-{look:02}")
            scan.run.voice.standings(*_standings(scan, race, seen))
            ahead = race.ahead(look)
            sweep(ahead, race.groups(seen), f"rest-{look:02}")
            race.settle(ahead)
            if not race.racing.any():
                break
    except (KeyboardInterrupt, SystemExit) as leaving:
        if not race.examples.any():
            raise
        whole = race.table(race.examples > 0, _labels(scan, source_name))
        _keep(scan, whole, scan.finished(forest.examples, names, forest.dropped, forest.partly))
        raise Stopped(scan.run.finish(), getattr(leaving, "code", 130)) from None
    _conclude(scan, race)
    scan.close(forest.examples, names, forest.dropped, forest.partly)


def _keep(scan: Scan, whole: pl.DataFrame, about: Mapping[str, Any]) -> None:
    """Save what a race that was stopped has measured, marked as not complete; the same command goes on."""
    scan.run.complete, scan.run.batch_size = False, about["batch_size"]
    scan.put("partial", pl.concat(scan.journal.tables("effects", about["units"])))
    scan.run.keep(runs.DatasetPart.model_validate(about["part"]), scan.key, whole)


def started(scan: Scan, k: int, miss: float) -> Race:
    """The race of the sites whose estimates are stored, before any is measured."""
    effects = pl.concat(scan.journal.tables("effects", scan.journal.facts["estimates"]))
    return Race.of(effects.filter(metric="target"), scan.ungrouped, k, miss)


def _target(scan: Scan, names: Sequence[str]) -> pl.DataFrame:
    """EFFECTS on target of these units."""
    return pl.concat(frame.filter(metric="target") for frame in scan.journal.tables("effects", names))


def _labels(scan: Scan, source: str) -> dict[str, str | None]:
    """What all rows of the scan share."""
    return {"model": scan.run.slug, "dataset": scan.dataset.name, "source": source}


def _standings(scan: Scan, race: Race, seen: int) -> tuple[str, list[tuple[str, str]]]:
    """How far the race is, and the present first sites with their intervals, in words."""
    left, groups = int(race.racing.sum()), len(race.order)
    title = f"{scan.dataset.name}: {seen} of {groups} groups, {left} of {len(race.whole)} sites undecided"
    rows = [
        (str(Site(*row[:3])), number(row[3]) + (f" ± {number(row[4])}" if row[4] else ""))
        for row in race.first().rows()
    ]
    return f"{title}; {race.unit}", rows


def _conclude(scan: Scan, race: Race) -> None:
    """Keep what the race came to."""
    whole, m = int(race.whole.sum()), len(race.whole)
    outcome = {"whole": whole, "sites": m, "work": race.work, "threshold": race.threshold}
    scan.journal.set("adaptive", {**outcome, "k": race.k, "miss": race.miss, "unit": race.unit})
    scan.journal.set("settled", [[s.layer, s.component, s.head] for s in race.sites(race.whole)])
    scan.warn(
        f"{whole} of {m} sites measured in all groups, the others in some: {100 * race.work:.0f} % of a full "
        f"scan; a site of places 1 to {race.k} is among them but for a chance of {100 * race.miss:.3g} % "
        f"(place {race.k}: {number(race.threshold)} {race.unit})"
    )


def given_up(scan: Scan, source: str) -> pl.DataFrame:
    """SUMMARY rows of the sites that were not measured in all groups; their effects become a table."""
    outcome, settled = scan.journal.facts["adaptive"], scan.journal.facts["settled"]
    race = started(scan, outcome["k"], outcome["miss"])
    race.look(scan.table("partial").filter(metric="target").collect())
    whole = {Site(*site) for site in settled}
    others = [site not in whole for site in sites_of(race.guess.sites)]
    return race.table(np.array(others, bool), _labels(scan, source))


def reported(scan: Scan, trusted: pl.DataFrame) -> pl.DataFrame:
    """RELIABILITY with how much the race measured, and what it has found for sure."""
    outcome = scan.journal.facts["adaptive"]
    names = ("model", "dataset", "method", "source", "metric", "statistic")
    sites = outcome["sites"]
    numbers = [
        Quantity("adaptive_measured", "share", sites, outcome["work"]),
        Quantity("adaptive_whole", "share", sites, outcome["whole"] / sites),
        Quantity("adaptive_miss", "share", sites, outcome["miss"]),
        Quantity("adaptive_threshold", outcome["unit"], sites, outcome["threshold"]),
    ]
    rows = labelled(trusted.select(names).row(0, named=True), numbers)
    return pl.concat([trusted, reliability.table(rows)])
