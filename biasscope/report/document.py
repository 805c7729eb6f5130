"""A report: its sections (what shows what was gathered, and what is missing) and the files people open."""

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from biasscope import __version__
from biasscope.console import Screen
from biasscope.engine import schemas
from biasscope.engine.errors import UsageError
from biasscope.engine.schemas import NONE
from biasscope.engine.settings import Format
from biasscope.engine.statistics import resampling
from biasscope.engine.statistics.baseline import COVARIATE
from biasscope.engine.store import files, shards
from biasscope.engine.store.reproduce import relative
from biasscope.engine.store.seals import DEPTH
from biasscope.report import (
    blocks,
    circuits,
    comparison,
    figures,
    formats,
    probes,
    reliability,
    sites,
    tables,
    words,
)
from biasscope.report.blocks import Block, Gallery, Picture, Section, bullets, missing, paragraph
from biasscope.report.gather import Gathered, Part, ReportRun
from biasscope.report.tables import Table
from biasscope.report.words import clean


def write(gathered: Gathered, out: Path, chosen: Format | None, *, quiet: bool) -> None:
    """Write the report, then what it used to stdout. PartialError where runs could not be read."""
    written, gallery = save(gathered, out)
    _say(gathered, gallery, written, chosen, Screen(quiet=quiet))
    gathered.check()


def save(gathered: Gathered, out: Path) -> tuple[list[Path], Gallery]:
    """The report's two files, out.md and the page beside it, and its figures, all written."""
    if out.suffix != ".md":
        raise UsageError(f"--out {out} must end in .md; the HTML page gets the same name with .html")
    files.check_writable(out.parent)
    gallery = Gallery(out.parent / f"{out.stem}_figures")
    content = sections(gathered, gallery)
    given: dict[str, Any] = {
        "title": _title(gathered),
        "lead": _lead(gathered),
        "sections": content,
        "folder": gallery.folder.name,
    }
    page = out.with_suffix(".html")
    files.write_bytes(out, blocks.render("md", **given).encode())
    files.write_bytes(page, blocks.render("html", **given).encode())
    gallery.sweep()
    return [out, page], gallery


def _title(gathered: Gathered) -> str:
    models, datasets = (
        list(dict.fromkeys(getattr(part, name) for part in gathered.parts)) for name in ("model", "dataset")
    )
    return f"Where bias sits: {', '.join(models)} on {', '.join(datasets)}"


def _lead(gathered: Gathered) -> list[str]:
    """What the report is made of, and what significant means in it."""
    newest = max(run.record.created for run in gathered.used)[:10]
    runs = f"{len(gathered.used)} runs of biasscope {__version__}; the newest of {newest}."
    lines = [f"{runs} Estimates with 95 % intervals over groups (occupations, terms)."]
    star = schemas.LEGENDS[schemas.STAR].removeprefix(f"{schemas.STAR} ")
    families = words.families(gathered)
    return (
        [
            *lines,
            f"Significant (*): {star}.",
            f"p_family is over all sites that a run could have named: {families}.",
        ]
        if families
        else lines
    )


def _row(run: ReportRun) -> dict[str, Any]:
    record = run.record
    used = {
        "run": run.key,
        "command": record.command,
        "model": run.model,
        "dataset": run.dataset,
        "created": record.created,
    }
    return {
        **used,
        "path": str(run.folder),
        "seal": run.seal,
        "tables": record.datasets[0].tables,
        "reproduce": record.reproduce,
    }


