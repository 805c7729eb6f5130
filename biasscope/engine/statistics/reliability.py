"""How far a ranking of sites can be trusted: what it finds, what a random half repeats, what others say.

RELIABILITY rows, one per number and kind of site (or family); `quantity` is one of

- `detectable`, `detectable_family`: the smallest true effect found with power 0.8 at one site, and starred
  among all sites of the family, by simulation from the run's residuals (see `audit`); the median over the
  sites of the kind, null where no effect reaches 0.8;
- `false_alarms_symmetric`, `false_alarms_resampled`: the share of studies like this one, without any effect,
  in which a star appears (component `single`: heads and MLPs; `containing`: hook points that contain them;
  a component inside them is named itself);
  `family_sites`: members of that family, n: measured;
- `split_spearman`, `split_top10`: Spearman's ρ of the signed site estimates between two halves of the
  clusters and the share of the top 10 that both name, over 100 seeded splits: median, 5 % (`low`) and 95 %
  (`high`); null below 8 clusters; `split_top10_chance`: the share that two random rankings have in common;
- `agreement_spearman`, `agreement_top10`: the same two between this source and the source named by
  `against`, over the same clusters;
- `noise_floor`: in less than float32, the rms over layers and draws of the ranking statistic of passes in
  which nothing was replaced and the residual stream only rounded anew; low, high: 5 and 95 % of its size;
- `bootstrap_jaccard`: how far the same members of a family have a star when groups are drawn again (Jaccard
  over 100 draws: median, 5 and 95 %); `template_jaccard`: when a sentence frame that groups share is left
  out (over the n frames: median, least and most); `template_lost`: t of a starred site (`component` names it)
  without the frame in `against`, where that is below the critical |t| (`high`); null without any star;
- `calibration_…`: attribution against exact effects, see `calibration`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine import schemas
from biasscope.engine.schemas import RELIABILITY, TOTAL
from biasscope.engine.statistics import stability
from biasscope.engine.statistics.cells import (
    SITE,
    Family,
    Measured,
    alike,
    measured,
    numbered,
    sites_of,
    standard,
)
from biasscope.engine.statistics.inference import estimates
from biasscope.engine.statistics.inference.audit import MeanModel, Model, SlopeModel, audit
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS, Array
from biasscope.engine.statistics.stability import Quantity, labelled, shared_top, spearman
from biasscope.engine.statistics.summary import BIAS, estimated, estimates_of, parts, ranking, unit
from biasscope.engine.types import Design, Site


def assess(
    effects: pl.DataFrame | pl.LazyFrame,
    summary: pl.DataFrame,
    *,
    design: Design = Design(),
    beside: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """RELIABILITY of EFFECTS: of target's slope (if any) and mean, per dataset, source and kind of site.

    `summary`: the effects' SUMMARY, whose stars are meant.
    """
    rows: list[dict[str, Any]] = []
    for dataset, _, part in parts(effects):
        metric = next(m for m in BIAS if m in set(part.select(pl.col("metric").unique()).collect()["metric"]))
        site_effects = measured(part, metric, design, beside)
        own = summary.filter(dataset=dataset)
        same = own.row(0, named=True)
        label = {name: same[name] for name in ("model", "method", "dataset")} | {"metric": metric}
        needed = np.full((2, site_effects.sites.height), np.nan)
        for family in site_effects.families or ():
            kind = {"component": family.name, "heads": False}
            audited = _audited(site_effects, family, needed, design.seed)
            rows += labelled({**label, "statistic": site_effects.statistic, **kind}, audited)
        rows += _stable(part.filter(metric=metric), site_effects, own, design)
        for statistic in _ranking_statistics(site_effects):
            same, kinds = {**label, "statistic": statistic}, list(_kinds(site_effects))
            for kind, where in kinds:
                rows += labelled(same | kind, _of_kind(site_effects, where, statistic, needed, design.seed))
            values = pl.Series("estimate", estimates_of(site_effects, statistic)).fill_nan(None)
            ranked = site_effects.sites.with_columns(values)
            for (kind, where), (other, there) in itertools.combinations(kinds, 2):
                if {**kind, "source": None} == {**other, "source": None}:
                    agreement = _agreement(ranked.filter(where), ranked.filter(there))
                    rows += labelled({**same, **kind, "against": other["source"]}, agreement)
    return table(rows)


def _stable(
    effects: pl.LazyFrame, site_effects: Measured, summary: pl.DataFrame, design: Design
) -> Iterator[dict[str, Any]]:
    """Rows of which sites keep their star when groups are drawn again, and when a template is left out."""
    ranks, statistic = ranking(summary), site_effects.statistic
    stars = ranks.select("source", *SITE, star=schemas.starred())
    sites = site_effects.sites.join(
        stars, on=["source", *SITE], how="left", nulls_equal=True, maintain_order="left"
    )
    starred = sites["star"].fill_null(False).to_numpy()
    label = ranks.row(0, named=True) | {"source": None, "heads": False}
    cells, cluster, x = site_effects.over(statistic)
    left_out = dict(stability.without_templates(effects, site_effects, design.templates))
    for family, of in stability.of_sites(site_effects, starred, design.seed):
        low, middle, high = stability.again(cells, cluster, x, of, design.seed)
        numbers = [Quantity("bootstrap_jaccard", "share", stability.BOOTSTRAPS, middle, low, high)]
        if left_out and of.starred.any():
            shared = of.shared(np.stack(list(left_out.values())))
            ends = (float(np.quantile(shared, q)) for q in (0.5, 0, 1))
            numbers.append(Quantity("template_jaccard", "share", len(left_out), *ends))
        yield from labelled({**label, "component": family}, numbers)
        for template, t in left_out.items():
            for site in np.flatnonzero(of.lost(t)):
                name = _named(sites[int(site)], several=sites["source"].n_unique() > 1)
                number = Quantity("template_lost", "t", len(left_out), float(abs(t[site])), None, of.critical)
                yield from labelled({**label, "component": name, "against": template}, [number])


def _named(site: pl.DataFrame, *, several: bool) -> str:
    """A site, its position where that is not all of the prompt, and its source where there are several."""
    (of,), row = sites_of(site), site.row(0, named=True)
    where = [] if row["position"] == "all" else [row["position"]]
    return " ".join([str(of), *where, *([row["source"]] if several else [])])


def noise_floor(nothing: pl.DataFrame, *, model: str, method: str, design: Design = Design()) -> pl.DataFrame:
    """RELIABILITY of EFFECTS of `schemas.NOTHING`: how large an effect of nothing is in this precision."""
    each = pl.concat(estimated(rows, design) for rows in nothing.partition_by("source", maintain_order=True))
    size = each["estimate"].drop_nulls().abs().to_numpy()
    low, high = np.quantile(size, [0.05, 0.95]).tolist() if size.size else (None, None)
    floor = float(np.sqrt((size**2).mean())) if size.size else None
    label = each.select("dataset", "metric", "statistic").row(0, named=True) | {"component": "single"}
    number = Quantity("noise_floor", each["unit"][0], len(size), floor, low, high)
    return table(labelled(label | {"model": model, "method": method, "heads": False}, [number]))


def floor(reliability: pl.DataFrame) -> float | None:
    """The noise floor of a run; None where it has none."""
    values = reliability.filter(pl.col("quantity") == "noise_floor")["estimate"]
    return values[0] if values.len() else None


def _kinds(site_effects: Measured) -> Iterator[tuple[dict[str, Any], NDArray[np.bool_]]]:
    """Each source and kind of measured site, and its sites; heads and the whole `z` are two kinds."""
    kinds = site_effects.sites.select("source", "component", heads=pl.col("head").is_not_null())
    own = (site_effects.sites["measured"] & (site_effects.sites["component"] != TOTAL)).to_numpy()
    for kind in kinds.filter(own).unique(maintain_order=True).iter_rows(named=True):
        same = kinds.select(
            pl.all_horizontal(pl.col(name).eq_missing(pl.lit(value)) for name, value in kind.items())
        ).to_series()
        yield kind, same.to_numpy() & own


def _audited(site_effects: Measured, family: Family, needed: Array, seed: int) -> Iterator[Quantity]:
    """The numbers of a family; fills in `needed`, the effects found at each site alone and among all."""
    own, members = int((family.members & family.own).sum()), int(family.members.sum())
    yield Quantity("family_sites", "sites", own, float(members))
    model, sites = _modelled(site_effects, family, seed)
    heard = None if model is None else audit(model, seed)
    if heard is not None:
        needed[0, sites], needed[1, sites] = heard.alone, heard.family
    for name in ("symmetric", "resampled"):
        share = None if heard is None else getattr(heard, name)
        yield Quantity(f"false_alarms_{name}", "share", heard.studies if heard else 0, share)


def _modelled(site_effects: Measured, family: Family, seed: int) -> tuple[Model | None, NDArray[np.intp]]:
    """What studies are drawn from, and its sites: those that vary, in the groups of most; None: no test."""
    cells, labels, x = site_effects.over(site_effects.statistic)
    if x is None:
        cells, labels = cells.merged(labels), np.arange(labels.max() + 1)
    varied = estimates.varying(cells, x is not None)
    shared = [(rows, sites[(varied & family.members)[sites]]) for rows, sites in alike(cells, MIN_CLUSTERS)]
    if not any(sites.size for _, sites in shared):
        return None, np.empty(0, np.intp)
    rows, sites = max(shared, key=lambda pair: pair[1].size)
    part = np.ix_(rows, sites)
    if x is not None:
        return SlopeModel.of(standard(x)[rows], cells.means()[part], numbered(labels[rows]), seed), sites
    return MeanModel.of(cells.total[part], cells.n[part], seed), sites


def table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The rows as RELIABILITY; what is not finite becomes null."""
    whole = pl.DataFrame([{name: row.get(name) for name in RELIABILITY} for row in rows], schema=RELIABILITY)
    floats = [name for name, kind in RELIABILITY.items() if kind == pl.Float64]
    return whole.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats
    )


