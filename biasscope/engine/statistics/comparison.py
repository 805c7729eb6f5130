"""How far rankings of sites agree: of runs, sources, datasets, of models by depth, and with a control.

Specificity: whether a site carries the stereotype, breaks the model, or merely knows that fathers are male.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import hypergeom, spearmanr

from biasscope.engine import schemas
from biasscope.engine.schemas import SUMMARY, TOTAL
from biasscope.engine.statistics.cells import SITE
from biasscope.engine.statistics.summary import ranking
from biasscope.engine.types import EDGE, Site

DEPTHS = 10
"""Slices of relative depth in which models are compared."""


@dataclass(frozen=True)
class Ranking:
    """The sites of one run and source by their ranking statistic."""

    name: str
    """The run's key and, where it has several, the source."""
    model: str
    dataset: str
    layers: int
    rows: pl.DataFrame
    """Component, layer, head, position, estimate of single sites, and whether each is `starred`."""


def rankings(name: str, layers: int, summary: pl.DataFrame) -> list[Ranking]:
    """The rankings that a run's SUMMARY holds, one a method and source; a control's rows are left out."""
    # columns that an older version did not have are null
    whole = pl.concat([SUMMARY.to_frame(), summary], how="diagonal")
    own = ranking(whole.filter(pl.col("dataset") == summary["dataset"][0]))
    own = own.filter(pl.col("component") != TOTAL, schemas.single_sites())
    parts = own.partition_by("method", "source", maintain_order=True)
    methods = own["method"].n_unique() > 1
    rankings = []
    for part in parts:
        label = (
            name
            if len(parts) == 1
            else f"{name} {part['source'][0]}" + (f" {part['method'][0]}" if methods else "")
        )
        rows = part.select(*SITE, "estimate", starred=schemas.starred()).filter(
            pl.col("estimate").is_not_null()
        )
        rankings.append(Ranking(label, part["model"][0], part["dataset"][0], layers, rows))
    return rankings


def pairs(rankings: Sequence[Ranking], k: int) -> list[dict[str, Any]]:
    """Each two rankings of a model's sites by kind: Spearman's ρ, the shared top k, and what chance gives.

    `expected` = k² / m of m sites; `p_shared` = the chance of at least as many by chance (hypergeometric);
    `significant_both`: sites that have a star in both.
    """
    rows = []
    for first, second in itertools.combinations(rankings, 2):
        if (first.model, first.layers) != (second.model, second.layers):
            continue
        both = first.rows.join(second.rows, on=SITE, how="inner", nulls_equal=True, maintain_order="left")
        for (component,), part in both.group_by("component", maintain_order=True):
            rows.append(
                {"first": first.name, "second": second.name, "component": component, **_agreement(part, k)}
            )
    return rows


def _agreement(part: pl.DataFrame, k: int) -> dict[str, Any]:
    a, b, m = part["estimate"].to_numpy(), part["estimate_right"].to_numpy(), part.height
    rho = float(spearmanr(a, b).statistic) if m > 2 and np.ptp(a) > 0 and np.ptp(b) > 0 else None
    size = min(k, m)
    shared = len(
        set(np.argsort(-np.abs(a), kind="stable")[:size]) & set(np.argsort(-np.abs(b), kind="stable")[:size])
    )
    both = part.filter("starred", "starred_right").height
    chance = {"expected": size**2 / m, "p_shared": float(hypergeom(m, size, size).sf(shared - 1))}
    return {"sites": m, "spearman": rho, "top": size, "shared": shared, **chance, "significant_both": both}


