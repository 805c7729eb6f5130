"""The original study's files at results/<model>/: its names and shapes, from the rows of SUMMARY."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from biasscope.engine.errors import DataError
from biasscope.engine.runs import safe_name
from biasscope.engine.store import write_json
from biasscope.engine.types import TOTAL, Site

NUMBERS = {("target", "mean"): "baseline", ("target", "slope"): "slope"} | {("stereoset", s): s for s in ("lms", "ss", "icat")}
"""Metric and statistic → name in summary.json."""


def export(folder: Path, command: str, dataset: str, summary: pl.DataFrame) -> list[Path]:
    """The files written for a finished `baseline`, `patch`, `ablate` or `probe`."""
    folder.mkdir(parents=True, exist_ok=True)
    if command == "baseline":
        return [_merge(folder / "summary.json", dataset, _baseline(summary))]
    name = safe_name(dataset)
    if command == "patch":
        # the original study had estimates alone; under twins that go both ways a mean is not read, and its file keeps what it had
        means = _sites(summary.filter(pl.col("method").ne_missing("exact"), pl.col("position").fill_null("all") == "all"))
        return [_write(folder / f"attribution_patching_{name}.json", {_hook(site): value for site, value in means})] if means else []
    if command == "ablate":
        summary = summary.filter(pl.col("dataset").eq_missing(summary["dataset"][0]))  # a control's rows follow
        sources = summary["source"].unique().to_list()
        means = _sites(summary.filter(pl.col("source").eq_missing("mean" if "mean" in sources else sources[0])))
        heads = {f"{site.layer}_{site.head}": value for site, value in means if site.head is not None}
        mlps = {f"{site.layer}": value for site, value in means if site.component == "mlp_out"}
        return [_write(folder / f"{kind}_ablations_{name}.json", found) for kind, found in (("head", heads), ("mlp", mlps)) if found]
    return _probes(folder, dataset, summary) if command == "probe" else []


def _probes(folder: Path, dataset: str, summary: pl.DataFrame) -> list[Path]:
    """Row of the residual stream (or layer) → accuracy and AUC, and the best of them in the summary of all datasets."""
    rows = summary.filter(pl.col("method") == "probe", pl.col("statistic").is_in(["accuracy", "auc"]))
    layers: dict[str, dict[str, float | None]] = {}
    for row in rows.iter_rows(named=True):
        layers.setdefault(str(row["layer"]), {})[row["statistic"]] = _number(row["estimate"])
    best = max(layers, key=lambda layer: layers[layer]["accuracy"] or 0.0)
    one = _write(folder / f"linear_probing_{safe_name(dataset)}.json", layers)
    return [one, _merge(folder / "linear_probing_summary.json", dataset, {"best_layer": float(best), **layers[best]})]


def _write(file: Path, value: dict[str, Any]) -> Path:
    write_json(file, value)
    return file


def _merge(file: Path, dataset: str, numbers: dict[str, float | None]) -> Path:
    with FileLock(file.with_name(f".{file.name}.lock")):
        try:
            merged = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except ValueError as error:
            raise DataError(f"{file} is not JSON ({error}); move it away and run again") from error
        return _write(file, merged | {dataset: numbers})


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
    rows = summary.filter(
        pl.col("metric") == "target", pl.col("statistic") == "mean", pl.col("component") != TOTAL, pl.col("subset") == "all"
    )
    return [(Site(r["layer"], r["component"], r["head"]), _number(r["estimate"])) for r in rows.iter_rows(named=True)]


def _hook(site: Site) -> str:
    return site.hook if site.head is None else f"{site.hook}.{site.head}"


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
