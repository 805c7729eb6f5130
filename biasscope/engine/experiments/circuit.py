"""The steps of `circuit`: the sites of an earlier run ranked anew on one half of the groups, sets of them
measured on the other.

Each half has sources of its own: its means and donors are made of its prompts alone, and its twins name none
of the other's terms.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments import session
from biasscope.engine.experiments.scan import Scan, scans
from biasscope.engine.schemas import number
from biasscope.engine.settings import SILENT, Dtype, Measure, Voice
from biasscope.engine.statistics import resampling
from biasscope.engine.statistics import summary as aggregates
from biasscope.engine.store import cache, runs
from biasscope.engine.store.seals import Seal
from biasscope.engine.types import SOURCES, Site

TAKEN = ("limit", "seed", "dtype", "revision", "skip_invalid", "no_space", "max_memory")
"""Options that are those of the run."""


def circuit(
    settings: Measure,
    run: str,
    *,
    sizes: str = "1,2,5,10,20,50",
    minimal: bool = False,
    target: float = 0.8,
    voice: Voice = SILENT,
) -> runs.Result:
    """How much of the bias of that run is its strongest sites', on groups that did not choose them."""
    ranks = find(settings, run)
    goal = target if minimal else None
    parameters = {"from": ranks.key, "sizes": list(parsed(sizes)), "minimal": minimal, "target": goal}
    running = session.start(
        "circuit", ranks.options, {"from": run, "sizes": sizes, "minimal": minimal, "target": goal}, voice
    )
    ranks.check(running)
    for each in scans(running, **parameters):
        if not each.complete:
            measure(each, ranks, parsed(sizes), goal)
        each.save(summary(each))
    return running.finish()


@dataclass(frozen=True)
class RankedRun:
    """The run whose sites are ranked, and how it measured."""

    record: runs.RunRecord
    folder: Path
    options: Measure
    source: str
    partners: dict[str, str]
    """Group → the one group it was exchanged for."""
    seal: Seal

    def check(self, run: session.Running) -> None:
        """Say where the run's record is not sealed; DataError where the model is not the one it measured."""
        digest = self.record.model.digest if self.record.model else ""
        if run.weights.digest != digest:
            raise DataError(
                f"{self.folder} measured weights {digest[:12]}…, {run.options.model} has "
                f"{run.weights.digest[:12]}…; measure it again"
            )
        if self.seal is not Seal.SEALED:
            run.warn(f"run {self.folder.name} is {self.seal}: made by an older version, or copied")

    @property
    def key(self) -> str:
        """The run's key."""
        return self.record.datasets[0].run_key

    @property
    def twins(self) -> bool:
        """Whether its sites took the activations of twins."""
        return self.source == "corrupt"

    def sites(self) -> list[Site]:
        """Its heads and MLPs, in the model's order."""
        rows = pl.read_parquet(self.folder / "summary.parquet").filter(
            pl.col("source") == self.source,
            pl.col("component").is_in(["z", "mlp_out"]),
            pl.col("position") == "all",
            schemas.single_sites(),
        )
        sites = {Site(*row) for row in rows.select("layer", "component", "head").iter_rows()}
        return sorted(
            sites, key=lambda site: (site.layer, site.component, -1 if site.head is None else site.head)
        )

    def chosen(self) -> str | None:
        """The option by which the run chose its sites on all of its groups, if it did."""
        params = self.record.params
        return (
            "--adaptive"
            if params.get("adaptive")
            else f"--top {params['top']}"
            if params.get("top")
            else None
        )

    def more(self, sites: int) -> str:
        """What to do where these sites do nothing together."""
        model, ways = self.record.model, []
        every = model.layers * (model.heads + 1) if model else sites
        if sites < every:
            ways.append(f"scan more sites (these are {sites} of the model's {every} heads and MLPs)")
        if self.options.limit is not None:
            ways.append("scan more examples (without --limit)")
        return " or ".join(ways or ["take a run with another --source or dataset"])


