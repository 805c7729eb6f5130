"""What each command must find, and miss, on the planted models: hand-worked numbers against SUMMARY.

Truth is stated per statistic and source: a linear head has no shift under mean ablation; two heads that do
the same thing are each missed alone; a head that an MLP undoes to first order is missed by gradients. Where a
method is known to fail, it must be seen to fail.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from biasscope.engine import schemas
from biasscope.engine.data import datasets
from biasscope.engine.experiments.ablate import ablate
from biasscope.engine.experiments.patch import patch
from biasscope.engine.model import planted
from biasscope.engine.schemas import TOTAL
from biasscope.engine.settings import SILENT, Held, Measure, Voice
from biasscope.engine.statistics import comparison
from biasscope.engine.statistics.cells import partners, sites_of, standard
from biasscope.engine.statistics.summary import ranking
from biasscope.engine.store.runs import Result
from biasscope.engine.types import FINAL, Site

EXACT = 1e-4
"""Largest difference between a found and a hand-worked number, nats."""
CARRIERS = {"single": ("first",), "masked": ("first",)} | dict.fromkeys(
    ("redundant", "backup", "cancelling"), ("first", "second")
)
"""The roles that carry the stereotype."""
BEHIND = ("first", "second", "decoy", "factual")
"""The roles of a conditional scan."""


@dataclass(frozen=True)
class How:
    """How a run measured: what decides which truth holds."""

    kind: str
    method: str
    source: str
    steps: int | None = None
    given: bool = False
    """Whether the first head was ablated all the while."""

    def __str__(self) -> str:
        exact = "patch" if self.source == "corrupt" else "ablate"
        name = "estimate" if self.method == "attribution" else exact
        steps, given = f" ×{self.steps}" if self.steps else "", " given" if self.given else ""
        return f"{name} {self.source}{steps}{given}"


@dataclass(frozen=True)
class Finding:
    """One claim about one run, and whether it holds."""

    model: str
    how: str
    """`ablate` or `patch` (exact) or `estimate`, the source, ×steps, whether the first head was ablated."""
    about: str
    role: str
    statistic: str
    worked: float | None
    """The hand-worked number; None where the claim is about a ranking."""
    found: float | None
    auroc: float | None
    """Of |statistic|, the carriers against all other sites."""
    verdict: str
    """`found`; `missed`, as it must be; `alone`: an effect of 0 where there is none; `holds`; `BROKEN`."""
    holds: bool


def verify(limit: int = 120, *, voice: Voice = SILENT) -> list[Finding]:
    """The findings of every run on every planted model; what the runs say is not heard."""
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="biasscope-verify-") as folder:
        for kind in voice.track(list(planted.KINDS), "planted models"):
            findings += of_kind(kind, limit, Path(folder))
    return findings


def of_kind(kind: str, limit: int, folder: Path) -> list[Finding]:
    """The findings of every run on one planted model, which is loaded once."""
    from biasscope.engine.model import exactness, loading

    lm = exactness.check_packing(loading.load(f"planted:{kind}", device="cpu", cache_dir=folder / "cache"))
    places: dict[str, Any] = {"cache_dir": folder / "cache", "output_dir": folder / kind}
    o = Measure(lm.name, ["occupations"], limit, device="cpu", held=Held(lm), assess=False, **places)
    sites = "z,mlp_out"
    results = [ablate(o, source="all", control="definitional" if kind == "single" else None)]
    results += [
        patch(o, method="attribution", source=source, components=sites)
        for source in ("zero", "mean", "corrupt")
    ]
    results.append(patch(o, method="exact", components=sites))
    if kind == "masked":
        results.append(patch(o, method="attribution", steps=4, components=sites))
    if kind == "backup":
        results.append(ablate(o, source="zero", given="1.2"))
    findings = [finding for result in results for finding in _of_result(kind, result)]
    return [*findings, *_between(kind, o)]


def _between(kind: str, o: Measure) -> Iterator[Finding]:
    """Between the sites: planted edges come first; what a single ablation misses shows behind the other."""
    if kind == "single":
        (part,) = patch(o, method="edges").record.datasets
        edges = pl.read_parquet(Path(part.path) / "edges.parquet")
        head = planted.SITES["first"]
        writes = (pl.col("up_layer") == head.layer) & (pl.col("up_head") == head.head)
        reads = (pl.col("down_layer") == head.layer) & (pl.col("down_head") == head.head)
        known = (writes & (pl.col("down_component") == FINAL)) | (
            reads & (pl.col("down_component") == "v") & (pl.col("up_component") == "resid_pre")
        )
        real = edges.select(known.fill_null(value=False)).to_series().to_numpy()
        area = float(roc_auc_score(real, edges["estimate"].abs().to_numpy()))
        how = How(kind, "attribution", "corrupt")
        found = float(edges.filter(known)["estimate"].abs().min())  # type: ignore[arg-type]
        yield replace(_check(how, "2 edges", "edges", "slope", found, area == 1.0), auroc=area)
    elif kind in ("redundant", "backup"):
        heads = ",".join(f"{planted.SITES[r].layer}.{planted.SITES[r].head}" for r in BEHIND)
        result = ablate(o, source="zero", heads=heads, conditional=True, rounds=1)
        table = pl.read_parquet(Path(result.record.datasets[0].path) / "conditional.parquet")
        first, second = planted.SITES["first"], planted.SITES["second"]
        row = table.filter(layer=second.layer, head=second.head, gone_layer=first.layer, gone_head=first.head)
        change = row["estimate"].item() if row.height else None
        holds = change is not None and abs(change) > planted.A / 4 and bool(row["star"].item())
        yield _check(How(kind, "exact", "zero", given=True), str(second), "behind", "change", change, holds)


def _of_result(kind: str, result: Result) -> Iterator[Finding]:
    """The findings of one run, source by source. PartialError where it lost values."""
    result.check()
    params, (summary,), (part,) = result.record.params, result.summaries, result.record.datasets
    groups = set(pl.read_parquet(Path(part.path) / "effects.parquet", columns=["group"])["group"])
    every = datasets.load("occupations", Path()).covariate or {}
    shares = {group: share for group, share in every.items() if group in groups}
    pairs = partners(pl.read_parquet(Path(part.path) / "twins.parquet")) if "twins" in part.tables else {}
    method, steps, given = params.get("method", "exact"), params.get("steps"), bool(params.get("given"))
    for (source, dataset), rows in summary.group_by("source", "dataset", maintain_order=True):
        how = How(kind, method, str(source), steps, given)
        if dataset == "definitional" or (source == "resample" and kind not in ("single", "graded")):
            continue
        yield from of_run(how, rows.filter(rows["component"] != TOTAL), pairs, shares)
        if params.get("control"):
            yield from of_control(how, rows, summary.filter(dataset="definitional", source=source))


def of_run(
    how: How, summary: pl.DataFrame, twins: Mapping[str, str], shares: Mapping[str, float]
) -> Iterator[Finding]:
    """The findings of a run; twins: occupation → partner, shares: → per cent of men, of the examples used."""
    if how.kind == "graded":
        yield from _graded(how, summary)
        return
    area = auroc(summary, [planted.SITES[role] for role in CARRIERS[how.kind]])
    for role in CARRIERS[how.kind]:
        worked = _slope(how, role, twins, shares)
        if worked is None and how.kind != "single":
            continue
        yield _number(how, summary, role, "slope", worked, area)
    if how.kind == "single":
        yield from _others(how, summary)
    if how.kind == "cancelling" and how.source == "zero":
        carried = planted.words().occupations
        t = np.array([planted.A * values["t"] for name, values in carried.items() if name in shares])
        area = auroc(summary, [planted.SITES["mixed"]], "mean")
        yield _number(how, summary, "mixed", "mean", float(-t.mean()), area)
        yield _number(how, summary, "mixed", "rms", float(np.sqrt((t**2).mean())), None)


def _slope(how: How, role: str, twins: Mapping[str, str], shares: Mapping[str, float]) -> float | None:
    """The hand-worked slope of a role's effect; None where it is not worked out."""
    carried = planted.words().occupations
    names = sorted(twins if how.source == "corrupt" else shares)
    effects = []
    for name in names:
        here = carried[name]
        effects.append(_effect(how, role, here, carried[twins[name]] if how.source == "corrupt" else here))
    if any(effect is None for effect in effects):
        return None
    return float(standard(np.array([shares[name] for name in names])) @ np.array(effects, float)) / len(names)