def _say(
    gathered: Gathered, gallery: blocks.Gallery, files: list[Path], chosen: Format | None, screen: Screen
) -> None:
    """Write to stdout what was written and used."""
    figures = {"folder": str(gallery.folder), "drawn": gallery.drawn, "unchanged": gallery.kept}
    used = [_row(run) for run in gathered.used]
    left = [{**_row(run), "reason": why} for run, why in gathered.left]
    chosen = chosen or (Format.TABLE if sys.stdout.isatty() else Format.JSON)
    if chosen is Format.TABLE:
        cells = [
            [run.key, run.record.command, run.model, run.dataset, run.record.created[:10]]
            for run in gathered.used
        ]
        notes = [
            f"written: {', '.join(map(str, files))}",
            f"figures: {gallery.drawn} drawn, {gallery.kept} unchanged, in {gallery.folder}",
        ]
        notes += [text] if (text := words.not_sealed(gathered)) else []
        formats.draw(
            Table("used", ["run", "command", "model", "dataset", "made"], [cells], notes), sys.stdout
        )
    elif chosen is Format.JSON:
        written = {
            "schema_version": shards.SCHEMA_VERSION,
            "files": [str(file) for file in files],
            "figures": figures,
        }
        damaged = [str(run.folder) for run in gathered.damaged]
        sys.stdout.write(
            json.dumps(
                {**written, "used": used, "left_out": left, "damaged": damaged}, allow_nan=False, indent=2
            )
            + "\n"
        )
    else:
        plain = [{name: str(value) for name, value in row.items() if name != "tables"} for row in used]
        formats.listing("used", plain, [list(row.values()) for row in plain], chosen, columns=list(plain[0]))
    sys.stdout.flush()
    if chosen is not Format.TABLE:
        screen.note(
            f"written: {', '.join(map(str, files))}; figures: {gallery.drawn} drawn, {gallery.kept} unchanged"
        )


def sections(gathered: Gathered, gallery: Gallery) -> list[Section]:
    """All sections, in order."""
    content = [_first_screen(gathered), _summary(gathered)]
    for dataset, group in itertools.groupby(gathered.parts, key=lambda part: part.dataset):
        parts = list(group)
        content.append(Section(dataset, [*_overview(parts, gallery)]))
        for title, make in (
            ("The clean model", _clean),
            ("Which sites", sites.which_sites),
            ("Along the prompt", sites.along),
            ("Estimates against exact effects", sites.calibration),
            ("Where it can be read", probes.section),
            ("Sets of sites", circuits.section),
        ):
            content.append(Section(f"{title}: {dataset}", list(make(parts, gallery)), level=3))
    return [*content, comparison.agreement(gathered, gallery), _limits(gathered), _again(gathered)]


def _first_screen(gathered: Gathered) -> Section:
    """The first screen: one line a model and dataset, and what none of it shows."""
    rows = []
    for part in gathered.parts:
        first = next(iter(part.shown), None)
        sites = "not measured" if first is None else words.short_sites(first)
        again = first and reliability.repeated(first)
        count = f"{again.shared:.0f} of {again.top} repeat in half of the groups" if again else ""
        certain = f"{count}, {again.luck:.1f} by luck (run {first.run.key})" if first and again else NONE
        rows.append([part.name, words.main_number(part), sites, certain])
    columns = ["model, dataset", "clean model [95 %]", "significant (*)", "how certain"]
    return Section(
        "What was found", [_short_limits(), Block("table", "wide", table=Table("", columns, [rows], []))]
    )


def _short_limits() -> Block:
    short = (
        "where a bias could be edited; that any model is free of bias; anything about people, or other texts "
        "than these sentences."
    )
    return Block("limits", "What this does not show", lines=[short])


def _summary(gathered: Gathered) -> Section:
    blocks: list[Block] = []
    for part in gathered.parts:
        lines = [words.clean_model(part), *map(words.edited_model, part.edited), *words.both(part)]
        for m in part.shown:
            measured = part.measured(m)
            lines += [words.found_sites(m, measured), *([] if measured else reliability.sentences(m))]
            lines += [text] if not measured and (text := words.recovery(m)) else []
        lines += [*map(probes.sentence, part.probes), *map(circuits.sentence, part.circuits)]
        blocks += [paragraph(f"{part.model} on {part.dataset}:"), bullets(lines)]
    # what was left out, and why, stands with how to repeat it; minimal sets have their own sentence
    elsewhere = ("examples dropped", "minimal set")
    failed = [
        f"{run.model}: {text}"
        for run in gathered.used
        for text in run.record.warnings
        if not any(word in text for word in elsewhere)
    ]
    blocks += [paragraph("Warnings of the runs:"), bullets(list(dict.fromkeys(failed)))] if failed else []
    blocks += [
        missing(f"Not read, because it {run.damage}: {'/'.join(run.folder.parts[-DEPTH:])}")
        for run in gathered.damaged
    ]
    return Section("Summary", blocks)