def parsed(text: str) -> tuple[int, ...]:
    """The sizes of "1,2,5"; UsageError where they are no numbers from 1 up."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(
            f"--sizes '{text}' cannot be read; write numbers from 1 up, separated by commas, such as 1,2,5,10"
        )
    return tuple(sorted({int(word) for word in words}))


def find(o: Measure, name: str) -> RankedRun:
    """The run of that name, and the options with which it is continued: its model, data, seed and numbers."""
    stored, record = cache.load(o.output_dir, name, o.cache_dir)
    folder, params = stored.folder, record.params
    if (
        record.command not in ("ablate", "patch")
        or params.get("given")
        or params.get("direction") == "denoising"
    ):
        raise DataError(
            f"{folder} cannot rank sites for a circuit; take a run of ablate (without --given) or patch "
            "(noising)"
        )
    available = set(pl.read_parquet(folder / "summary.parquet", columns=["source"])["source"])
    source = next(name for name in SOURCES if name in available)
    taken = {name: params[name] for name in TAKEN if name in params}
    taken["dtype"] = Dtype(taken["dtype"])
    options = replace(
        o,
        model=params["model"],
        dataset=[_dataset(record)],
        data_dir=Path(params["data_dir"]),
        **taken,
    )
    twins = folder / "twins.parquet"
    partners = aggregates.partners(pl.read_parquet(twins)) if twins.is_file() else {}
    return RankedRun(record, folder, options, source, partners, stored.seal)


def _dataset(record: runs.RunRecord) -> str:
    """What `--dataset` was: the name of the run's data, or the path of their file."""
    (part,) = record.datasets
    files = [name for name in record.params["dataset"] if Path(name).name == part.source.get("file")]
    return files[0] if files else part.name


def measure(scan: Scan, ranked_run: RankedRun, sizes: Sequence[int], target: float | None) -> None:
    """Measure what is not stored yet. DataError, found early and kept, where the sites together do nothing
    that sets could share.
    """
    from biasscope.engine.measure import circuits

    if reason := scan.journal.facts.get("nothing"):
        raise DataError(reason)
    sites = ranked_run.sites()
    if len(sites) < 2:
        raise DataError(f"{ranked_run.folder} ranks {len(sites)} heads and MLPs; a circuit needs two or more")
    sizes = [k for k in sizes if k < len(sites)]
    if not sizes:
        raise UsageError(f"--sizes: the run has {len(sites)} heads and MLPs; give a smaller size")
    choosing, reporting = _halves(scan, ranked_run)
    lm, forest = scan.run.lm, reporting.forest(twins=ranked_run.twins)
    source = reporting.source(ranked_run.source, forest, sites)
    names = reporting.measure(
        circuits.units(lm, forest, [circuits.none(sites)], source, scan.batch),
        "whole and none",
        prefix="none-",
    )
    _refuse_nothing(scan, ranked_run, names, len(sites))
    ranked = _ranked(choosing, ranked_run, sites)
    scan.journal.set(
        "circuit", {"sites": len(sites), "sizes": sizes, "ranked": _written(ranked[: max(sizes)])}
    )
    wanted = circuits.points(ranked, sizes, scan.run.options.seed)
    names += reporting.measure(circuits.units(lm, forest, wanted, source, scan.batch), "sets of sites")
    if target is not None:
        small = _minimal(choosing, ranked_run, ranked, target)
        point = circuits.Point("minimal", frozenset(ranked) - set(small))
        names += reporting.measure(
            circuits.units(lm, forest, [point], source, scan.batch), "minimal set", prefix="minimal-"
        )
        scan.journal.set("minimal", _written(small))
    if how := ranked_run.chosen():
        scan.warn(
            f"the run chose its {len(sites)} sites on all groups ({how}); their order alone is held out"
        )
    outside = len(scan.dataset.examples) - len(reporting.dataset.examples)
    dropped = forest.dropped + type(forest.dropped)({"its group chose the sites": outside})
    scan.close(forest.examples, names, dropped, forest.partly)


def _halves(scan: Scan, ranked_run: RankedRun) -> tuple[Scan, Scan]:
    """The scans of the half of the groups that chooses and of the half that reports; groups that are each
    other's twin stay together.
    """
    from biasscope.engine.measure import circuits

    data = scan.dataset
    groups = sorted({e.group for e in data.examples})
    number = dict(zip(groups, aggregates.clusters(groups, ranked_run.partners).tolist(), strict=True))
    choosing, reporting = circuits.halves(number, scan.run.options.seed)
    ranking = scan.beside(data.part(f"{data.name} (choosing half)", choosing), "choosing-")
    return ranking, scan.beside(data.part(f"{data.name} (reporting half)", reporting))


