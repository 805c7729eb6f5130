"""RELIABILITY, and effects by layer and position, as tables that people read at 80 columns, as sentences."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, RELIABILITY, number
from biasscope.engine.statistics.inference.resampling import listed
from biasscope.engine.types import EDGE, POSITIONS
from biasscope.report.page.gather import LISTED, Map
from biasscope.report.tables import INSIDE, Overlap, Table, overlap

NAMED = 4
"""Sites, and templates of one, that a sentence names."""
KINDS = {"z": "z (whole)", "mlp_out": "MLPs", EDGE: "edges"} | INSIDE


def tables(summary: pl.DataFrame, reliability: pl.DataFrame) -> Iterator[Table]:
    """What follows a dataset's effects: positions, how far rankings repeat and agree, calibration, stars."""
    for rows in summary.partition_by("dataset", "method", "source", maintain_order=True):
        yield from _positions(rows)
    for make in (_halves, _agreeing, calibrated):
        table = make(reliability)
        if table.sections[0]:
            yield table
    said = (family(reliability), false_alarms(reliability), noise_floor(reliability))
    if lines := [*(text for text in said if text), *stable(reliability)]:
        yield Table("", [], [], lines)


def family(reliability: pl.DataFrame) -> str | None:
    """Over which sites p_family is, where not all of them were measured."""
    row = _row(reliability, "family_sites")
    if row is None or row["n"] >= row["estimate"]:
        return None
    chosen = f"p_family is over all {row['estimate']:.0f} sites that could have been chosen"
    return f"{chosen}, {row['n']} of them measured"


def false_alarms(reliability: pl.DataFrame) -> str | None:
    """How often a star appears where there is nothing to find; None where that was not simulated."""
    names = {"false_alarms_symmetric": "symmetric", "false_alarms_resampled": "as skewed as here"}
    rows = {label: _row(reliability, name) for name, label in names.items()}
    shares = " to ".join(f"{100 * row['estimate']:.0f} % ({label})" for label, row in rows.items() if row)
    start = "in data like these without any effect a star appears in"
    return f"{start} {shares} of studies" if shares else None


def stable(reliability: pl.DataFrame) -> list[str]:
    """How much of the starred set stands when groups are drawn again; which star hangs on one template."""
    lines = []
    known = reliability.filter(pl.col("estimate").is_not_null())
    # heads and MLPs, or the only family of a run over others
    for row in known.filter(quantity="bootstrap_jaccard").head(1).iter_rows(named=True):
        band = f"5–95 %: {100 * row['low']:.0f} to {100 * row['high']:.0f}"
        same = f"{100 * row['estimate']:.0f} % in common with this one ({band})"
        lines.append(f"drawn again, groups give a set of stars that has {same}")
    for row in known.filter(quantity="template_jaccard").head(1).iter_rows(named=True):
        hang = known.filter(quantity="template_lost").group_by("component", maintain_order=True)
        named = [
            f"{name} without {listed(rows['against'].to_list(), NAMED, ' or ')}" for (name,), rows in hang
        ]
        some = f"no star without one of the {row['n']} templates: {listed(named, NAMED, '; ')}"
        lines.append(some if named else f"every star stands without any one of the {row['n']} templates")
    return lines


def noise_floor(reliability: pl.DataFrame) -> str | None:
    """How large an effect of nothing is in the model's precision; None where that was not measured."""
    row = next(reliability.filter(quantity="noise_floor").iter_rows(named=True), None)
    if row is None or row["estimate"] is None:
        return None
    size = f"noise floor of the model's precision: {number(row['estimate'])} {row['unit']}"
    return f"{size} with nothing replaced; no star below {schemas.FLOORS:.0f} times that"


def family_size(site_map: Map) -> tuple[int, int]:
    """How many sites the map's family has, and how many of them it holds numbers of."""
    row = _row(_own(site_map), "family_sites")
    own = site_map.ranked.filter(pl.col("p_family").is_not_null(), schemas.heads_and_mlps()).height
    return (own, own) if row is None else (int(row["estimate"]), row["n"])