def _overview(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    rows = [{"name": part.model, **row} for part in parts if (row := clean(part))]
    rows = [{name: row[name] for name in ("name", "estimate", "ci_low", "ci_high", "unit")} for row in rows]
    if rows and len(parts) > 1:
        alt = "; ".join(f"{row['name']} {words.interval(row, row['unit'])}" for row in rows)
        title = f"Clean models on {parts[0].dataset}"
        yield Block(
            "pictures",
            pictures=[
                gallery.picture(
                    "clean-models",
                    f"{title}: {alt}",
                    figures.overview,
                    rows,
                    title=title,
                    unit=rows[0]["unit"],
                )
            ],
        )


def _clean(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    drawn: list[Picture] = []
    for part in parts:
        yield from (
            Block("table", table=tables.clean_model(run.summary, part.dataset, run.file, run.record.given))
            for run in part.edited
        )
        if part.baseline is None:
            yield missing(f"Not measured for {part.model}: {words.command('baseline', part)}")
            continue
        yield Block(
            "table", table=tables.clean_model(part.baseline.summary, part.dataset, part.baseline.file)
        )
        single = part.baseline.summary.filter(pl.col("subset").str.starts_with("occupation: "))
        named = single.with_columns(pl.col("subset").str.strip_prefix("occupation: ").alias("occupation"))
        share = named.filter(pl.col("metric").is_in([COVARIATE, "share_of_men"])).select(
            "occupation", pl.col("estimate").alias("share")
        )
        rows = (
            named.filter(metric="target", statistic="mean")
            .select("occupation", pl.col("estimate").alias("target"))
            .join(share, on="occupation")
        )
        rows = rows.drop_nulls()
        if rows.height > 1:
            title = f"Occupations: {part.name}"
            alt = (
                f"{title}: target of {rows.height} occupations against their share of men; "
                f"{words.main_number(part)}"
            )
            drawn.append(gallery.picture("occupations", alt, figures.occupations, rows, title=title))
        elif single.height:
            yield missing(
                "No scatter against the labour statistics: this baseline was made by an older version; run "
                "it again."
            )
    if drawn:
        yield Block("pictures", pictures=drawn)


def _limits(gathered: Gathered) -> Section:
    lines = list(words.LIMITS)
    for part in gathered.parts:
        groups = max((m.groups for m in part.maps), default=0)
        note = resampling.few_clusters_note(groups, "term") if groups else None
        lines += [f"{part.name}: not testable, {note}."] if note else []
    return Section("What this does not show", [bullets(lines)])


def _again(gathered: Gathered) -> Section:
    facts, seen = [], set()
    for run in gathered.used:
        record, (part,) = run.record, run.record.datasets
        if record.model is not None and record.model.digest not in seen:
            seen.add(record.model.digest)
            model = record.model
            facts.append(
                f"model {relative(model.name)}: revision {model.revision or NONE}, {model.dtype} on "
                f"{model.device}"
            )
            facts.append(
                f"its weights: sha256 {model.digest}; its tokenizer: sha256 {model.tokenizer_digest}"
            )
        if part.digest not in seen:
            seen.add(part.digest)
            facts.append(f"data {part.name}: content sha256 {part.digest}")
    facts.append(
        "examples used: "
        + "; ".join(
            f"{p.used} of {p.found} in run {run.key}" for run in gathered.used for p in run.record.datasets
        )
    )
    versions = sorted(
        {
            ", ".join(f"{name} {number}" for name, number in run.record.versions.items())
            for run in gathered.used
        }
    )
    facts += [f"versions: {text}" for text in versions] + [
        f"seeds: {', '.join(sorted({str(run.record.seed) for run in gathered.used}))}"
    ]
    facts += [text] if (text := words.not_sealed(gathered)) else []
    lost = [(run, run.record.datasets[0].dropped) for run in gathered.used if run.record.datasets[0].dropped]
    dropped = [
        f"left out of {run.key} ({run.record.command}): "
        f"{'; '.join(f'{n} × {reason}' for reason, n in why.items())}"
        for run, why in lost
    ]
    left = [
        f"{run.key} ({run.model}, {run.dataset}, {run.record.command}) is not shown: {why}"
        for run, why in gathered.left
    ]
    commands = [f"{run.record.reproduce}    # {run.key}" for run in gathered.used]
    return Section("How to repeat it", [bullets([*facts, *dropped, *left]), Block("code", lines=commands)])
