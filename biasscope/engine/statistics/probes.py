"""Aggregates of probes: accuracy, AUC, log-loss, selectivity per layer over groups, against shuffles."""

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from biasscope.engine.statistics.cells import Cells
from biasscope.engine.statistics.inference import estimates
from biasscope.engine.statistics.inference.resampling import Array
from biasscope.engine.statistics.summary import table

METHODS = {"grouped": "probe", "bag": "bag of tokens", "within": "within groups", "control": "control"}
"""Probe in PREDICTIONS → method in SUMMARY."""
STATISTICS = ("accuracy", "balanced_accuracy", "auc", "log_loss")
ORDER = ("probe", "bag of tokens", "chance", "shuffled", "within groups", "control")


def summarise(
    predictions: pl.DataFrame,
    bands: pl.DataFrame,
    *,
    labels: Mapping[str, str],
    place: Mapping[str, str],
    seed: int = 0,
) -> pl.DataFrame:
    """SUMMARY per layer (null: the bag of tokens), metric = the task: means over inputs, whole groups drawn.

    Balanced accuracy and AUC are means of pseudo-values (for AUC: placements, so that the variance over
    groups is Obuchowski's 1997). Method `shuffled`: median and 5 to 95 % of the accuracies under shuffled
    labels. `chance`: the more frequent label, an AUC of ½, the entropy of the labels. `selectivity` =
    accuracy within groups − that of the control. `labels`: model, dataset and metric (the task); `place`:
    component and position, of every row.
    """
    base = {"subset": "all", "unit": "share", **labels}
    parts: list[pl.DataFrame] = []
    for probe, method in METHODS.items():
        rows = predictions.filter(pl.col("probe") == probe)
        if rows.is_empty():
            continue
        for statistic, values in _values(rows).items():
            columns = estimates.mean(values[1], seed, None)
            if statistic != "log_loss":
                columns |= {end: np.clip(columns[end], 0.0, 1.0) for end in ("ci_low", "ci_high")}
            label = {**base, "method": method, "statistic": statistic, "unit": _unit(statistic)}
            parts.append(table(_sites(values[0], place), columns, label))
    both = predictions.filter(pl.col("probe").is_in(["within", "control"]))
    if both.height:
        layers, cells = _selectivity(both)
        columns = estimates.mean(cells, seed, None)
        label = {**base, "method": "within groups", "statistic": "selectivity"}
        parts.append(table(_sites(layers, place), columns, label))
    parts += [_shuffled(bands, base, place), _chance(predictions.filter(pl.col("probe") == "grouped"), base)]
    whole = pl.concat(parts)
    order = pl.col("method").replace_strict(list(ORDER), range(len(ORDER)), return_dtype=pl.Int64)
    names = [*STATISTICS, "selectivity"]
    which = pl.col("statistic").replace_strict(names, range(len(names)), return_dtype=pl.Int64)
    return whole.sort(order, which, "layer", nulls_last=True)


def _sites(layers: list[int | None], place: Mapping[str, str]) -> pl.DataFrame:
    none = pl.Series("head", [None] * len(layers), dtype=pl.Int32)
    frame = pl.DataFrame({"layer": pl.Series(layers, dtype=pl.Int32)}).with_columns(none)
    return frame.with_columns(pl.lit(v).alias(k) for k, v in place.items())


def _values(rows: pl.DataFrame) -> dict[str, tuple[list[int | None], Cells]]:
    """Per statistic, the layers and the cells `group layer` of values whose mean it is."""
    layers = rows["layer"].unique(maintain_order=True).to_list()
    collected: dict[str, list[tuple[NDArray[np.int64], Array]]] = {name: [] for name in STATISTICS}
    groups = rows["group"].unique().sort()
    for layer in layers:
        part = rows.filter(pl.col("layer").eq_missing(layer)).sort("item_id")
        label, p = part["label"].to_numpy(), part["probability"].to_numpy()
        cluster = part["group"].cast(pl.Enum(groups)).to_physical().to_numpy().astype(np.int64)
        for name, value in zip(STATISTICS, values_of(label, p), strict=True):
            collected[name].append((cluster, value))
    return {name: (layers, _cells(columns, len(groups))) for name, columns in collected.items()}


def _cells(columns: list[tuple[NDArray[np.int64], Array]], groups: int) -> Cells:
    cluster = np.concatenate([c for c, _ in columns])
    site = np.concatenate([np.full(len(c), i) for i, (c, _) in enumerate(columns)])
    return Cells.of(cluster, site, np.concatenate([v for _, v in columns]), (groups, len(columns)))


