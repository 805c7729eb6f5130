"""Which runs of two models pair up on one data set, and what is different in the second of each pair."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from biasscope.engine.errors import DataError
from biasscope.engine.statistics import paired, paired_scores
from biasscope.engine.statistics.cells import partners
from biasscope.engine.statistics.paired import Matched
from biasscope.engine.statistics.paired_scores import Clean
from biasscope.engine.store.runs import EDITED, DatasetPart
from biasscope.engine.types import METRICS, Design
from biasscope.report.page.gather import MAPS, Part, ReportRun
from biasscope.report.page.runs import KIND

FREE = ("given", EDITED)
"""Parameters in which two baselines may differ: that is what they are compared for."""
FITTED = "where the edit was fitted to some of these groups, what `mitigate` found on the others counts"
"""What is to be known of a comparison with an edited model."""
MOST = 3
"""Models of which a report compares every two."""


@dataclass(frozen=True)
class Pair:
    """Two runs of one kind on one data set, and what is different in the second."""

    first: ReportRun
    second: ReportRun
    kind: str
    """`baseline`, `sites` (same shape) or `depth` (sites by tenths of the depth)."""
    matched: Matched
    differences: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def data(self) -> DatasetPart:
        """The data set."""
        return self.second.data

    @cached_property
    def names(self) -> tuple[str, str]:
        """What the two are called: models, with what was replaced, and the run where that is all the same."""
        runs = (self.first, self.second)
        named = [f"{run.model}{run.record.given}" for run in runs]
        if named[0] == named[1]:
            named = [f"{name} (run {run.key})" for name, run in zip(named, runs, strict=True)]
        if named[0] == named[1]:
            named = [f"{name}, {place}" for name, place in zip(named, ("first", "second"), strict=True)]
        return named[0], named[1]

    @property
    def headline(self) -> dict[str, Any] | None:
        """The row that answers whether the second model differs; None where none does."""
        return paired.headline(self.differences)


def pairs(
    runs: Sequence[ReportRun], *, metrics: Sequence[str] = tuple(METRICS)
) -> tuple[list[Pair], list[str]]:
    """Every two of the runs that measured the same of one data set, the earlier named first, and why others
    are none.
    """
    made, notes = [], []
    for first, second in itertools.combinations(runs, 2):
        if _kind(first) != _kind(second) or _same_sites(first, second):
            continue
        both = f"{first.key} and {second.key}"
        if first.data.digest != second.data.digest and None not in (first.record.model, second.record.model):
            notes.append(f"{both} are not compared: their {first.data.name} has other content")
            continue
        try:
            made.append(_baselines(first, second) if _clean(first) else _sites(first, second, metrics))
        except DataError as problem:
            notes.append(f"{both} are not compared: {problem}")
    return made, notes


def _clean(run: ReportRun) -> bool:
    return run.record.command == "baseline"


def _kind(run: ReportRun) -> str:
    """What two runs have to have in common."""
    free = FREE if _clean(run) else ()
    params = {name: run.record.params.get(name) or None for name in KIND if name not in free}
    command = "map" if run.record.command in MAPS else run.record.command
    params |= {"components": None, "positions": params["positions"] or ("all" if command == "map" else None)}
    method = params["method"] or ("exact" if run.record.command == "ablate" else None)
    return json.dumps([command, run.data.name, {**params, "method": method}], sort_keys=True, default=str)


def _same_sites(first: ReportRun, second: ReportRun) -> bool:
    """Whether two maps are of one model: then rankings are compared, and nothing is another model's."""
    models = [run.record.model and run.record.model.digest for run in (first, second)]
    return not _clean(first) and models[0] == models[1] and first.key != second.key


def _baselines(first: ReportRun, second: ReportRun) -> Pair:
    sides = [Clean.read(run.folder) for run in (first, second)]
    rows = paired_scores.differences(*sides, seed=second.record.seed)
    notes = (FITTED,) if any(run.record.params.get(EDITED) for run in (first, second)) else ()
    return Pair(first, second, "baseline", Matched.of(*(side.ids for side in sides)), rows, notes)


def _sites(first: ReportRun, second: ReportRun, metrics: Sequence[str]) -> Pair:
    runs = (first, second)
    effects = [pl.scan_parquet(run.folder / "effects.parquet") for run in runs]
    ids = (frame.select("example_id", "group").unique(maintain_order=True).collect() for frame in effects)
    matched = Matched.of(*ids)
    shapes = [(m.layers, m.heads) for run in runs if (m := run.record.model)]
    alike = shapes[0] == shapes[1]
    chosen = any(run.record.params.get(name) for run in runs for name in ("top", "adaptive"))
    if not alike:
        effects = [paired.by_depth(e, layers) for e, (layers, _) in zip(effects, shapes, strict=True)]
    notes = ["sites were chosen by these examples: no test of a family, so no star"] if chosen else []
    if not alike:
        notes.append("other numbers of layers or heads: mean effects of each tenth of the depth, per site")
    design = _design(second)
    slopes = any((run.summary["statistic"] == "slope").any() for run in runs)
    if slopes and design.covariate is None:
        raise DataError(
            "made by a version that did not store the covariate; run them again (nothing is measured)"
        )
    one, other = effects
    rows = paired.sites(one, other, design, metrics=metrics, tested=not chosen)
    return Pair(first, second, "sites" if alike else "depth", matched, rows, tuple(notes))


def _design(run: ReportRun) -> Design:
    """The covariate, clusters and seed of a run's statistics."""
    found = {name: run.folder / f"{name}.parquet" for name in ("covariates", "twins")}
    kept = {name: pl.read_parquet(file) for name, file in found.items() if file.is_file()}
    values = None
    if "covariates" in kept:
        first = kept["covariates"].filter(pl.col("key") == pl.col("key").first())
        values = dict(first.select("group", "value").iter_rows())
    together = partners(kept["twins"]) if "twins" in kept else {}
    return Design(values, together, run.record.seed)


def of_parts(parts: Sequence[Part]) -> list[Pair]:
    """The pairs that a report shows: clean models, and the first map of each that was measured alike.

    The earlier of two is the first: the one that was there before. Of more than MOST models each is compared
    with the earliest alone; a model in which something was replaced, with itself as it is.
    """
    shown = []
    for _, same in itertools.groupby(parts, key=lambda part: part.data.name):
        together = list(same)
        cleans = _in_order(part.baseline for part in together)
        maps = _in_order(next((m.run for m in part.shown), None) for part in together)
        groups = [[part.baseline, run] for part in together if part.baseline for run in part.edited]
        for runs in (cleans, maps):
            groups += [runs] if len(runs) <= MOST else [[runs[0], other] for other in runs[1:]]
        shown += [pair for group in groups for pair in pairs(group, metrics=("target",))[0]]
    return shown


def _in_order(runs: Iterable[ReportRun | None]) -> list[ReportRun]:
    return sorted((run for run in runs if run), key=lambda run: (run.record.created, run.key))
