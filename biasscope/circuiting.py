"""The steps of `circuit`: sites ranked on one half of the groups of an earlier run, sets of them measured on the other."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from biasscope.engine import measured, stats, upkeep
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.sealing import Seal
from biasscope.engine.types import Dataset, Site
from biasscope.options import Dtype, Measure
from biasscope.scan import Scan

if TYPE_CHECKING:
    from biasscope.running import Running

SOURCES = ("mean", "corrupt", "zero", "resample")
"""Of a run with several sources, the first of these ranks and replaces."""
TAKEN = ("limit", "seed", "dtype", "revision", "skip_invalid", "max_memory")
"""Options that are those of the run."""


@dataclass(frozen=True)
class Origin:
    """The run that ranks the sites."""

    key: str
    folder: Path
    options: Measure
    source: str
    method: str
    partners: dict[str, str] | None
    model: str
    """sha256 of the weights that it measured."""
    seal: Seal

    def check(self, run: "Running") -> None:
        """Say where the run's record is not sealed; DataError where the model is not the one it measured."""
        if run.found.digest != self.model:
            raise DataError(
                f"{self.folder} measured weights {self.model[:12]}…, {run.options.model} has {run.found.digest[:12]}…; measure it again"
            )
        if self.seal is not Seal.SEALED:
            run.warn(f"run {self.folder.name} is {self.seal}: made by an older version, or copied")

    def ranked(self, dataset: Dataset, groups: set[str], slug: str) -> list[Site]:
        """Its heads and MLPs by the ranking statistic over these groups alone, strongest first."""
        rows = pl.scan_parquet(self.folder / "effects.parquet").filter(
            pl.col("source") == self.source,
            pl.col("group").is_in(sorted(groups)),
            pl.col("metric") == "target",
            pl.col("component").is_in(["z", "mlp_out"]),
            pl.col("position") == "all",
            (pl.col("component") != "z") | pl.col("head").is_not_null(),
        )
        summary = stats.summarise(rows, model=slug, method=self.method, share_of_men=dataset.share_of_men(), seed=self.options.seed)
        return stats.top(summary, summary.height)