def detectable(site_map: Map) -> float | None:
    """The effect found with power 0.8 at one of all heads."""
    row = _row(_own(site_map), "detectable_family", "z")
    return None if row is None else row["estimate"]


def repeated(site_map: Map) -> Overlap | None:
    """How many of the ten strongest heads repeat in half of the groups; None where luck gives most."""
    row, chance = (_row(_own(site_map), name, "z") for name in ("split_top10", "split_top10_chance"))
    if row is None:
        return None
    luck = chance["estimate"] if chance else LISTED / max(1, site_map.sites("z").height)
    return overlap(LISTED * row["estimate"], LISTED, LISTED * luck)


def sentences(site_map: Map) -> list[str]:
    """What repeats in the other half of the groups, and how often a star would appear without an effect."""
    row, again, lines = _row(_own(site_map), "split_top10", "z"), repeated(site_map), []
    if row and again:
        low, high = (f"{LISTED * (row[name] or 0):.0f}" for name in ("low", "high"))
        text = f"of the {again.top} strongest heads {again.shared:.0f} come up again in the other half"
        splits = f"5–95 % of splits: {low} to {high}; {again.luck:.1f} by luck"
        lines.append(f"{text} of the groups ({splits})")
    lines += [text for text in (false_alarms(_own(site_map)), noise_floor(_own(site_map))) if text]
    lines += stable(_own(site_map))
    return [f"Run {site_map.run.key}: {line}." for line in lines]


def _own(site_map: Map) -> pl.DataFrame:
    """RELIABILITY of the map's method, source and statistic, and what is of all sources together."""
    table = site_map.run.reliability
    if table is None:
        return RELIABILITY.to_frame()
    own = (pl.col("source") == site_map.source) | pl.col("source").is_null()
    return table.filter(own, method=site_map.method, statistic=site_map.statistic)


def _row(reliability: pl.DataFrame, quantity: str, kind: str = "single") -> dict[str, Any] | None:
    """The row of a quantity of heads (`z`), or of heads and MLPs, one family in all sources (`single`)."""
    own = pl.col("heads") == (kind == "z"), pl.col("estimate").is_not_null()
    rows = reliability.filter(*own, quantity=quantity, component=kind)
    return next(rows.iter_rows(named=True), None)


def _positions(summary: pl.DataFrame) -> Iterator[Table]:
    """Layer × position of a residual component: the share of the total recovered, else the effect."""
    stream = pl.col("component").is_in(["resid_post", "resid_pre"])
    rows = summary.filter(stream, metric="target", subset="all")
    columns = [p for p in POSITIONS if p in set(rows["position"])]
    for part in rows.partition_by("component", maintain_order=True) if len(columns) > 1 else []:
        part = part.filter(statistic=part["statistic"][0])
        shown = "recovered" if part["recovered"].is_not_null().any() else "estimate"
        cells = {(row["layer"], row["position"]): row for row in part.iter_rows(named=True)}
        layers = sorted({layer for layer, _ in cells})
        body = [[str(layer), *(_marked(cells.get((layer, p)), shown) for p in columns)] for layer in layers]
        title = f"{part['component'][0]}, {'effect / total' if shown == 'recovered' else part['unit'][0]}"
        yield Table(title, ["layer", *columns], [body], schemas.legend(cells.values()))


def _marked(row: dict[str, Any] | None, column: str) -> str:
    return NONE if row is None else number(row[column]) + (schemas.mark(row) or " ")


def _kind(row: dict[str, Any], slopes: bool) -> str:
    """A kind of site and, where there are two, the statistic."""
    kind = (
        "heads" if row["heads"] and row["component"] == "z" else KINDS.get(row["component"], row["component"])
    )
    return kind + (f", {'shift' if row['statistic'] == 'mean' else row['statistic']}" if slopes else "")


