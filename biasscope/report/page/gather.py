"""Which runs a report shows, one of each kind, and its nouns: a finished run, a map, what is known."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.errors import DataError, PartialError
from biasscope.engine.schemas import TOTAL
from biasscope.engine.statistics import summary
from biasscope.engine.statistics.racing import METHOD
from biasscope.engine.store import reproduce
from biasscope.engine.store.cache import Stored, finished, models, whole
from biasscope.engine.store.runs import DatasetPart
from biasscope.engine.types import INSIDE, SOURCES
from biasscope.report.page.runs import MAPS, ReportRun, kind, read, size

ROW = 3
"""Maps in a row of figures."""
LISTED = 10
"""Sites in a list of the strongest."""
SHOWN = (*MAPS, "baseline", "probe", "circuit", "mitigate")
BETWEEN = frozenset({"edges", "conditional"})
"""Tables that runs between the sites have."""


@dataclass(frozen=True)
class Map:
    """The effects of one run, method and source: SUMMARY rows."""

    run: ReportRun
    method: str
    source: str
    statistic: str
    """The ranking statistic."""
    unit: str
    rows: pl.DataFrame
    ranked: pl.DataFrame
    """The rows that rank sites, single sites alone."""

    @property
    def name(self) -> str:
        """What was done, in words; what was not measured is called estimated."""
        how = "estimated by attribution" if self.estimated else self.method
        steps = self.run.record.params.get("steps")
        how += f" in {steps} steps" if steps else ""
        chosen = ", chosen sites" if self.partial else ""
        return f"{SOURCES[self.source].title}, {how}{self.given}{chosen}"

    @property
    def estimated(self) -> bool:
        """Whether the effects are gradient estimates."""
        return self.method == "attribution"

    @property
    def partial(self) -> bool:
        """Whether only chosen sites were measured."""
        chosen = any(self.run.record.params.get(name) for name in ("top", "heads", "layers"))
        return chosen or bool((self.run.summary["method"] == METHOD).any())  # a race may leave none out

    @property
    def given(self) -> str:
        """What was replaced all the while, see `RunRecord`."""
        return self.run.record.given

    @property
    def groups(self) -> int:
        """The most groups that a site has."""
        return max(self.ranked["clusters"].drop_nulls().to_list(), default=0)

    def sites(self, component: str) -> pl.DataFrame:
        """The ranked rows of heads (`z`) or of another component."""
        return self.ranked.filter(component=component)


@dataclass(frozen=True)
class Part:
    """All that is known of one model on one dataset."""

    model: str
    model_option: str
    """What --model was."""
    data_option: str
    """What --dataset was."""
    data: DatasetPart
    """What the runs were measured on."""
    baseline: ReportRun | None
    maps: list[Map]
    """Maps over all positions, measured ones first."""
    along: list[Map]
    """Maps split by position."""
    probes: list[ReportRun]
    circuits: list[ReportRun]
    mitigations: list[ReportRun] = field(default_factory=list)
    between: list[ReportRun] = field(default_factory=list)
    """Runs over edges or inside heads and MLPs, and scans with sites removed in turn."""
    edited: list[ReportRun] = field(default_factory=list)
    """Baselines of the model in which something was replaced all the while."""

    @property
    def name(self) -> str:
        """Model and dataset."""
        return f"{self.model}, {self.data.name}"

    @property
    def shown(self) -> list[Map]:
        """The maps drawn: no estimates where all of the same sites were measured; as many as a row has."""
        whole = {(m.source, m.given) for m in self.maps if not (m.estimated or m.partial)}
        return [m for m in self.maps if not m.estimated or (m.source, m.given) not in whole][:ROW]

    @property
    def first(self) -> Map | None:
        """The map of heads that stands on the first screen, of the clean model as what is said there."""
        return next((m for m in self.shown if m.sites("z").height and not m.given), None)

    def measured(self, estimates: Map) -> Map | None:
        """The shown, measured map of chosen sites that stands before these estimates; None if none does."""
        exact = (m for m in self.shown if estimates.estimated and not m.estimated)
        same = (estimates.source, estimates.given)
        return next((m for m in exact if (m.source, m.given) == same), None)


@dataclass(frozen=True)
class Gathered:
    """What was found under results/."""

    parts: list[Part]
    used: list[ReportRun]
    left: list[tuple[ReportRun, str]] = field(default_factory=list)
    """Runs that are not shown, with the reason."""
    damaged: list[Stored] = field(default_factory=list)
    """Corrupted runs."""

    def check(self) -> None:
        """Raise PartialError where runs could not be read."""
        if self.damaged:
            what = "; ".join(f"{run.folder} {run.damage}" for run in self.damaged[:5])
            what = f"missing in the report, {len(self.damaged)} in all: {what}"
            raise PartialError(f"{what}; rerun the commands that made them")


def gather(output_dir: Path, wanted: Sequence[str], model: str | None, cache: Path | None = None) -> Gathered:
    """The named runs, all of them; or of those under `output_dir` one of each kind.

    DataError where there is none, DamagedError where a named one is corrupted.
    """
    named = {run.folder: run for run, _ in (whole(output_dir, name, cache) for name in wanted)}
    stored = list(named.values()) or finished(output_dir, cache)
    called = models(stored)
    found = [(run, run.record) for run in stored if run.record and run.record.command in SHOWN]
    every = [read(run, record, called[run.folder]) for run, record in found]
    done, stopped = ([run for run in every if run.record.complete == is_done] for is_done in (True, False))
    for other in set(named) - {run.folder for run in done}:
        raise DataError(f"{other} is no run of {', '.join(SHOWN)}: a report does not show it; leave it out")
    same = {run.model for run in done if model is None or model in run.names}
    shown = [run for run in done if run.model in same]
    if not shown:
        there = ", ".join(sorted({run.model for run in done}))
        which = f" of model '{model}' (there are: {there})" if model and done else ""
        raise DataError(f"no finished run{which} under {output_dir}; `biasscope baseline` makes the first")
    together = itertools.groupby(sorted(shown, key=_place), _place)
    chosen = [_parts(list(runs), every=bool(wanted)) for _, runs in together]
    parts, left = [part for more, _ in chosen for part in more], [each for _, rest in chosen for each in rest]
    left += [(run, "it was stopped; the same command goes on") for run in stopped if run.model in same]
    used = [run for run in shown if run.folder not in {other.folder for other, _ in left}]
    return Gathered(parts, used, left, [run for run in stored if run.record is None])


def named(output_dir: Path, wanted: Sequence[str], cache: Path | None = None) -> list[ReportRun]:
    """The runs of these names, in their order. UsageError: there is none; DamagedError: it is corrupted."""
    loaded = {
        run.folder: (run, record) for run, record in (whole(output_dir, name, cache) for name in wanted)
    }
    called = models([run for run, _ in loaded.values()])
    return [read(run, record, called[folder]) for folder, (run, record) in loaded.items()]


def _parts(runs: Sequence[ReportRun], *, every: bool) -> tuple[list[Part], list[tuple[ReportRun, str]]]:
    """One part with one run of each kind, and the rest with the reason; `every`: in parts of their own."""
    largest: dict[str, ReportRun] = {}
    left = []
    for run in sorted(runs, key=size, reverse=True):
        first = largest.setdefault(kind(run), run)
        if first is not run:
            left.append((run, f"{first.key} is of the same kind, larger or newer"))
    whole = part(list(largest.values()))
    drawn = {m.run.key for m in (*(whole.shown if every else whole.maps), *whole.along)}
    drawn |= {run.key for run in whole.between}
    hidden = [run for run in largest.values() if run.record.command in MAPS and run.key not in drawn]
    left += [(run, "another run shows the same sites and source") for run in hidden]
    if not every:
        return [whole], left
    own = [replace(run, label=f"{run.model} (run {run.key})") for run, _ in left]
    return [whole, *(part([run]) for run in own)], []


def _place(run: ReportRun) -> tuple[int, str, str]:
    """Where the run's model and dataset stand in the report."""
    first = ("winogender", "occupations")
    return first.index(run.data.name) if run.data.name in first else len(first), run.data.name, run.model