def _effect(how: How, role: str, here: Mapping[str, float], there: Mapping[str, float]) -> float | None:
    """The hand-worked effect, or what a first-order estimate must make of it."""
    if how.given:  # without the first head, the second acts
        return -planted.A * here["q"] if role == "second" and how.kind == "backup" else None
    if how.method == "attribution" and not how.steps:
        if how.kind in ("redundant", "masked"):  # saturated; undone to first order
            return 0.0
        if how.kind == "backup":  # gradients do not see that the second would step in
            replaced = there["q"] if how.source == "corrupt" else 0.0
            return planted.A * (replaced - here["q"]) if role == "first" else 0.0
    return planted.change(how.kind, role, how.source, here, there)


def _number(
    how: How, summary: pl.DataFrame, role: str, statistic: str, worked: float | None, area: float | None
) -> Finding:
    """A found number against the hand-worked one."""
    site = planted.SITES[role]
    estimate = _estimate(summary, site, statistic)
    right = estimate is not None and (worked is None or abs(estimate - worked) <= EXACT)
    wanted = "missed" if role in (*CARRIERS[how.kind], "mixed") else "alone"
    wanted = "found" if worked is None or abs(worked) > EXACT else wanted
    ranked = wanted != "found" or area is None or how.kind not in ("single", "masked") or area == 1.0
    holds = right and ranked
    verdict = wanted if holds else "BROKEN"
    return Finding(how.kind, str(how), str(site), role, statistic, worked, estimate, area, verdict, holds)