def _band(row: dict[str, Any] | None) -> str:
    """A number, shares and correlations to two places, with the band of the splits."""
    if row is None or row["estimate"] is None:
        return NONE
    if row["unit"] not in ("rho", "share"):
        return number(row["estimate"])
    ends = (row[name] for name in ("low", "estimate", "high"))
    low, middle, high = ("" if end is None else f"{end:.2f}".replace("-", "−") for end in ends)
    return f"{middle} [{low}, {high}]" if low else middle


def _wide(reliability: pl.DataFrame, prefix: str) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """(kind, method, source, against) → quantity → row, of the quantities with that prefix."""
    by_key: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    slopes = (reliability["statistic"] == "slope").any()
    for row in reliability.filter(pl.col("quantity").str.starts_with(prefix)).iter_rows(named=True):
        key = (_kind(row, slopes), row["method"], row["source"], row["against"])
        by_key.setdefault(key, {})[row["quantity"].removeprefix(prefix)] = row
    return by_key


def _halves(reliability: pl.DataFrame) -> Table:
    """What could be detected, and what a random half of the groups repeats."""
    halves, seen = _wide(reliability, "split_"), _wide(reliability, "detectable")
    body = []
    for key, row in halves.items():
        quantities = seen.get(key, {}).get(""), seen.get(key, {}).get("_family"), row.get("spearman")
        name = key[0] + (f", {key[2]}" if len({source for _, _, source, _ in halves}) > 1 else "")
        cells = [*map(_band, quantities), _shared(row.get("top10"), _luck(reliability, key[0]))]
        body += [[name, *cells]] if set(cells) != {NONE} else []  # of few groups none exists
    notes = [
        "one, of all: the effect found with power 0.8 at one site, and starred among all; by simulation, "
        "median over sites",
        "halves: 100 random splits of the groups; ρ of the two rankings [5–95 %], how many of the top 10 are "
        "in both, and by luck",
    ]
    columns = ["sites", "one", "of all", "halves: ρ", "top 10 in both"]
    return Table("how far the ranking can be trusted", columns, [body], notes)


def _luck(reliability: pl.DataFrame, kind: str) -> float | None:
    """The share of the ten strongest of a kind of site that luck repeats."""
    for key, row in _wide(reliability, "split_").items():
        if key[0] == kind and "top10_chance" in row:
            return row["top10_chance"]["estimate"]
    return None


def _shared(row: dict[str, Any] | None, luck: float | None) -> str:
    """How many of the ten strongest are shared, beside luck."""
    if row is None or row["estimate"] is None or luck is None:
        return NONE
    return str(overlap(10 * row["estimate"], 10, 10 * luck) or NONE)


def _agreeing(reliability: pl.DataFrame) -> Table:
    """How far sources name the same sites."""
    body = []
    for (kind, _, source, against), row in _wide(reliability, "agreement_").items():
        shared = _shared(row.get("top10"), 10 / max(1, row["top10"]["n"]))
        body.append([kind, f"{source}, {against}", _band(row.get("spearman")), shared])
    return Table("agreement between sources", ["sites", "sources", "ρ", "top 10 shared"], [body], [])


def calibrated(reliability: pl.DataFrame) -> Table:
    """Attribution against exact effects."""
    wanted = ("spearman", "sign", "largest", "exceed")
    body = []
    for (kind, *_), row in _wide(reliability, "calibration_").items():
        cells = [str(next(iter(row.values()))["n"]), *(_band(row.get(name)) for name in wanted)]
        body.append([kind, *cells, _shared(row.get("recall10"), _luck(reliability, kind))])
    columns = ["sites", "n", "ρ", "same sign", "largest M", "beyond M <", "top 10 in both"]
    notes = [
        "n random sites measured exactly; with 95 % confidence fewer than “beyond M” of the sites not ranked "
        "first exceed M, their largest"
    ]
    return Table("attribution against exact effects", columns, [body], notes)