def values_of(label: NDArray[np.int64], p: Array) -> Iterator[Array]:
    """Values per input whose means are accuracy, balanced accuracy, AUC (½ of one label) and log-loss."""
    right = ((p > 0.5) == (label == 1)).astype(float)
    yield right
    n, ones = len(label), int(label.sum())
    share = np.where(label == 1, ones, n - ones)
    yield right * n / (2 * share) if 0 < ones < n else right
    yield _placements(label == 1, p)
    likely = np.where(label == 1, p, 1 - p)
    yield -np.log(np.clip(likely, 1e-15, 1))


def _placements(positive: NDArray[np.bool_], p: Array) -> Array:
    """Pseudo-values of the AUC: AUC + n/n₁ (negatives below − AUC); of negatives n/n₀ (positives above …)."""
    n, ones = len(p), int(positive.sum())
    if not 0 < ones < n:
        return np.full(n, 0.5)
    ranks, own = rankdata(p), np.empty(n)
    own[positive], own[~positive] = rankdata(p[positive]), rankdata(p[~positive])
    below = np.where(positive, (ranks - own) / (n - ones), 1 - (ranks - own) / ones)
    area = below[positive].mean()
    return area + (below - area) * n / np.where(positive, ones, n - ones)


def _selectivity(both: pl.DataFrame) -> tuple[list[int | None], Cells]:
    """Layers, and the cells of "right on the labels" − "right on the coins", per input."""
    right = ((pl.col("probability") > 0.5) == (pl.col("label") == 1)).cast(pl.Float64)
    wide = (
        both.with_columns(right=right)
        .pivot("probe", index=["item_id", "group", "layer"], values="right")
        .drop_nulls()
    )
    wide = wide.sort("item_id")
    layers, groups = wide["layer"].unique().sort().to_list(), wide["group"].unique().sort()
    columns = []
    for layer in layers:
        part = wide.filter(layer=layer)
        cluster = part["group"].cast(pl.Enum(groups)).to_physical().to_numpy().astype(np.int64)
        columns.append((cluster, (part["within"] - part["control"]).to_numpy()))
    return layers, _cells(columns, len(groups))


def _shuffled(bands: pl.DataFrame, base: Mapping[str, str], place: Mapping[str, str]) -> pl.DataFrame:
    by_layer = bands.group_by("layer").agg(**_band("accuracy")).sort("layer")
    numbers = {name: by_layer[name].to_numpy().astype(float) for name in _band("accuracy")}
    label = {**base, "method": "shuffled", "statistic": "accuracy"}
    return table(_sites(by_layer["layer"].to_list(), place), numbers, label)


def _band(column: str) -> dict[str, pl.Expr]:
    """How many draws there are, their median, and 5 and 95 %."""
    ends = {"ci_low": 0.05, "estimate": 0.5, "ci_high": 0.95}
    band = {name: pl.col(column).quantile(level, "linear") for name, level in ends.items()}
    return {"n": pl.len().cast(pl.Int64), **band}


def against_random(summary: pl.DataFrame, source: str) -> pl.DataFrame:
    """SUMMARY of a source's rows, then one of source `random` each: the others' median and 5 to 95 %."""
    own = summary.filter(pl.col("source") == source)
    keys = [name for name in own.columns[: own.columns.index("n")] if name != "source"]
    others = summary.filter(pl.col("source") != source).group_by(keys, maintain_order=True)
    band = others.agg(**_band("estimate")).with_columns(source=pl.lit("random"))
    return pl.concat([own, pl.concat([own.clear(), band], how="diagonal")])


def _chance(rows: pl.DataFrame, base: Mapping[str, str]) -> pl.DataFrame:
    first = rows.filter(pl.col("layer") == rows["layer"].min())
    share = float(first["label"].mean() or 0.0)  # type: ignore[arg-type]
    entropy = -sum(p * np.log(p) for p in (share, 1 - share) if p > 0)
    numbers = {"accuracy": max(share, 1 - share), "balanced_accuracy": 0.5, "auc": 0.5, "log_loss": entropy}
    nothing = {"component": pl.String, "layer": pl.Int32, "head": pl.Int32, "position": pl.String}
    parts = []
    for name, value in numbers.items():
        sites = pl.DataFrame([[None] for _ in nothing], schema=nothing)
        label = {**base, "method": "chance", "statistic": name, "unit": _unit(name)}
        columns = {"n": np.array([float(first.height)]), "estimate": np.array([value])}
        parts.append(table(sites, columns, label))
    return pl.concat(parts)


def _unit(statistic: str) -> str:
    return "nats" if statistic == "log_loss" else "share"