def common(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """The sites with a star in every ranking of one model, their estimates; strongest on average first."""
    rows = []
    for (model, _), same in _by_model(rankings).items():
        if len(same) < 2:
            continue
        tables = [{_key(row): row for row in r.rows.iter_rows(named=True)} for r in same]
        for key in (key for key in tables[0] if all(key in table for table in tables)):
            each = [table[key] for table in tables]
            if all(row["starred"] for row in each):
                site = Site(*(each[0][name] for name in ("layer", "component", "head")))
                values = {r.name: row["estimate"] for r, row in zip(same, each, strict=True)}
                place = {name: each[0][name] for name in SITE}
                rows.append({"model": model, "site": str(site), **place, "estimates": values})
    return sorted(rows, key=lambda row: -float(np.mean(np.abs(list(row["estimates"].values())))))


def depths(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """Each two rankings of different models: ρ of the largest |effect| in ten slices of depth, per kind."""
    rows = []
    for first, second in itertools.combinations(rankings, 2):
        if (first.model, first.layers) == (second.model, second.layers):
            continue
        kinds = sorted(set(first.rows["component"]) & set(second.rows["component"]))
        for component in kinds:
            profiles = [_profile(r, component) for r in (first, second)]
            known = np.isfinite(profiles[0]) & np.isfinite(profiles[1])
            first_known, second_known = (profile[known] for profile in profiles)
            varied = known.sum() > 2 and np.ptp(first_known) > 0 and np.ptp(second_known) > 0
            rho = float(spearmanr(first_known, second_known).statistic) if varied else None
            names = {"first": first.name, "second": second.name, "component": component}
            rows.append({**names, "slices": int(known.sum()), "spearman": rho})
    return rows


def _profile(ranking: Ranking, component: str) -> np.ndarray:
    """The largest |effect| in each slice of relative depth, NaN where there is no layer."""
    rows = ranking.rows.filter(component=component)
    depth = rows["layer"].to_numpy() / max(1, ranking.layers - 1)
    slices = np.minimum((depth * DEPTHS).astype(int), DEPTHS - 1)
    size = rows["estimate"].abs().to_numpy()
    return np.array([size[slices == i].max() if (slices == i).any() else np.nan for i in range(DEPTHS)])


def _by_model(rankings: Sequence[Ranking]) -> Mapping[tuple[str, int], list[Ranking]]:
    by: dict[tuple[str, int], list[Ranking]] = {}
    for ranked in rankings:
        by.setdefault((ranked.model, ranked.layers), []).append(ranked)
    return by


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["component"], row["layer"], row["head"], row["position"]


def labels(rankings: Sequence[Ranking]) -> Iterator[str]:
    """What each ranking is of, for people."""
    for ranked in rankings:
        what = "edges" if (ranked.rows["component"] == EDGE).all() else "sites"
        yield f"{ranked.name}: {ranked.model}, {ranked.dataset}, {ranked.rows.height} {what}"


def specificity(summary: pl.DataFrame, control: pl.DataFrame) -> pl.DataFrame:
    """SUMMARY with `specificity` filled in for rows that rank sites, then the control's rms of target.

    |b| / (|b| + |c| + |f|) in [0, 1] of the effects on bias (the ranking statistic), competence and factual
    gender (target on `definitional`, from the SUMMARY `control` of the same sites and source). c and f are
    rms over examples, because means vanish under mean ablation; each of the three is divided by its median
    over the sites of the scan. Null where b has no star.
    """
    known = control.filter(
        pl.col("metric") == "target", pl.col("statistic") == "rms", pl.col("subset") == "all"
    )
    parts = raw_specificity(summary, control).with_columns(
        specific=pl.when(schemas.starred()).then(pl.col("raw"))
    )
    keys = ["dataset", "metric", "statistic", "subset", "source", *SITE]
    filled = summary.join(
        parts.select(*keys, "specific"), on=keys, how="left", nulls_equal=True, maintain_order="left"
    )
    filled = filled.with_columns(specificity=pl.col("specific")).drop("specific")
    return pl.concat([filled, known])


def raw_specificity(summary: pl.DataFrame, control: pl.DataFrame) -> pl.DataFrame:
    """The rows that rank sites with their specificity (`raw`), significant or not."""
    rms = pl.col("statistic") == "rms", pl.col("subset") == "all"
    cost = summary.filter(pl.col("metric") == "competence", *rms).select("source", *SITE, c="estimate")
    fact = control.filter(pl.col("metric") == "target", *rms).select("source", *SITE, f="estimate")
    rows = ranking(summary).with_columns(b=pl.col("estimate").abs())
    for column in (cost, fact):
        rows = rows.join(column, on=["source", *SITE], how="left", nulls_equal=True, maintain_order="left")
    b, c, f = (pl.col(name) / pl.col(name).median().over("source") for name in "bcf")
    return rows.with_columns(raw=b / (b + c + f)).with_columns(
        raw=pl.when(pl.col("raw").is_finite()).then(pl.col("raw"))
    )
