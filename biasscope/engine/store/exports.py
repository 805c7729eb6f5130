"""The original study's files at results/<model>/: its names and shapes, from the rows of SUMMARY.

`origins.json` beside them says which run and source each of them is from, because their shapes have no room
for it.
"""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.errors import DataError
from biasscope.engine.schemas import TOTAL
from biasscope.engine.store import locks
from biasscope.engine.store.files import safe_name, write_json
from biasscope.engine.types import COMPONENTS, Site

NUMBERS = {("target", "mean"): "baseline", ("target", "slope"): "slope"} | {
    ("stereoset", s): s for s in ("lms", "ss", "icat")
}
"""Metric and statistic → name in summary.json."""


def export(
    folder: Path,
    command: str,
    dataset: str,
    summary: pl.DataFrame,
    *,
    effects: pl.LazyFrame | None = None,
    key: str = "",
) -> list[Path]:
    """The files written for a finished `baseline`, `patch`, `ablate`, `probe`; effects: EFFECTS, if any."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _studied(command, summary)
    if command == "baseline":
        files = [_merge(folder / "summary.json", {dataset: _baseline(summary)})]
    elif command == "patch":
        files = _estimates(folder, dataset, rows, effects)
    elif command == "ablate":
        files = _ablations(folder, dataset, rows)
    else:
        files = _probes(folder, dataset, summary) if command == "probe" else []
    if files:
        origin = {"run": key, "command": command, "method": rows["method"][0], "source": rows["source"][0]}
        _merge(folder / "origins.json", {f"{dataset}/{file.name}": origin for file in files})
    return files


def _studied(command: str, summary: pl.DataFrame) -> pl.DataFrame:
    """The original study's rows: of `patch` the estimates over all positions, of `ablate` one source."""
    if command == "patch":
        # it knew no parts of heads and MLPs, and no edges
        known = pl.col("component").is_in([*COMPONENTS, TOTAL])
        everywhere = pl.col("position").fill_null("all") == "all"
        return summary.filter(known, everywhere, pl.col("method").ne_missing("exact"))
    if command == "ablate":
        # a control's rows follow
        summary = summary.filter(pl.col("dataset").eq_missing(summary["dataset"][0]))
        sources = summary["source"].unique().to_list()
        # what a race gave up was not measured whole; behind a head that is gone, effects are others
        summary = summary.filter(~pl.col("method").is_in(["raced", "conditional"]).fill_null(False))
        return summary.filter(pl.col("source").eq_missing("mean" if "mean" in sources else sources[0]))
    return summary


def _estimates(folder: Path, dataset: str, rows: pl.DataFrame, effects: pl.LazyFrame | None) -> list[Path]:
    """The estimates of every site; none where only exact effects, or single positions, were measured."""
    means = _sites(rows)
    if not means and effects is not None and rows.height:
        # SUMMARY has no mean of twins that go both ways, because it says nothing about the stereotype; the
        # original study's Δ is that mean
        means = _means(rows, effects)
    file = folder / f"attribution_patching_{safe_name(dataset)}.json"
    return [_write(file, {_hook(site): value for site, value in means})] if means else []


def _means(rows: pl.DataFrame, effects: pl.LazyFrame) -> list[tuple[Site, float | None]]:
    """Per site of these rows, the mean effect on `target` over the examples."""
    place = ["layer", "component", "head"]
    everywhere = pl.col("position").fill_null("all") == "all"
    whole = effects.filter(everywhere, pl.col("effect").is_finite(), metric="target")
    means = whole.group_by(place).agg(pl.col("effect").mean()).collect()
    sites = rows.filter(pl.col("component") != TOTAL).select(place).unique(maintain_order=True)
    each = sites.join(means, on=place, how="left", nulls_equal=True, maintain_order="left")
    return [(Site(*row[:3]), _number(row[3])) for row in each.rows()]


def _ablations(folder: Path, dataset: str, rows: pl.DataFrame) -> list[Path]:
    """The mean effects by head and by MLP."""
    means = _sites(rows)
    heads = {f"{site.layer}_{site.head}": value for site, value in means if site.head is not None}
    mlps = {f"{site.layer}": value for site, value in means if site.component == "mlp_out"}
    files = {"head": heads, "mlp": mlps}
    return [
        _write(folder / f"{kind}_ablations_{safe_name(dataset)}.json", effects)
        for kind, effects in files.items()
        if effects
    ]


def _probes(folder: Path, dataset: str, summary: pl.DataFrame) -> list[Path]:
    """Row of the residual stream (or layer) → accuracy and AUC, and the best of them in the summary."""
    rows = summary.filter(pl.col("method") == "probe", pl.col("statistic").is_in(["accuracy", "auc"]))
    layers: dict[str, dict[str, float | None]] = {}
    for row in rows.iter_rows(named=True):
        layers.setdefault(str(row["layer"]), {})[row["statistic"]] = _number(row["estimate"])
    best = max(layers, key=lambda layer: layers[layer]["accuracy"] or 0.0)
    file = _write(folder / f"linear_probing_{safe_name(dataset)}.json", layers)
    entry = {dataset: {"best_layer": float(best), **layers[best]}}
    return [file, _merge(folder / "linear_probing_summary.json", entry)]


def _write(file: Path, value: dict[str, Any]) -> Path:
    write_json(file, value)
    return file


def _merge(file: Path, entries: dict[str, Any]) -> Path:
    """A file of which only these entries are replaced."""
    with locks.exclusive(file.with_name(f".{file.name}.lock")):
        try:
            merged = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except ValueError as error:
            raise DataError(f"{file} is not JSON ({error}); move it away and run again") from error
        return _write(file, merged | entries)


def _baseline(summary: pl.DataFrame) -> dict[str, float | None]:
    """The clean model's numbers over all examples, by the original study's names."""
    numbers: dict[str, float | None] = {}
    for row in summary.iter_rows(named=True):
        name = NUMBERS.get((row["metric"], row["statistic"]))
        if name and row["subset"] == "all":
            numbers[name] = _number(row["estimate"])
    return numbers


def _sites(summary: pl.DataFrame) -> list[tuple[Site, float | None]]:
    """Per site, the mean effect on `target`, in the summary's order."""
    rows = summary.filter(pl.col("component") != TOTAL, metric="target", statistic="mean", subset="all")
    each = rows.select("layer", "component", "head", "estimate").rows()
    return [(Site(*row[:3]), _number(row[3])) for row in each]


def _hook(site: Site) -> str:
    return site.hook if site.head is None else f"{site.hook}.{site.head}"


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
