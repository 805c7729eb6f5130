"""The sections of a report: which tables and figures show what was gathered, and what is missing."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from biasscope import circuit_table, probe_table, tables, trust
from biasscope.engine import comparison, figures, stats
from biasscope.engine.baselines import SHARE
from biasscope.engine.measured import SITE
from biasscope.reporting import words
from biasscope.reporting.document import Block, Gallery, Picture, Section, bullets, missing, paragraph
from biasscope.reporting.gathering import Gathered, Map, Part, clean
from biasscope.tables import NONE, Table, number

ROW = 3
"""Maps in a row of figures."""
LISTED = 10
"""Sites of the table of the strongest."""


def sections(found: Gathered, gallery: Gallery) -> list[Section]:
    """All sections, in order."""
    made = [_found(found), _summary(found)]
    for dataset, group in itertools.groupby(found.parts, key=lambda part: part.dataset):
        parts = list(group)
        made.append(Section(dataset, [*_overview(parts, gallery)]))
        for title, make in (
            ("The clean model", _clean),
            ("Which sites", _sites),
            ("Along the prompt", _along),
            ("Estimates against exact effects", _calibration),
            ("Where it can be read", _probes),
            ("Sets of sites", _sets),
        ):
            made.append(Section(f"{title}: {dataset}", list(make(parts, gallery)), level=3))
    return [*made, _agreement(found, gallery), _limits(found), _again(found)]


def _found(found: Gathered) -> Section:
    """The first screen: one line a model and dataset, and what none of it shows."""
    rows = []
    for part in found.parts:
        sites = words.short_sites(part.maps[0]) if part.maps else "not measured"
        again = words.repeated(part.maps[0]) if part.maps else None
        rows.append(
            [
                part.name,
                words.main_number(part),
                sites,
                (again or NONE).split(" come up")[0] + (" repeat in half of the groups" if again else ""),
            ]
        )
    columns = ["model, dataset", "clean model [95 %]", "significant (p_family < 0.05)", "how certain"]
    return Section("What was found", [Block("table", "wide", table=Table("", columns, [rows], [])), _short_limits()])


def _short_limits() -> Block:
    short = (
        "where a bias could be edited;",
        "that any model is free of bias;",
        "anything about people or other texts than these sentences.",
    )
    return Block("limits", "What this does not show", lines=short)


def _summary(found: Gathered) -> Section:
    blocks: list[Block] = []
    for part in found.parts:
        lines = [words.clean_model(part), *(words.found_sites(m) for m in part.maps[:ROW])]
        lines += [f"Certainty of the first map: {text}." for m in part.maps[:1] if (text := words.repeated(m))]
        lines += [text for m in part.maps[:1] if (text := words.recovery(m))]
        lines += [text] if (text := words.specific(part)) else []
        lines += [*map(words.probe, part.probes), *map(words.sets, part.circuits)]
        blocks += [paragraph(f"{part.model} on {part.dataset}:"), bullets(lines)]
    failed = [f"{run.model}, {run.dataset}: {text}" for run in found.used for text in run.record.warnings if "minimal set" not in text]
    blocks += [paragraph("Warnings of the runs:"), bullets(list(dict.fromkeys(failed)))] if failed else []
    blocks += [missing(f"Not read, because it is not what was written: {path}") for path in found.damaged]
    return Section("Summary", blocks)


def _overview(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    rows = [{"name": part.model, **row} for part in parts if (row := clean(part))]
    rows = [{name: row[name] for name in ("name", "estimate", "ci_low", "ci_high", "unit")} for row in rows]
    if rows and len(parts) > 1:
        alt = "; ".join(f"{row['name']} {words.interval(row, row['unit'])}" for row in rows)
        title = f"Clean models on {parts[0].dataset}"
        yield Block(
            "pictures",
            pictures=[gallery.picture("clean-models", f"{title}: {alt}", figures.overview, rows, title=title, unit=rows[0]["unit"])],
        )


def _clean(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    drawn: list[Picture] = []
    for part in parts:
        if part.baseline is None:
            yield missing(f"Not measured for {part.model}: {words.command('baseline', part)}")
            continue
        yield Block("table", table=tables.clean_model(part.baseline.summary, part.name, f"{part.baseline.folder}/summary.parquet"))
        single = part.baseline.summary.filter(pl.col("subset").str.starts_with("occupation: "))
        named = single.with_columns(pl.col("subset").str.strip_prefix("occupation: ").alias("occupation"))
        share = named.filter(pl.col("metric") == SHARE).select("occupation", pl.col("estimate").alias("share"))
        rows = (
            named.filter(metric="target", statistic="mean")
            .select("occupation", pl.col("estimate").alias("target"))
            .join(share, on="occupation")
        )
        rows = rows.drop_nulls()
        if rows.height > 1:
            title = f"Occupations: {part.name}"
            alt = f"{title}: target of {rows.height} occupations against their share of men; {words.main_number(part)}"
            drawn.append(gallery.picture("occupations", alt, figures.occupations, rows, title=title))
        elif single.height:
            yield missing("No scatter against the labour statistics: this baseline was made by an older version; run it again.")
    if drawn:
        yield Block("pictures", pictures=drawn)


def _sites(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    for part in parts:
        if not part.maps:
            yield missing(f"Not measured for {part.model}: {words.command('patch', part, ' --method exact')}")
    yield from _heat_maps([m for part in parts for m in part.maps[:ROW]], gallery)
    for part in parts:
        for found in part.maps[:1]:
            yield Block("table", table=strongest(found, part))
            yield from (
                (
                    Block("table", table=table)
                    for table in trust.tables(found.rows.clear(), found.run.reliability.filter(source=found.source))
                )
                if (found.run.reliability is not None)
                else ()
            )


def _heat_maps(maps: Sequence[Map], gallery: Gallery) -> Iterator[Block]:
    """Rows of figures with one scale each: the ranking statistic, then the shift where there is a slope; MLPs below."""
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
                (m, m.rows.filter(metric="target", statistic="mean", subset="all", component="z").filter(pl.col("head").is_not_null()))
                for m in same
            ]
            shifts = [(m, rows) for m, rows in shifts if rows.height and m.source not in ("corrupt", "clean")]
            if shifts:
                yield paragraph("Shift: the base rate of “he” in all occupations alike. It is not stereotyping.")
            yield from _one_scale(shifts, gallery, "shift")
        bars = [(m, m.sites("mlp_out")) for m in same if m.sites("mlp_out").height]
        drawn = [
            gallery.picture(
                "mlps", _alt("MLPs", m, m.statistic, rows), figures.bars, rows, title=_title("MLPs", m, m.statistic), unit=m.unit
            )
            for m, rows in bars
        ]
        yield from [Block("pictures", pictures=drawn)] if drawn else []


def _one_scale(maps: Sequence[tuple[Map, pl.DataFrame]], gallery: Gallery, what: str) -> Iterator[Block]:
    if not maps:
        return
    largest = max(max((abs(v) for v in rows["estimate"].drop_nulls()), default=0.0) for _, rows in maps) or 1e-9
    drawn = []
    for m, rows in maps:
        title, unit = _title("Heads", m, what), rows["unit"][0]
        drawn.append(
            gallery.picture("heads", _alt("Heads", m, what, rows), figures.heat_map, rows, title=title, largest=largest, unit=unit)
        )
    yield Block("pictures", pictures=drawn)


def _title(kind: str, found: Map, what: str) -> str:
    return f"{kind} of {found.run.model}, {found.run.dataset}: {what}\n{found.name}"


def _alt(kind: str, found: Map, what: str, rows: pl.DataFrame) -> str:
    """The figure in words: how many pass, and the strongest."""
    order = rows.sort(pl.col("estimate").abs(), descending=True, nulls_last=True).head(3)
    top = ", ".join(f"{words.site(row)} {words.interval(row)}" for row in order.iter_rows(named=True))
    passed = rows.filter(pl.col("p_family") < 0.05).height
    return f"{_title(kind, found, what)}. {passed} of {rows.height} significant; largest: {top} {rows['unit'][0]}".replace("\n", ", ")


def strongest(found: Map, part: Part) -> Table:
    """The ten strongest sites with everything that was measured of them."""
    beside = {
        "shift": ("target", "mean"),
        "compet.": ("competence", "rms"),
        "kl": ("kl", "mean"),
    }
    if found.statistic != "slope" or found.source in ("corrupt", "clean"):
        beside.pop("shift")
    values = {name: _by_site(found.rows.filter(metric=m, statistic=s, subset="all"), "estimate") for name, (m, s) in beside.items()}
    values = {"recovered": _by_site(found.ranked, "recovered"), **values, "specificity": _specificities(part)}
    values = {name: cells for name, cells in values.items() if any(v is not None for v in cells.values())}
    kinds = found.ranked.filter(pl.col("component").is_in(["z", "mlp_out"]), pl.col("estimate").is_not_null())
    rows = kinds.sort(pl.col("estimate").abs(), descending=True, maintain_order=True).head(LISTED)
    body = []
    for row in rows.iter_rows(named=True):
        place = tuple(row[name] for name in SITE[:3])
        body.append(
            [words.site(row), tables.interval(row), number(row["p_family"]), *(number(cells.get(place)) for cells in values.values())]
        )
    columns = ["site", f"{found.statistic} [95 %], {found.unit}", "p_family", *values]
    notes = ["* p_family < 0.05; shift and compet. in nats (compet.: rms of the change), kl in nats"]
    notes += [] if "specificity" in values else [f"no specificity: {words.command('ablate', part, ' --control definitional')}"]
    return Table(f"Strongest sites, {part.name}: {found.name} (run {found.run.key})", columns, [body], notes)


def _by_site(rows: pl.DataFrame, column: str) -> dict[tuple[Any, ...], float | None]:
    return {tuple(row[name] for name in SITE[:3]): row[column] for row in rows.iter_rows(named=True)}


def _specificities(part: Part) -> dict[tuple[Any, ...], float | None]:
    for found in part.maps:
        if found.ranked["specificity"].is_not_null().any():
            return _by_site(found.ranked, "specificity")
    return {}


def _along(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    drawn = []
    for part in parts:
        for found in part.along:
            for component in ("resid_post", "resid_pre"):
                rows = found.sites(component)
                if rows.is_empty():
                    continue
                order = {name: i for i, name in enumerate(("term", "between", "readout"))}
                rows = rows.sort(pl.col("position").replace_strict(order, default=9), "layer")
                shown = "recovered" if rows["recovered"].is_not_null().any() else "estimate"
                title = f"Residual stream of {part.name}: {found.statistic}\n{found.name}"
                drawn.append(
                    gallery.picture(
                        "positions",
                        _alt("Residual stream", found, found.statistic, rows),
                        figures.positions,
                        rows,
                        title=title,
                        shown=shown,
                        unit=found.unit,
                    )
                )
    if drawn:
        yield Block("pictures", pictures=drawn)
    for part in parts:
        if not part.along:
            yield missing(
                f"Not measured for {part.model}: {words.command('patch', part, ' --method exact --components resid_post --positions term,between,readout')}"
            )


def _calibration(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    for part in parts:
        pairs = [(a, e) for a in part.maps for e in part.maps if a.method == "attribution" and e.method == "exact" and a.source == e.source]
        pairs = [(a, e) for a, e in pairs if not e.run.record.params.get("given")]
        for estimated, exact in pairs[:1]:
            rows = exact.ranked.select(*SITE, pl.col("estimate").alias("exact")).join(
                estimated.ranked.select(*SITE, "estimate"), on=SITE, nulls_equal=True
            )
            rows = rows.filter(pl.col("component").is_in(["z", "mlp_out", "attn_out"])).drop_nulls(["exact", "estimate"])
            agreed = comparison.pairs([*comparison.rankings("a", 1, estimated.rows), *comparison.rankings("b", 1, exact.rows)], LISTED)
            text = "; ".join(
                f"{trust.KINDS.get(r['component'], r['component']).replace('z (whole)', 'heads')}: ρ {number(r['spearman'])}, {r['shared']} of the top {r['top']} shared"
                for r in agreed
                if r["component"] in ("z", "mlp_out", "attn_out")
            )
            title = f"Attribution against exact: {part.name}\n{exact.name}"
            yield paragraph(f"{part.name}, {exact.name} against attribution: {text}.")
            yield Block(
                "pictures",
                pictures=[
                    gallery.picture(
                        "attribution", f"{title}: {text}".replace("\n", ", "), figures.against_exact, rows, title=title, unit=exact.unit
                    )
                ],
            )
        for run in dict.fromkeys(m.run.key for m in part.maps):
            found = next(m.run for m in part.maps if m.run.key == run)
            if found.reliability is not None and found.reliability["quantity"].str.starts_with("calibration").any():
                rows = found.reliability.filter(pl.col("quantity").str.starts_with("calibration"))
                yield from (Block("table", table=table) for table in trust.tables(found.summary.clear(), rows))
        if not pairs:
            yield missing(
                f"Not compared for {part.model}: needs both methods with one source; {words.command('patch', part, ' --method attribution')} and {words.command('patch', part, ' --method exact')}"
            )


def _probes(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    drawn = []
    for part in parts:
        if not part.probes:
            yield missing(f"Not measured for {part.model}: {words.command('probe', part)}")
        for found in part.probes:
            params, task = found.record.params, found.summary["metric"][0]
            title = f"Probe for {task}, {part.name}\n{params.get('site')}, {params.get('position')} token" + (
                ", against unrelated words" if params.get("negatives") == "unrelated" else ""
            )
            rows = found.summary.filter(pl.col("method") != "removal")
            drawn.append(gallery.picture("probe", f"{title}. {words.probe(found)}".replace("\n", ", "), figures.probes, rows, title=title))
    if drawn:
        yield Block("pictures", pictures=drawn)
    for part in parts:
        for found in part.probes[:1]:
            table = probe_table.probes(found.summary, part.name, f"{found.folder}/summary.parquet")
            yield Block(
                "table",
                table=Table(f"{table.title} (every fifth row)", table.columns, [table.sections[0][::5], *table.sections[1:]], table.notes),
            )


def _sets(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    for part in parts:
        if not part.circuits:
            yield missing(f"Not measured for {part.model}: biasscope circuit --from RUN, with a run of ablate or patch")
        drawn, made = [], []
        for found in part.circuits:
            made.append(circuit_table.sets(found.summary, part.name, f"{found.folder}/summary.parquet"))
            if found.summary.filter(pl.col("statistic") == "faithfulness")["estimate"].is_not_null().any():
                source = found.summary["source"].drop_nulls().to_list()[0]
                title = f"Sets of sites: {part.name}\n{words.SOURCES.get(source, source)}"
                drawn.append(
                    gallery.picture(
                        "sets", f"{title}. {words.sets(found)}".replace("\n", ", "), figures.faithfulness, found.summary, title=title
                    )
                )
        yield from [Block("pictures", pictures=drawn)] if drawn else []
        yield from (Block("table", table=table) for table in made)


def _agreement(found: Gathered, gallery: Gallery) -> Section:
    maps = [m for part in found.parts for m in part.maps if m.sites("z").height]
    letters = [chr(ord("A") + i) if i < 26 else f"{chr(ord('A') + i % 26)}{i // 26}" for i in range(len(maps))]
    rankings = []
    for letter, m in zip(letters, maps, strict=True):
        layers = m.run.record.model.layers if m.run.record.model else 0
        rankings += comparison.rankings(letter, layers, m.rows)
    pairs = [row for row in comparison.pairs(rankings, LISTED) if row["component"] == "z" and row["sites"] > 2 * LISTED]
    legend = [f"{letter}: {m.run.model}, {m.run.dataset}, {m.name} (run {m.run.key})" for letter, m in zip(letters, maps, strict=True)]
    if not pairs and not comparison.depths(rankings):
        return Section(
            "Agreement between data, sources and models", [missing("Needs two maps: of another dataset, source, method or model.")]
        )
    blocks: list[Block] = []
    if pairs:
        shared = {(row["first"], row["second"]): (row["shared"], row["expected"]) for row in pairs}
        used = [letter for letter in letters if any(letter in pair for pair in shared)]
        title = "Strongest heads that two maps share"
        alt = f"{title}, of {LISTED}: " + "; ".join(f"{a} and {b} {n}" for (a, b), (n, _) in shared.items())
        blocks.append(
            Block("pictures", pictures=[gallery.picture("agreement", alt, figures.agreement, used, shared=shared, top=LISTED, title=title)])
        )
        rows = [
            [
                f"{r['first']}, {r['second']}",
                number(r["spearman"]),
                f"{r['shared']} of {r['top']}",
                f"{r['expected']:.1f}",
                number(r["p_shared"]),
                str(r["significant_both"]),
            ]
            for r in pairs
        ]
        columns = ["maps", "ρ, all heads", "top shared", "by chance", "p", "signif. in both"]
        blocks.append(Block("table", table=Table("", columns, [rows], legend)))
    depths = [r for r in comparison.depths(rankings) if r["component"] == "z"]
    if depths:
        rows = [[f"{r['first']}, {r['second']}", number(r["spearman"]), str(r["slices"])] for r in depths]
        blocks.append(
            Block(
                "table",
                table=Table(
                    "By relative depth: largest effect in each tenth of the layers",
                    ["maps", "ρ", "slices"],
                    [rows],
                    [] if pairs else legend,
                ),
            )
        )
    return Section("Agreement between data, sources and models", blocks)


def _limits(found: Gathered) -> Section:
    lines = list(words.LIMITS)
    for part in found.parts:
        groups = max((max(m.ranked["clusters"].drop_nulls().to_list(), default=0) for m in part.maps), default=0)
        note = stats.few_clusters_note(groups, "term") if groups else None
        lines += [f"{part.name}: not testable, {note}."] if note else []
    return Section("What this does not show", [bullets(lines)])


def _again(found: Gathered) -> Section:
    facts, seen = [], set()
    for run in found.used:
        record, (part,) = run.record, run.record.datasets
        if record.model is not None and record.model.digest not in seen:
            seen.add(record.model.digest)
            facts.append(
                f"model {record.model.name}: revision {record.model.revision or NONE}, weights sha256 {record.model.digest}, tokenizer {record.model.tokenizer_digest[:16]}, {record.model.dtype} on {record.model.device}"
            )
        if part.digest not in seen:
            seen.add(part.digest)
            facts.append(f"data {part.name}: content sha256 {part.digest}, {part.used} of {part.found} examples used")
    versions = sorted({", ".join(f"{name} {number}" for name, number in run.record.versions.items()) for run in found.used})
    facts += [f"versions: {text}" for text in versions] + [f"seeds: {', '.join(sorted({str(run.record.seed) for run in found.used}))}"]
    dropped = [
        f"{run.key} ({run.record.command}): {n} examples left out, {why}"
        for run in found.used
        for why, n in run.record.datasets[0].dropped.items()
    ]
    left = [f"{run.key} ({run.model}, {run.dataset}, {run.record.command}) is not shown: {why}" for run, why in found.left]
    commands = [f"{run.record.reproduce}    # {run.key}" for run in found.used]
    return Section("How to repeat it", [bullets([*facts, *dropped, *left]), Block("code", lines=commands)])