def _refuse_nothing(scan: Scan, ranked_run: RankedRun, names: Sequence[str], sites: int) -> None:
    """Raise DataError, and keep its reason, where m(all) − m(none) may be 0 on the half that reports."""
    from biasscope.engine.statistics import circuits as faithfulness

    with scan.run.phase("statistics"):
        effects = pl.concat(scan.journal.tables("effects", names))
        row = faithfulness.denominator(effects, model=scan.run.slug, design=scan.design)
    if row["ci_low"] is not None and row["ci_low"] * row["ci_high"] > 0:
        return
    scan.journal.set(
        "nothing", f"{scan.dataset.name}: {_reason(row, ranked_run, sites)}; {ranked_run.more(sites)}"
    )
    raise DataError(scan.journal.facts["nothing"])


def _reason(row: Mapping[str, Any], ranked_run: RankedRun, sites: int) -> str:
    """Why sets of sites have no share in m(all) − m(none), whose SUMMARY row this is."""
    if few := resampling.few_clusters_note(row["clusters"], "group"):
        return f"a share has no interval on the half that reports, {few}"
    change = {name: None if row[name] is None else -row[name] for name in ("estimate", "ci_high", "ci_low")}
    estimate, low, high = map(number, change.values())
    return (
        f"replacing all {sites} sites (source {ranked_run.source}) changes the {row['statistic']} of target "
        f"by {estimate} [{low}, {high}] "
        f"{row['unit']}\nin the {row['clusters']} groups that report, which may be 0: there is nothing to "
        "share out"
    )


def _ranked(here: Scan, ranked_run: RankedRun, sites: list[Site]) -> list[Site]:
    """The sites by the ranking statistic, strongest first, measured as the run measured them but on the half
    that chooses alone.
    """
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
        summary = aggregates.summarise(effects, model=here.run.slug, method="circuit", design=here.ungrouped)
    return aggregates.top(summary, summary.height)


def _minimal(here: Scan, ranked_run: RankedRun, ranked: list[Site], target: float) -> list[Site]:
    """A minimal set of sites that keeps the target, found on the half that chooses alone."""
    from biasscope.engine.measure import circuits
    from biasscope.engine.statistics import circuits as faithfulness

    forest = here.forest(twins=ranked_run.twins)
    source = here.source(ranked_run.source, forest, ranked)
    lm, design = here.run.lm, here.ungrouped
    base = here.measure(
        circuits.units(lm, forest, [circuits.none(ranked)], source, here.batch), None, prefix="none-"
    )

    def keeps(sites: Sequence[Site]) -> float | None:
        name = hashlib.sha256(" ".join(map(str, sites)).encode()).hexdigest()[:12]
        point = circuits.Point(name, frozenset(ranked) - set(sites))
        names = here.measure(circuits.units(lm, forest, [point], source, here.batch), None, prefix=f"{name}-")
        rows = pl.concat(here.journal.tables("effects", [*base, *names]))
        f = faithfulness.estimates_of(rows, design)[name]
        here.run.voice.note(
            f"minimal set: {len(sites)} {'site keeps' if len(sites) == 1 else 'sites keep'} {f:.2f}"
        )
        return f

    small = circuits.greedy(ranked, keeps, target)
    if len(small) == len(ranked):
        raise DataError(
            f"no site can be left out: any {len(ranked) - 1} keep less than {target} on the half that "
            "chooses; lower --target"
        )
    return small


def _written(sites: Sequence[Site]) -> list[list[Any]]:
    """The sites as the journal keeps them: Site(*row) gives one back."""
    return [[site.layer, site.component, site.head] for site in sites]


def summary(scan: Scan) -> pl.DataFrame:
    """SUMMARY of the sets: f with intervals, areas, random sets, the minimal one, and which sites the largest
    and the minimal hold.
    """
    from biasscope.engine.statistics import circuits as faithfulness

    effects, facts = scan.table("effects").collect(), scan.journal.facts
    design, plan = scan.design, facts["circuit"]
    with scan.run.phase("statistics"):
        sets = faithfulness.of_sets(effects, model=scan.run.slug, design=design)
        areas = faithfulness.areas(effects, plan["sites"], plan["sizes"], design)
        tables = [faithfulness.curve(sets, plan["sizes"], areas)]
        named = {f"top {max(plan['sizes'])}": plan["ranked"]}
        if small := facts.get("minimal"):
            tables.append(faithfulness.minimal(sets, "minimal", len(small)))
            named[f"minimal {len(small)}"] = small
    return pl.concat(
        [
            *tables,
            *(faithfulness.members(sets, name, [Site(*row) for row in rows]) for name, rows in named.items()),
        ]
    )