def parsed(text: str) -> tuple[int, ...]:
    """The sizes of "1,2,5"; UsageError where they are no numbers from 1 up."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--sizes '{text}' cannot be read; write numbers from 1 up, separated by commas, such as 1,2,5,10")
    return tuple(sorted({int(word) for word in words}))


def origin(o: Measure, name: str) -> Origin:
    """The run of that name, and the options with which it is continued: its model, data, seed and numbers."""
    stored, record = upkeep.load(o.output_dir, name, o.cache_dir)
    folder, asked = stored.folder, record.params
    if record.command not in ("ablate", "patch") or asked.get("given") or asked.get("direction") == "denoising":
        raise DataError(f"{folder} cannot rank sites for a circuit; take a run of ablate (without --given) or patch (noising)")
    found = set(pl.read_parquet(folder / "summary.parquet", columns=["source"])["source"])
    source = next(name for name in SOURCES if name in found)
    taken = {name: asked[name] for name in TAKEN if name in asked}
    taken["dtype"] = Dtype(taken["dtype"])
    options = replace(o, model=asked["model"], dataset=[record.datasets[0].name], data_dir=Path(asked["data_dir"]), **taken)
    twins = folder / "twins.parquet"
    partners = measured.partners(pl.read_parquet(twins)) if twins.is_file() else None
    model = record.model.digest if record.model else ""
    return Origin(record.datasets[0].run_key, folder, options, source, str(asked.get("method", "exact")), partners, model, stored.seal)


def measure(scan: Scan, origin: Origin, sizes: Sequence[int], target: float | None) -> None:
    """Nothing: measures what is not stored yet."""
    from biasscope.engine import circuits, interventions

    seed, whole = scan.run.options.seed, scan.dataset
    groups = sorted({e.group for e in whole.examples})
    number = dict(zip(groups, measured.clusters(groups, origin.partners or {}).tolist(), strict=True))
    choosing, reporting = circuits.halves(number, seed)
    ranked = origin.ranked(whole, choosing, scan.run.slug)
    if len(ranked) < 2:
        raise DataError(f"{origin.folder} ranks {len(ranked)} heads and MLPs; a circuit needs two or more")
    sizes = [k for k in sizes if k < len(ranked)]
    if not sizes:
        raise UsageError(f"--sizes: the run has {len(ranked)} heads and MLPs; give a smaller size")
    scan.journal.set("circuit", {"sites": len(ranked), "sizes": sizes, "ranked": [str(s) for s in ranked[: max(sizes)]]})
    here, names = _half(scan, reporting), []
    forest = here.forest(twins=origin.source == "corrupt")
    sites = interventions.sites(scan.run.lm, ("z", "mlp_out"))
    source = here.source(origin.source, forest, sites)
    names += here.measure(circuits.units(scan.run.lm, forest, circuits.points(ranked, sizes, seed), source, scan.batch), "sets of sites")
    if target is not None:
        small = _minimal(scan, origin, choosing, ranked, target)
        point = circuits.Point("minimal", frozenset(ranked) - set(small))
        names += here.measure(circuits.units(scan.run.lm, forest, [point], source, scan.batch), "minimal set", prefix="minimal-")
        scan.journal.set("minimal", [str(site) for site in small])
    outside = sum(e.group not in reporting for e in whole.examples)
    dropped = forest.dropped + type(forest.dropped)({"its group chose the sites": outside})
    scan.close(forest.examples, names, dropped, forest.partly)


def _half(scan: Scan, groups: set[str]) -> Scan:
    """The scan over the examples of some groups; twins are still those of the whole dataset."""
    data = scan.dataset
    examples = tuple(e for e in data.examples if e.group in groups)
    return scan.beside(replace(data, examples=examples, whole=data.whole or data.examples))


def _minimal(scan: Scan, origin: Origin, choosing: set[str], ranked: list[Site], target: float) -> list[Site]:
    """A minimal set of sites that keeps the target, found on the half that chose the sites alone."""
    from biasscope.engine import circuits, faithfulness

    here = _half(scan, choosing)
    forest = here.forest(twins=origin.source == "corrupt")
    source = here.source(origin.source, forest, ranked, "choosing-")
    lm, shares = scan.run.lm, scan.dataset.share_of_men()
    none = circuits.Point(circuits.NONE, frozenset(ranked))
    base = here.measure(circuits.units(lm, forest, [none], source, scan.batch), None, prefix="choosing-none-")

    def keeps(sites: Sequence[Site]) -> float | None:
        name = hashlib.sha256(" ".join(map(str, sites)).encode()).hexdigest()[:12]
        point = circuits.Point(name, frozenset(ranked) - set(sites))
        names = here.measure(circuits.units(lm, forest, [point], source, scan.batch), None, prefix=f"choosing-{name}-")
        rows = pl.concat(here.journal.tables("effects", [*base, *names]))
        f = faithfulness.estimates_of(rows, shares, origin.partners)[name]
        scan.run.screen.note(f"minimal set: {len(sites)} {'site keeps' if len(sites) == 1 else 'sites keep'} {f:.2f}")
        return f

    small = circuits.greedy(ranked, keeps, target)
    if len(small) == len(ranked):
        raise DataError(f"no site can be left out: any {len(ranked) - 1} keep less than {target} on the half that chooses; lower --target")
    return small


def summary(scan: Scan) -> pl.DataFrame:
    """SUMMARY of the sets: f with intervals, areas, random sets, the minimal one."""
    from biasscope.engine import faithfulness

    effects, said = scan.table("effects").collect(), scan.journal.facts["circuit"]
    partners = measured.partners(scan.table("twins").collect()) if "twins" in scan.journal.facts["finished"]["units"] else None
    shares, seed = scan.dataset.share_of_men(), scan.run.options.seed
    with scan.run.phase("statistics"):
        sets = faithfulness.of_sets(effects, model=scan.run.slug, share_of_men=shares, partners=partners, seed=seed)
        areas = faithfulness.areas(effects, said["sites"], said["sizes"], share_of_men=shares, partners=partners, seed=seed)
        found = faithfulness.curve(sets, said["sizes"], areas)
        small = scan.journal.facts.get("minimal")
        if small:
            found = pl.concat([found, faithfulness.minimal(sets, "minimal", len(small))])
            scan.run.warn(f"{scan.dataset.name}: the minimal set is {', '.join(small)}")
    return found
