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
from biasscope.report import reliability, tables, words
from biasscope.report.drawing import figures, points
from biasscope.report.page import views
from biasscope.report.page.blocks import Block, bullets, paragraph, pictures
from biasscope.report.page.gallery import Gallery, Picture
from biasscope.report.page.gather import LISTED, Map, Part
from biasscope.report.tables import COLUMNS, Table, overlap, probability

KINDS = {"z": "heads", "mlp_out": "MLPs", "attn_out": "attention outputs"}
"""Components for which estimates are compared with exact effects."""


def heat_map(site_map: Map, beside: Sequence[Part], gallery: Gallery) -> Picture:
    """The map of a run's heads, on one scale with the other maps of that unit in these parts."""
    same = [m.sites("z") for part in beside for m in part.shown if m.unit == site_map.unit]
    return _heads(site_map, site_map.sites("z"), site_map.statistic, _scale(same), gallery)


def lines(part: Part) -> list[str]:
    """What was found of sites, one run a sentence; a measurement stands before its estimate, and alone."""
    sentences = words.both(part)
    for m in part.shown:
        measured = part.measured(m)
        sentences += [words.found_sites(m, measured), *([] if measured else reliability.sentences(m))]
        sentences += [text] if not measured and (text := words.recovery(m)) else []
    return sentences