def _ranking_statistics(site_effects: Measured) -> list[str]:
    """slope where it exists, and mean, which under a twin is read only where there is no slope."""
    if site_effects.statistic == "mean":
        return ["mean"]
    return ["slope"] if (site_effects.sites["component"] == TOTAL).any() else ["slope", "mean"]


def _of_kind(
    site_effects: Measured, where: NDArray[np.bool_], statistic: str, needed: Array, seed: int
) -> Iterator[Quantity]:
    """What could be detected (of the ranking statistic alone), and what a half of the clusters repeats."""
    for quantity, sites in zip(("detectable", "detectable_family"), needed[:, where], strict=True):
        if statistic == site_effects.statistic:
            known = sites[~np.isnan(sites)]
            middle = float(np.median(known)) if known.size else None
            yield Quantity(quantity, unit(BIAS[0], statistic), int(where.sum()), middle)
    cells, cluster, x = site_effects.over(statistic)
    yield from stability.split(cells.sites(where), cluster, None if x is None else standard(x), seed)


def _agreement(first: pl.DataFrame, second: pl.DataFrame) -> Iterator[Quantity]:
    """How far two rankings of the same sites agree."""
    both = first.join(second, on=SITE, how="inner", nulls_equal=True, maintain_order="left")
    a, b = (both[name].cast(pl.Float64).to_numpy()[None] for name in ("estimate", "estimate_right"))
    yield Quantity("agreement_spearman", "rho", both.height, float(spearman(a, b)[0]))
    yield Quantity("agreement_top10", "share", both.height, float(shared_top(a, b)[0]))


