"""The steps of `circuit`: a run's sites ranked anew on half of the groups, sets measured on the other.

Each half has sources of its own: its means and donors are made of its prompts alone, and its twins name none
of the other's terms.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments.between import circuits as between
from biasscope.engine.experiments.between import mib as exchange
from biasscope.engine.experiments.between.circuits import summary, written
from biasscope.engine.experiments.scans import selection, session
from biasscope.engine.experiments.scans.ranked import RankedRun, find
from biasscope.engine.experiments.scans.scan import Scan, scans
from biasscope.engine.schemas import number
from biasscope.engine.settings import SILENT, Measure, Voice
from biasscope.engine.statistics import cells
from biasscope.engine.statistics import circuits as faithfulness
from biasscope.engine.statistics import summary as aggregates
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.store import runs
from biasscope.engine.types import MEMBER, Site

SIZES = "1,2,5,10,20,50"


def circuit(
    settings: Measure,
    run: str,
    *,
    sizes: str | None = None,
    minimal: bool = False,
    target: float = 0.8,
    mib: Path | None = None,
    voice: Voice = SILENT,
) -> runs.Result:
    """How much of the bias of that run, or file of edges, its strongest sites carry, on other groups."""
    if run.endswith(".json"):
        if minimal or mib is not None:
            option = "--minimal" if minimal else "--mib"
            raise UsageError(f"a file of edges is only evaluated: leave out {option}, or give a run")
        return exchange.circuit(settings, run, sizes or between.SIZES, voice)
    ranks = find(settings, run)
    if mib is not None and not ranks.over_edges:
        raise UsageError("--mib writes edges; give a run of patch --method edges")
    if ranks.over_edges and minimal:
        raise UsageError("--minimal leaves out sites one by one; a run over edges has too many: leave it out")
    if ranks.over_edges and "all" not in (positions := ranks.record.params["positions"].split(",")):
        raise UsageError(
            f"{ranks.folder} has edges at --positions {','.join(positions)} alone; take one at all positions"
        )
    sizes = sizes or (between.SIZES if ranks.over_edges else SIZES)
    wanted, goal = selection.parse_sizes(sizes), target if minimal else None
    options = {"from": run, "sizes": sizes, "minimal": minimal, "target": goal}
    running = session.start("circuit", ranks.options, options, voice)
    ranks.check(running)
    for each in scans(running, **{**options, "from": ranks.key, "sizes": list(wanted)}):
        if not each.complete:
            measure(each, ranks, wanted, goal)
        each.save(summary(each))
    result = running.finish()
    if mib is not None:
        largest = result.summaries[0].filter(pl.col("statistic") == MEMBER)["head"].to_list()
        exchange.write(Path(mib), ranks.record, ranks.folder, largest)
    return result


def measure(scan: Scan, ranked_run: RankedRun, sizes: Sequence[int], target: float | None) -> None:
    """Measure what is not stored yet. DataError, kept, where all sites together do nothing."""
    from biasscope.engine.measure import circuits

    if reason := scan.journal.facts.get("nothing"):
        raise DataError(reason)
    if ranked_run.over_edges:
        split = between.Halves(
            *halves(scan, ranked_run), ranked_run.source, ranked_run.record.params["steps"]
        )
        between.measure(scan, split, sizes, partial(_refuse_nothing, scan, ranked_run))
        return
    sites = ranked_run.sites()
    if len(sites) < 2:
        raise DataError(f"{ranked_run.folder} ranks {len(sites)} heads and MLPs; a circuit needs two or more")
    sizes = [k for k in sizes if k < len(sites)]
    if not sizes:
        raise UsageError(f"--sizes: the run has {len(sites)} heads and MLPs; give a smaller size")
    choosing, reporting = halves(scan, ranked_run)
    lm, forest = scan.run.lm, reporting.forest(twins=ranked_run.twins)
    source = reporting.source(ranked_run.source, forest, sites)

    def measured(points: Sequence[circuits.Point], label: str, prefix: str = "") -> list[str]:
        units = circuits.units(lm, forest, points, source, scan.batch)
        return reporting.measure(units, label, prefix=prefix)

    names = measured([circuits.none(sites)], "whole and none", "none-")
    _refuse_nothing(scan, ranked_run, names, len(sites))
    ranked = _ranked(choosing, ranked_run, sites)
    plan = {"sites": len(sites), "sizes": sizes, "ranked": written(ranked[: max(sizes)])}
    scan.journal.set("circuit", plan)
    names += measured(circuits.points(ranked, sizes, scan.run.options.seed), "sets of sites")
    if target is not None:
        small = _minimal(choosing, ranked_run, ranked, target)
        point = circuits.Point("minimal", frozenset(ranked) - set(small))
        names += measured([point], "minimal set", "minimal-")
        scan.journal.set("minimal", written(small))
    if how := ranked_run.chosen():
        scan.warn(
            f"the run chose its {len(sites)} sites on all groups ({how}); their order alone is held out"
        )
    outside = len(scan.dataset.examples) - len(reporting.dataset.examples)
    dropped = forest.dropped + Counter({"its group chose the sites": outside})
    scan.close(forest.examples, names, dropped, forest.partly)


def halves(scan: Scan, ranked_run: RankedRun, prefix: str = "") -> tuple[Scan, Scan]:
    """The scans of the half that chooses and of the half that reports; groups that are twins are together.

    `prefix`: of the reporting half's units.
    """
    from biasscope.engine.measure import circuits

    data = scan.dataset
    groups = sorted({e.group for e in data.examples})
    number = dict(zip(groups, cells.clusters(groups, ranked_run.partners).tolist(), strict=True))
    choosing, reporting = circuits.halves(number, scan.run.options.seed)
    ranking = scan.beside(data.part(f"{data.name} (choosing half)", choosing), "choosing-")
    return ranking, scan.beside(data.part(f"{data.name} (reporting half)", reporting), prefix)


def _refuse_nothing(scan: Scan, ranked_run: RankedRun, names: Sequence[str], sites: int) -> None:
    """Raise DataError, and keep its reason, where m(all) − m(none) may be 0 on the half that reports."""
    with scan.run.phase("statistics"):
        effects = pl.concat(scan.journal.tables("effects", names))
        row = faithfulness.denominator(effects, model=scan.run.slug, design=scan.design)
    if row["ci_low"] is not None and row["ci_low"] * row["ci_high"] > 0:
        return
    reason = f"{scan.dataset.name}: {_reason(row, ranked_run, sites)}; {ranked_run.more(sites)}"
    scan.journal.set("nothing", reason)
    raise DataError(reason)


def _reason(row: Mapping[str, Any], ranked_run: RankedRun, sites: int) -> str:
    """Why sets of sites have no share in m(all) − m(none), whose SUMMARY row this is."""
    if few := resampling.few_clusters_note(row["clusters"], "group"):
        return f"a share has no interval on the half that reports, {few}"
    change = {name: None if row[name] is None else -row[name] for name in ("estimate", "ci_high", "ci_low")}
    estimate, low, high = map(number, change.values())
    return (
        f"replacing all {sites} sites (source {ranked_run.source}) changes the {row['statistic']} of target "
        f"by {estimate} [{low}, {high}] {row['unit']}\n"
        f"in the {row['clusters']} groups that report, which may be 0: there is nothing to share out"
    )


def _ranked(here: Scan, ranked_run: RankedRun, sites: list[Site]) -> list[Site]:
    """The sites by the ranking statistic, measured as the run did but on the half that chooses alone."""
    from biasscope.engine.measure import attribution, exact
    from biasscope.engine.measure.sources import Sweep

    lm, params = here.run.lm, ranked_run.record.params
    exactly = params.get("method", "exact") == "exact"
    forest = here.forest(share="all" if exactly else "example", twins=ranked_run.twins)
    source = here.source(ranked_run.source, forest, sites)
    if exactly:
        units = exact.units(lm, forest, Sweep(sites, source, metrics=("target",)), here.batch)
    else:
        units = attribution.units(lm, forest, Sweep(sites, source), params.get("steps"))
    names = here.measure(units, "ranking", prefix="rank-")
    with here.run.phase("statistics"):
        effects = pl.concat(here.journal.tables("effects", names))
        return aggregates.top(aggregates.estimated(effects, here.ungrouped), len(sites))


def _minimal(here: Scan, ranked_run: RankedRun, ranked: list[Site], target: float) -> list[Site]:
    """A minimal set of sites that keeps the target, found on the half that chooses alone."""
    from biasscope.engine.measure import circuits

    forest = here.forest(twins=ranked_run.twins)
    source = here.source(ranked_run.source, forest, ranked)

    def measured(point: circuits.Point) -> list[str]:
        units = circuits.units(here.run.lm, forest, [point], source, here.batch)
        return here.measure(units, None, prefix=f"{point.name}-")

    base = measured(circuits.none(ranked))

    def keeps(sites: Sequence[Site]) -> float | None:
        name = hashlib.sha256(" ".join(map(str, sites)).encode()).hexdigest()[:12]
        names = measured(circuits.Point(name, frozenset(ranked) - set(sites)))
        rows = pl.concat(here.journal.tables("effects", [*base, *names]))
        f = faithfulness.estimates_of(rows, here.ungrouped)[name]
        keep = "site keeps" if len(sites) == 1 else "sites keep"
        here.run.voice.note(f"minimal set: {len(sites)} {keep} {f:.2f}")
        return f

    small = circuits.greedy(ranked, keeps, target)
    if len(small) == len(ranked):
        raise DataError(
            f"no site can be left out: any {len(ranked) - 1} keep less than {target} on the half that "
            "chooses; lower --target"
        )
    return small