def which_sites(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    """What was found, heat maps of heads, bars of MLPs, the strongest sites with all that was measured."""
    for part in parts:
        found = lines(part)
        yield from [paragraph(f"{part.name}:")] if len(parts) > 1 and found else []
        yield from [bullets(found)] if found else []
    if families := words.families(parts):
        star = schemas.LEGENDS[schemas.STAR].removeprefix(f"{schemas.STAR} ")
        over = "p_family is over all sites that a run could have named"
        yield paragraph(f"Significant (*): {star}; {over}: {families}.")
    yield from _heat_maps(parts, gallery)
    for part in parts:
        # effects of twins are on target alone: what replacing a site costs is in the first map that has it
        costs = [m for m in part.shown if (m.rows["metric"] == "kl").any()]
        for site_map in [*part.shown[:1], *(m for m in costs[:1] if m not in part.shown[:1])]:
            yield Block("table", table=strongest(site_map, part))
            if site_map.run.reliability is not None:
                own = site_map.run.reliability.filter(source=site_map.source)
                for table in reliability.tables(site_map.rows.clear(), own):
                    title = f"{table.title} (run {site_map.run.key})"
                    yield from [Block("table", table=replace(table, title=title))] if table.columns else []


def _heat_maps(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    """Rows of figures with one scale each: the ranking statistic, the shift beside a slope; MLPs below."""
    maps, above = [m for part in parts for m in part.shown], [part.first for part in parts]
    if any(m is not None for m in above):
        yield paragraph("The first map of heads stands on the first screen, on the same scale.")
    for unit in dict.fromkeys(m.unit for m in maps):
        same = [m for m in maps if m.unit == unit]
        heads = [m for m in same if m.sites("z").height and not any(m is other for other in above)]
        yield from pictures([heat_map(m, parts, gallery) for m in heads])
        if same[0].statistic == "slope":
            mean = {"metric": "target", "statistic": "mean", "subset": "all", "component": "z"}
            whole = [(m, m.rows.filter(pl.col("head").is_not_null(), **mean)) for m in same]
            shifts = [(m, rows) for m, rows in whole if rows.height and not SOURCES[m.source].twin]
            side, noun = same[0].run.data.sides[0], same[0].run.data.noun
            said = f"Shift: the base rate of {side} in every {noun} alike. It is not stereotyping."
            yield from [paragraph(said)] if shifts else []
            largest = _scale([rows for _, rows in shifts])
            yield from pictures([_heads(m, rows, "shift", largest, gallery) for m, rows in shifts])
        mlps = [(m, rows) for m in same if (rows := m.sites("mlp_out")).height]
        drawn = []
        for m, rows in mlps:
            name, named = _file("mlps", m, m.statistic, gallery), _named("MLPs", m, m.statistic, rows)
            drawn.append(gallery.picture(name, figures.bars, rows, **named))
        yield from pictures(drawn)


def _heads(site_map: Map, rows: pl.DataFrame, what: str, largest: float, gallery: Gallery) -> Picture:
    name, named = _file("heads", site_map, what, gallery), _named("Heads", site_map, what, rows)
    picture = gallery.picture(name, figures.heat_map, rows, largest=largest, **named)
    return replace(picture, view="" if what == "shift" else views.name(site_map))


def _file(kind: str, site_map: Map, what: str, gallery: Gallery) -> str:
    """The name of a figure's files: heads-winogender-slope-mean."""
    run = site_map.run
    how = "attribution" if site_map.estimated else ""
    return gallery.name(kind, run.model, run.data.name, what, site_map.source, how)


def _scale(tables: Sequence[pl.DataFrame]) -> float:
    """The largest |effect| of some maps, which their colours end at."""
    sizes = (abs(value) for rows in tables for value in rows["estimate"].drop_nulls())
    return max(sizes, default=0.0) or 1e-9


def _named(kind: str, site_map: Map, what: str, rows: pl.DataFrame) -> dict[str, Any]:
    """What a figure is called, its unit, and it in words: how many pass, and the strongest."""
    order = rows.sort(pl.col("estimate").abs(), descending=True, nulls_last=True).head(3)
    top = ", ".join(f"{words.site(row)} {words.interval(row)}" for row in order.iter_rows(named=True))
    tested = rows["p_family"].is_not_null().any()
    passed = f"{rows.filter(schemas.starred()).height} of {rows.height} significant; " if tested else ""
    title = f"{kind} of {site_map.run.model}\n{site_map.run.data.name}, {what}: {site_map.name}"
    unit = rows["unit"][0]
    grows = tables.grows(site_map.run.data, rows["statistic"][0])
    colours = f" Orange: {grows} when it is replaced." if kind == "Heads" else ""
    colours += " Grey: not measured." if kind == "Heads" and site_map.partial else ""
    says = f"Run {site_map.run.key}: {passed}largest: {top} {unit}.{colours}"
    return {"says": says, "title": title, "unit": unit}


def strongest(site_map: Map, part: Part) -> Table:
    """The ten strongest sites with everything that was measured of them."""
    shift = {"shift": ("target", "mean")}
    beside = {} if site_map.statistic != "slope" or SOURCES[site_map.source].twin else shift
    beside |= {"compet.": ("competence", "rms"), "kl": ("kl", "mean")}
    ranked, rows = site_map.ranked, site_map.rows.filter(subset="all")
    values = {"recov.": _by_site(ranked, "recovered")}
    for name, (metric, statistic) in beside.items():
        values[name] = _by_site(rows.filter(metric=metric, statistic=statistic), "estimate")
    values["specif."] = _by_site(ranked, "specificity")
    values = {name: cells for name, cells in values.items() if any(v is not None for v in cells.values())}
    kinds = ranked.filter(schemas.heads_and_mlps(), pl.col("estimate").is_not_null())
    top = kinds.sort(pl.col("estimate").abs(), descending=True, maintain_order=True).head(LISTED)
    body = []
    for row in top.iter_rows(named=True):
        place = tuple(row[name] for name in SITE[:3])
        more = [number(cells.get(place)) for cells in values.values()]
        body.append([words.site(row), tables.interval(row), probability(row["p_family"]), *more])
    columns = ["site", f"{site_map.statistic} [95 %], {site_map.unit}", "p_family", *values]
    notes = [*schemas.legend(top.to_dicts()), *(COLUMNS[name] for name in values)]
    if part.data.covariate and all(m.ranked["specificity"].is_null().all() for m in part.maps):
        asked = words.command("ablate", part, " --control definitional")
        notes.append(f"no specificity (of prompts about gender): {asked}")
    title = f"Strongest sites, {part.name}: {site_map.name} (run {site_map.run.key})"
    return Table(title, columns, [body], notes)


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
                order = {"term": 0, "between": 1, "readout": 2}
                rows = rows.sort(pl.col("position").replace_strict(order, default=9), "layer")
                shown = "recovered" if rows["recovered"].is_not_null().any() else "estimate"
                named = _named("Residual stream", site_map, site_map.statistic, rows)
                name = _file("positions", site_map, component, gallery)
                drawn.append(gallery.picture(name, figures.positions, rows, shown=shown, **named))
    yield from pictures(drawn)


def calibration(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    """How far gradient estimates agree with exact effects of the same source."""
    for part in parts:
        clean = [m for m in part.maps if not m.given]
        exact_maps = [m for m in clean if m.method == "exact"]
        pairs = [(a, e) for a in clean if a.estimated for e in exact_maps if a.source == e.source]
        for estimated, exact in pairs[:1]:
            measured = exact.ranked.select(*SITE, exact="estimate")
            rows = measured.join(estimated.ranked.select(*SITE, "estimate"), on=SITE, nulls_equal=True)
            rows = rows.filter(pl.col("component").is_in(list(KINDS))).drop_nulls(["exact", "estimate"])
            both = [*comparison.rankings("a", 1, estimated.rows), *comparison.rankings("b", 1, exact.rows)]
            agreed = [row for row in comparison.pairs(both, LISTED) if row["component"] in KINDS]
            text = "; ".join(_agreed(row) for row in agreed if row["spearman"] is not None)
            against = f"{exact.name} (run {exact.run.key}) against attribution (run {estimated.run.key})"
            yield paragraph(f"{part.name}, {against}: {text or NONE}.")
            title = f"Attribution against exact: {part.model}\n{part.data.name}, {exact.name}"
            says = f"Run {estimated.run.key} against run {exact.run.key}; a dot a site, line: equal."
            named: Any = {"says": says, "title": title, "unit": exact.unit}
            name = gallery.name("attribution", part.model, part.data.name, exact.source)
            yield from pictures([gallery.picture(name, points.against_exact, rows, **named)])
        for run in {m.run.key: m.run for m in part.maps}.values():
            table = None if run.reliability is None else reliability.calibrated(run.reliability)
            yield from [Block("table", table=table)] if table and table.sections[0] else []


def _agreed(row: dict[str, Any]) -> str:
    """How far estimates and measurements of a kind of site agree."""
    shared = overlap(row["shared"], row["top"], row["expected"])
    strongest = f"; strongest in both: {shared}" if shared else ""
    return f"{KINDS[row['component']]}: ρ {number(row['spearman'])}{strongest}"