def _others(how: How, summary: pl.DataFrame) -> Iterator[Finding]:
    """In `single`: the MLP shifts the base rate and has no slope, the decoy touches competence alone."""
    yield _number(how, summary, "base", "slope", 0.0, None)
    yield _number(how, summary, "decoy", "slope", 0.0, None)
    if how.source in ("zero", "mean"):
        yield _number(how, summary, "base", "mean", -planted.C if how.source == "zero" else 0.0, None)
    costs = summary.filter(metric="competence", statistic="rms")
    if costs.height:
        roles = ("decoy", "first")
        decoy, bias = (_estimate(costs, planted.SITES[role], "rms", "competence") or 0.0 for role in roles)
        yield _check(how, str(planted.SITES["decoy"]), "decoy", "competence", decoy, decoy > bias)


def of_control(how: How, summary: pl.DataFrame, control: pl.DataFrame) -> Iterator[Finding]:
    """Specificity in `single`: near 1 for the bias head, near 0 for the decoy and the head with facts."""
    raw = comparison.raw_specificity(summary, control)
    for role, least, most in (("first", 0.8, 1.0), ("decoy", 0.0, 0.2), ("factual", 0.0, 0.2)):
        site = planted.SITES[role]
        value = raw.filter(component=site.component, layer=site.layer, head=site.head)["raw"].item()
        yield _check(how, str(site), role, "specificity", value, value is not None and least <= value <= most)


def _graded(how: How, summary: pl.DataFrame) -> Iterator[Finding]:
    """Ranking, order and false alarms where every planted head has its own strength."""
    strengths = planted.strengths()
    real = {site: s for site, (s, _) in strengths.items() if s}
    rows = ranking(summary).filter(schemas.single_sites(), pl.col("head").is_not_null())
    area = auroc(summary, list(real), heads=True)
    yield replace(_check(how, "planted", "planted", "slope", None, area >= 0.95), auroc=area)
    estimates = [_estimate(summary, site, "slope") for site in real]
    rho = float(abs(spearmanr(list(real.values()), estimates).statistic))
    yield replace(_check(how, "planted", "planted", "Spearman", rho, rho >= 0.95), auroc=area)
    null = rows.filter([site not in real for site in sites_of(rows)])
    alarms = null.filter(schemas.starred()).height
    yield _check(how, f"{null.height} nulls", "null", "alarms", float(alarms), alarms == 0)


def _check(how: How, about: str, role: str, statistic: str, value: float | None, holds: bool) -> Finding:
    verdict = "holds" if holds else "BROKEN"
    return Finding(how.kind, str(how), about, role, statistic, None, value, None, verdict, holds)


def _estimate(summary: pl.DataFrame, site: Site, statistic: str, metric: str = "target") -> float | None:
    rows = summary.filter(pl.col("head").eq_missing(site.head), component=site.component, layer=site.layer)
    rows = rows.filter(metric=metric, statistic=statistic, subset="all")
    return None if rows.is_empty() else rows["estimate"].item()


def auroc(
    summary: pl.DataFrame, sites: list[Site], statistic: str = "slope", *, heads: bool = False
) -> float:
    """The chance that a planted site's |statistic| beats another site's; a planned MLP is left out."""
    rows = summary.filter(
        pl.col("component").is_in(["z", "mlp_out"]), metric="target", statistic=statistic, subset="all"
    )
    rows = rows.filter(schemas.single_sites())
    rows = rows.filter(pl.col("head").is_not_null()) if heads else rows
    squash = planted.SITES["squash"]
    keys = sites_of(rows)
    kept = [i for i, key in enumerate(keys) if key != squash or squash in sites]
    sizes = rows["estimate"].abs().fill_null(0.0).to_numpy()[kept]
    return float(roc_auc_score([keys[i] in sites for i in kept], sizes))