def part(runs: Sequence[ReportRun]) -> Part:
    """What these runs of one model on one dataset, no two of a kind, say together."""

    def place(m: Map) -> tuple[bool, bool, bool, int, bool, bool, int]:
        steps, costs = bool(m.run.record.params.get("steps")), m.ranked["specificity"].is_null().all()
        first = list(SOURCES).index(m.source)
        return bool(m.given), m.estimated, m.partial, first, steps, costs, -m.ranked.height

    maps = sorted((m for run in runs if run.record.command in MAPS for m in _maps(run)), key=place)
    whole: dict[str, Map] = {}
    for m in maps:
        if not _split(m):
            whole.setdefault(m.name, m)
    of = {name: [run for run in runs if run.record.command == name] for name in SHOWN}
    return Part(
        model=runs[0].model,
        model_option=reproduce.relative(str(runs[0].record.params.get("model", runs[0].model))),
        data_option=reproduce.relative(reproduce.dataset(runs[0].record)),
        data=runs[0].data,
        baseline=next((run for run in of["baseline"] if not run.record.given), None),
        maps=list(whole.values()),
        along=[m for m in maps if _split(m)],
        probes=sorted(of["probe"], key=lambda run: bool(run.record.given)),
        circuits=of["circuit"],
        mitigations=of["mitigate"],
        between=[run for name in MAPS for run in of[name] if _between(run)],
        edited=[run for run in of["baseline"] if run.record.given],
    )


def _between(run: ReportRun) -> bool:
    components = str(run.record.params.get("components") or "z").split(",")
    return bool(BETWEEN & run.data.tables.keys()) or set(components) <= INSIDE.keys()


def _split(site_map: Map) -> bool:
    return site_map.ranked["position"].n_unique() > 1


def _maps(run: ReportRun) -> list[Map]:
    own = run.summary.filter(dataset=run.summary["dataset"][0])
    maps = []
    for rows in own.partition_by("method", "source", maintain_order=True):
        ranked = summary.ranking(rows).filter(pl.col("component") != TOTAL, schemas.single_sites())
        if rows["method"][0] in ("edges", "conditional") or set(ranked["component"]) <= INSIDE.keys():
            continue
        tested = ranked["p_family"].is_not_null().any() or rows["method"][0] == own["method"][0]
        if ranked.height and tested:  # the exact effects of --calibrate are no map
            method, source, statistic, unit = ranked.select("method", "source", "statistic", "unit").row(0)
            maps.append(Map(run, method, source, statistic, unit, rows, ranked))
    return maps
