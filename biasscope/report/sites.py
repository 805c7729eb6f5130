"""Sections about sites: heat maps, bars, the strongest, positions, attribution against exact effects."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, number
from biasscope.engine.statistics import comparison
from biasscope.engine.statistics.cells import SITE
from biasscope.engine.types import SOURCES
from biasscope.report import figures, reliability, tables, words
from biasscope.report.blocks import Block, Gallery, missing, paragraph
from biasscope.report.gather import LISTED, Map, Part
from biasscope.report.tables import COLUMNS, Table, overlap, probability

KINDS = {"z": "heads", "mlp_out": "MLPs", "attn_out": "attention outputs"}
"""Components for which estimates are compared with exact effects."""


def which_sites(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    """Heat maps of heads, bars of MLPs, and the strongest sites with all that was measured of them."""
    for part in parts:
        if not part.maps:
            yield missing(f"Not measured for {part.model}: {words.command('patch', part, ' --method exact')}")
    yield from (paragraph(f"{part.name}: {text}") for part in parts for text in words.both(part))
    yield from _heat_maps([m for part in parts for m in part.shown], gallery)
    for part in parts:
        # effects of twins are on target alone: what replacing a site costs is in the first map that has it
        costs = [m for m in part.shown if (m.rows["metric"] == "kl").any()]
        for site_map in [*part.shown[:1], *(m for m in costs[:1] if m not in part.shown[:1])]:
            yield Block("table", table=strongest(site_map, part))
            if site_map.run.reliability is not None:
                repeated = reliability.tables(
                    site_map.rows.clear(), site_map.run.reliability.filter(source=site_map.source)
                )
                named = (
                    replace(table, title=f"{table.title} (run {site_map.run.key})")
                    for table in repeated
                    if table.columns
                )
                yield from (Block("table", table=table) for table in named)


def _heat_maps(maps: Sequence[Map], gallery: Gallery) -> Iterator[Block]:
    """Rows of figures with one scale each: the ranking statistic, the shift beside a slope; MLPs below."""
    by_unit = (
        [maps]
        if len({m.unit for m in maps}) == 1
        else [[m for m in maps if m.unit == unit] for unit in dict.fromkeys(m.unit for m in maps)]
    )
    for same in by_unit:
        heads = [(m, m.sites("z")) for m in same if m.sites("z").height]
        yield from _one_scale(heads, gallery, f"{same[0].statistic if same else ''}")
        if same and same[0].statistic == "slope":
            shifts = [
                (
                    m,
                    m.rows.filter(metric="target", statistic="mean", subset="all", component="z").filter(
                        pl.col("head").is_not_null()
                    ),
                )
                for m in same
            ]
            shifts = [(m, rows) for m, rows in shifts if rows.height and not SOURCES[m.source].twin]
            if shifts:
                yield paragraph(
                    "Shift: the base rate of “he” in all occupations alike. It is not stereotyping."
                )
            yield from _one_scale(shifts, gallery, "shift")
        bars = [(m, m.sites("mlp_out")) for m in same if m.sites("mlp_out").height]
        drawn = [
            gallery.picture(
                "mlps",
                _alt("MLPs", m, m.statistic, rows),
                figures.bars,
                rows,
                title=_title("MLPs", m, m.statistic),
                unit=m.unit,
            )
            for m, rows in bars
        ]
        yield from [Block("pictures", pictures=drawn)] if drawn else []


def _one_scale(maps: Sequence[tuple[Map, pl.DataFrame]], gallery: Gallery, what: str) -> Iterator[Block]:
    if not maps:
        return
    largest = (
        max(max((abs(v) for v in rows["estimate"].drop_nulls()), default=0.0) for _, rows in maps) or 1e-9
    )
    drawn = []
    for m, rows in maps:
        title, unit = _title("Heads", m, what), rows["unit"][0]
        drawn.append(
            gallery.picture(
                "heads",
                _alt("Heads", m, what, rows),
                figures.heat_map,
                rows,
                title=title,
                largest=largest,
                unit=unit,
            )
        )
    yield Block("pictures", pictures=drawn)


def _title(kind: str, site_map: Map, what: str) -> str:
    return f"{kind} of {site_map.run.model}\n{site_map.run.dataset}, {what}: {site_map.name}"


def _alt(kind: str, site_map: Map, what: str, rows: pl.DataFrame) -> str:
    """The figure in words: how many pass, and the strongest."""
    order = rows.sort(pl.col("estimate").abs(), descending=True, nulls_last=True).head(3)
    top = ", ".join(f"{words.site(row)} {words.interval(row)}" for row in order.iter_rows(named=True))
    tested = rows["p_family"].is_not_null().any()
    passed = f"{rows.filter(schemas.starred()).height} of {rows.height} significant; " if tested else ""
    title = _title(kind, site_map, what).replace("\n", ", ")
    return f"{title} (run {site_map.run.key}). {passed}largest: {top} {rows['unit'][0]}"


def strongest(site_map: Map, part: Part) -> Table:
    """The ten strongest sites with everything that was measured of them."""
    beside = {
        "shift": ("target", "mean"),
        "compet.": ("competence", "rms"),
        "kl": ("kl", "mean"),
    }
    if site_map.statistic != "slope" or SOURCES[site_map.source].twin:
        beside.pop("shift")
    values = {
        name: _by_site(site_map.rows.filter(metric=m, statistic=s, subset="all"), "estimate")
        for name, (m, s) in beside.items()
    }
    values = {
        "recov.": _by_site(site_map.ranked, "recovered"),
        **values,
        "specif.": _by_site(site_map.ranked, "specificity"),
    }
    values = {name: cells for name, cells in values.items() if any(v is not None for v in cells.values())}
    kinds = site_map.ranked.filter(
        pl.col("component").is_in(["z", "mlp_out"]), pl.col("estimate").is_not_null()
    )
    rows = kinds.sort(pl.col("estimate").abs(), descending=True, maintain_order=True).head(LISTED)
    body = []
    for row in rows.iter_rows(named=True):
        place = tuple(row[name] for name in SITE[:3])
        body.append(
            [
                words.site(row),
                tables.interval(row),
                probability(row["p_family"]),
                *(number(cells.get(place)) for cells in values.values()),
            ]
        )
    columns = ["site", f"{site_map.statistic} [95 %], {site_map.unit}", "p_family", *values]
    notes = [*schemas.legend(rows.to_dicts()), *(COLUMNS[name] for name in values)]
    measured = any(m.ranked["specificity"].is_not_null().any() for m in part.maps)
    notes += (
        [] if measured else [f"no specificity: {words.command('ablate', part, ' --control definitional')}"]
    )
    return Table(
        f"Strongest sites, {part.name}: {site_map.name} (run {site_map.run.key})", columns, [body], notes
    )


def _by_site(rows: pl.DataFrame, column: str) -> dict[tuple[Any, ...], float | None]:
    return {tuple(row[name] for name in SITE[:3]): row[column] for row in rows.iter_rows(named=True)}


def along(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    """The residual stream by layer and position: where on the prompt the effect sits."""
    drawn = []
    for part in parts:
        for site_map in part.along:
            for component in ("resid_post", "resid_pre"):
                rows = site_map.sites(component)
                if rows.is_empty():
                    continue
                order = {name: i for i, name in enumerate(("term", "between", "readout"))}
                rows = rows.sort(pl.col("position").replace_strict(order, default=9), "layer")
                shown = "recovered" if rows["recovered"].is_not_null().any() else "estimate"
                title = _title("Residual stream", site_map, site_map.statistic)
                drawn.append(
                    gallery.picture(
                        "positions",
                        _alt("Residual stream", site_map, site_map.statistic, rows),
                        figures.positions,
                        rows,
                        title=title,
                        shown=shown,
                        unit=site_map.unit,
                    )
                )
    if drawn:
        yield Block("pictures", pictures=drawn)
    for part in parts:
        if not part.along:
            options = " --method exact --components resid_post --positions term,between,readout"
            yield missing(f"Not measured for {part.model}: {words.command('patch', part, options)}")


def calibration(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    """How far gradient estimates agree with exact effects of the same source."""
    for part in parts:
        pairs = [
            (a, e)
            for a in part.maps
            for e in part.maps
            if a.method == "attribution" and e.method == "exact" and a.source == e.source
        ]
        pairs = [(a, e) for a, e in pairs if not e.run.record.params.get("given")]
        for estimated, exact in pairs[:1]:
            rows = exact.ranked.select(*SITE, pl.col("estimate").alias("exact")).join(
                estimated.ranked.select(*SITE, "estimate"), on=SITE, nulls_equal=True
            )
            rows = rows.filter(pl.col("component").is_in(list(KINDS))).drop_nulls(["exact", "estimate"])
            agreed = comparison.pairs(
                [*comparison.rankings("a", 1, estimated.rows), *comparison.rankings("b", 1, exact.rows)],
                LISTED,
            )
            text = "; ".join(
                _agreed(r) for r in agreed if r["component"] in KINDS and r["spearman"] is not None
            )
            title = f"Attribution against exact: {part.model}\n{part.dataset}, {exact.name}"
            yield paragraph(
                f"{part.name}, {exact.name} (run {exact.run.key}) against attribution (run "
                f"{estimated.run.key}): {text or NONE}."
            )
            yield Block(
                "pictures",
                pictures=[
                    gallery.picture(
                        "attribution",
                        f"{title}: {text}".replace("\n", ", "),
                        figures.against_exact,
                        rows,
                        title=title,
                        unit=exact.unit,
                    )
                ],
            )
        for key in dict.fromkeys(m.run.key for m in part.maps):
            run = next(m.run for m in part.maps if m.run.key == key)
            if (
                run.reliability is not None
                and run.reliability["quantity"].str.starts_with("calibration").any()
            ):
                yield Block("table", table=reliability.calibrated(run.reliability))
        if not pairs:
            both = " and ".join(
                words.command("patch", part, f" --method {method}") for method in ("attribution", "exact")
            )
            yield missing(f"Not compared for {part.model}: needs both methods with one source; {both}")


def _agreed(row: dict[str, Any]) -> str:
    """How far estimates and measurements of a kind of site agree."""
    shared = overlap(row["shared"], row["top"], row["expected"])
    strongest = f"; strongest in both: {shared}" if shared else ""
    return f"{KINDS[row['component']]}: ρ {number(row['spearman'])}{strongest}"
