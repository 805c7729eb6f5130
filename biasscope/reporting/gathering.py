"""Which runs a report shows: the finished ones under results/, one of each kind, by model and dataset."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from biasscope import repeating
from biasscope.engine import runs, stats, upkeep
from biasscope.engine.errors import DataError
from biasscope.engine.runs import RunRecord
from biasscope.engine.types import SUMMARY, TOTAL
from biasscope.reporting.nouns import Found, Gathered, Map, Part

MAPS = ("patch", "ablate")
SHOWN = (*MAPS, "baseline", "probe", "circuit")
KIND = ("method", "source", "direction", "steps", "positions", "components", "given", "control", "task", "negatives", "site", "position")
"""Parameters that make another kind of measurement, not a smaller one of the same kind."""
PREFERRED = ("exact corrupt", "exact mean", "exact resample", "exact zero", "exact clean", "attribution corrupt", "attribution mean")
"""Which map of a dataset stands first among measured and among estimated ones."""


def gather(output_dir: Path, wanted: Sequence[str], model: str | None, cache: Path | None = None) -> Gathered:
    """The named runs, all of them; or of those under `output_dir` one of each kind.

    DataError where there is none, DamagedError where a named one is not what was written.
    """
    named = {run.folder: run for run, _ in (upkeep.load(output_dir, name, cache) for name in wanted)}
    stored = list(named.values()) or upkeep.finished(output_dir, cache)
    called = upkeep.models(stored)
    whole = [_read(run, run.record, called[run.folder]) for run in stored if run.record and run.record.command in SHOWN]
    if others := set(named) - {found.folder for found in whole}:
        raise DataError(f"{others.pop()} is no run of {', '.join(SHOWN)}: a report does not show it; leave it out")
    shown = [found for found in whole if model is None or model in _names(found)]
    if not shown:
        which = f" of model '{model}' (there are: {', '.join(sorted({f.model for f in whole}))})" if model and whole else ""
        raise DataError(f"no finished run{which} under {output_dir}; `biasscope baseline` and `biasscope patch` make the first")
    parts: list[Part] = []
    left: list[tuple[Found, str]] = []
    for name, dataset in dict.fromkeys((f.model, f.dataset) for f in sorted(shown, key=lambda f: (_order(f.dataset), f.model))):
        more, rest = _parts(name, dataset, [f for f in shown if (f.model, f.dataset) == (name, dataset)], every=bool(wanted))
        parts, left = parts + more, left + rest
    unused = {run.folder for run, _ in left}
    used = [run for run in shown if run.folder not in unused]
    return Gathered(parts, used, left, [run for run in stored if run.record is None])


def _names(found: Found) -> tuple[str, ...]:
    """What --model may call the model of a run."""
    return found.model, runs.safe_name(found.model), found.record.model.name if found.record.model else ""


def _parts(model: str, dataset: str, found: Sequence[Found], *, every: bool) -> tuple[list[Part], list[tuple[Found, str]]]:
    """One part with one run of each kind, and the others with the reason; with `every`, each of those in a part of its own."""
    best, left = _one_of_each(found)
    part = _part(model, dataset, best)
    drawn = {m.run.key for m in (*(part.shown if every else part.maps), *part.along)}
    left += [(f, "another run shows the same sites and source") for f in best if f.record.command in MAPS and f.key not in drawn]
    if not every:
        return [part], left
    own = [replace(run, label=f"{model} (run {run.key})") for run, _ in left]
    return [part, *(_part(run.model, dataset, [run]) for run in own)], []


def _order(dataset: str) -> tuple[int, str]:
    return (("winogender", "occupations").index(dataset) if dataset in ("winogender", "occupations") else 2, dataset)


def _read(run: upkeep.Stored, record: RunRecord, model: str) -> Found:
    trusted = run.folder / "reliability.parquet"
    # columns that an older version did not have are null
    summary = pl.concat([SUMMARY.to_frame(), pl.read_parquet(run.folder / "summary.parquet")], how="diagonal")
    summary = summary.with_columns(model=pl.lit(model))
    reliability = pl.read_parquet(trusted) if trusted.is_file() else None
    return Found(run.folder, repeating.renewed(record, document=True), summary, reliability, run.seal)


def _one_of_each(found: Sequence[Found]) -> tuple[list[Found], list[tuple[Found, str]]]:
    """Of each kind the run with the most sites, then examples, then the newest; the others with the reason."""
    best: dict[str, Found] = {}
    order = sorted(found, key=lambda f: (f.summary.height, f.record.datasets[0].used, f.record.created, f.key), reverse=True)
    left = []
    for run in order:
        first = best.setdefault(_kind(run), run)
        if first is not run:
            left.append((run, f"{first.key} is of the same kind, larger or newer"))
    return list(best.values()), left


def _kind(found: Found) -> str:
    params = {name: found.record.params.get(name) or None for name in KIND}
    if found.record.command == "circuit":
        params["source"] = found.summary["source"].drop_nulls().to_list()[0]
    if found.record.command in MAPS and params["positions"] in ("all", None):
        params["components"] = None  # fewer components of the same map
    return json.dumps([found.record.command, found.model, found.dataset, params], sort_keys=True, default=str)


def _part(model: str, dataset: str, found: Sequence[Found]) -> Part:
    maps = [m for run in found if run.record.command in MAPS for m in _maps(run)]
    order = {name: i for i, name in enumerate(PREFERRED)}

    def place(m: Map) -> tuple[bool, bool, bool, int, bool, bool, int]:
        first = order.get(f"{m.method} {m.source}", len(order))
        steps, costs = bool(m.run.record.params.get("steps")), m.ranked["specificity"].is_null().all()
        return m.given, m.estimated, m.partial, first, steps, costs, -m.ranked.height

    maps.sort(key=place)
    seen: dict[str, Map] = {}
    for m in maps:
        if _split(m):
            continue
        seen.setdefault(m.name, m)
    of = {name: [run for run in found if run.record.command == name] for name in ("baseline", "probe", "circuit")}
    asked = repeating.relative(str(found[0].record.params.get("model", model)))
    return Part(
        model,
        asked,
        dataset,
        next(iter(of["baseline"]), None),
        list(seen.values()),
        [m for m in maps if _split(m)],
        of["probe"],
        of["circuit"],
    )


def _split(found: Map) -> bool:
    return found.ranked["position"].n_unique() > 1


def _maps(run: Found) -> list[Map]:
    own = run.summary.filter(pl.col("dataset") == run.summary["dataset"][0])
    made = []
    for rows in own.partition_by("method", "source", maintain_order=True):
        ranked = stats.ranking(rows).filter(pl.col("component") != TOTAL, (pl.col("component") != "z") | pl.col("head").is_not_null())
        tested = ranked["p_family"].is_not_null().any() or rows["method"][0] == own["method"][0]
        if ranked.height and tested:  # the exact effects of --calibrate are no map
            made.append(Map(run, rows["method"][0], rows["source"][0], rows, ranked))
    return made