def calibration(estimated: pl.DataFrame, exact: pl.DataFrame, others: Sequence[Site]) -> pl.DataFrame:
    """RELIABILITY of attribution's SUMMARY against the exact one of some sites, `others` drawn at random.

    `calibration_spearman`, `calibration_sign` (share of equal signs): over the random sites of a kind.
    `calibration_largest`: the largest exact |effect| M among them; with 95 % confidence fewer than
    `calibration_exceed` = 1 − 0.05^(1/n) of the sites that were not ranked first exceed M, at any position (0
    where all were measured); n: drawn sites, however many positions each has. `calibration_recall10`, only
    where every site of the kind was swept: how many of the 10 largest exact effects attribution has among its
    10 largest, as a share.
    """
    drawn, keys = set(others), ["dataset", "metric", "statistic", *SITE]
    both = ranking(estimated).join(
        ranking(exact).select(*keys, exact="estimate"), on=keys, how="left", nulls_equal=True
    )
    both = both.filter(schemas.single_sites())
    rows: list[dict[str, Any]] = []
    for (component,), part in sorted(both.group_by("component", maintain_order=True)):
        names = ("model", "dataset", "source", "metric", "statistic", "component", "method")
        label = part.select(names).row(0, named=True) | {"heads": component == "z", "against": "exact"}
        known = part.filter(pl.col("exact").is_not_null())
        at_random = known.filter([site in drawn for site in sites_of(known)])
        a, b = at_random["estimate"].to_numpy(), at_random["exact"].to_numpy()
        n = at_random.select(SITE[:3]).n_unique()
        numbers = {"spearman": ("rho", float(spearman(a[None], b[None])[0]))} if n else {}
        numbers |= {"sign": ("share", float((np.sign(a) == np.sign(b)).mean()))} if n else {}
        numbers |= {"largest": (unit(BIAS[0], label["statistic"]), float(np.abs(b).max()))} if n else {}
        numbers["exceed"] = ("share", 0.0 if known.height == part.height else 1 - 0.05 ** (1 / n))
        if known.height == part.height:
            every = known["estimate"].to_numpy()[None], known["exact"].to_numpy()[None]
            numbers["recall10"] = ("share", float(shared_top(*every)[0]))
        rows += labelled(label, [Quantity(f"calibration_{k}", of, n, v) for k, (of, v) in numbers.items()])
    return table(rows)
