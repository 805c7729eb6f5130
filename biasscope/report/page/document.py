"""A report: its sections (what shows what was gathered, and what is missing) and the files people open."""

import itertools
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from biasscope import __version__
from biasscope.console import Screen
from biasscope.engine.errors import UsageError
from biasscope.engine.schemas import NONE
from biasscope.engine.settings import Format
from biasscope.engine.store import files, shards
from biasscope.engine.store.reproduce import relative
from biasscope.engine.store.seals import DEPTH
from biasscope.report import circuits, comparison, edges, formats, probes, sites, tables, words
from biasscope.report.drawing import chromium, columns, points
from biasscope.report.edits import section as edits
from biasscope.report.page import blocks, card, first_screen, glossary, models, pairing, views
from biasscope.report.page.blocks import (
    Block,
    Section,
    bullets,
    missing,
    paragraph,
    pictures,
)
from biasscope.report.page.gallery import Gallery
from biasscope.report.page.gather import Gathered, Part, ReportRun
from biasscope.report.page.pairing import Pair
from biasscope.report.tables import Table
from biasscope.report.words import clean


@dataclass(frozen=True)
class Extras:
    """What is wanted beside Markdown and page; quiet: no notes."""

    pdf: bool = False
    card: bool = False
    open: bool = False
    quiet: bool = False


def write(
    gathered: Gathered, pairs: Sequence[Pair], out: Path, chosen: Format | None, extras: Extras = Extras()
) -> None:
    """Write the report and the extras, then what it used to stdout.

    UsageError: no browser that prints. PartialError where runs could not be read.
    """
    written, gallery = save(gathered, out, pairs, extras)
    page, screen = out.with_suffix(".html"), Screen(quiet=extras.quiet)
    text = _say(gathered, gallery, written, chosen, pairs)
    if formats.form(chosen) is not Format.TABLE:
        screen.note(text)
    if extras.open and not webbrowser.open(page.resolve().as_uri()):
        screen.warn(f"no browser could be started; open {page}")
    gathered.check()


def save(
    gathered: Gathered, out: Path, pairs: Sequence[Pair] | None = None, extras: Extras = Extras()
) -> tuple[list[Path], Gallery]:
    """The report's files, out.md, the page beside it and the extras that are files, and its figures, written.

    `pairs`: those of its models, where they are known already. UsageError: no browser that prints.
    """
    program = chromium.check() if extras.pdf else ""
    pairs = pairing.of_parts(gathered.parts) if pairs is None else pairs
    if out.suffix != ".md":
        raise UsageError(f"--out {out} must end in .md; the HTML page gets the same name with .html")
    files.check_writable(out.parent)
    several = len({part.model for part in gathered.parts}) > 1
    gallery = Gallery(out.parent / f"{out.stem}_figures", several)
    given: dict[str, Any] = {"title": _title(gathered), "lead": _lead(gathered), "cover": _cover(gathered)}
    content = sections(gathered, gallery, pairs)
    given |= {"sections": content, "folder": gallery.folder.name}
    page = out.with_suffix(".html")
    files.write_bytes(out, blocks.render("md", **given).encode())
    script, digest = views.script()
    shown = [picture for section in content for block in section.blocks for picture in block.pictures]
    given |= {"views": views.embedded(gathered, shown), "script": Markup(script), "script_digest": digest}  # noqa: S704  ours
    files.write_bytes(page, blocks.render("html", **given).encode())
    gallery.sweep()
    written = [out, page]
    if extras.pdf:
        written.append(out.with_suffix(".pdf"))
        files.write_bytes(written[-1], chromium.pdf(program, page, given["title"]))
    if extras.card:
        written.append(out.with_name(f"{out.stem}_card.md"))
        files.write_bytes(written[-1], card.write(gathered).encode())
    return written, gallery


def _cover(gathered: Gathered) -> list[tuple[str, str]]:
    """What stands on the first sheet of a print: models with their weights, data, runs."""
    models = {run.record.model.digest: run.model for run in gathered.used if run.record.model}
    lines = [("Model", f"{name}, weights sha256 {digest[:16]}") for digest, name in models.items()]
    names = dict.fromkeys(part.data.name for part in gathered.parts)
    created = sorted(run.record.created[:10] for run in gathered.used)
    span = created[0] if created[0] == created[-1] else f"{created[0]} to {created[-1]}"
    made = f"{words.runs(gathered)} of {span}; this report by biasscope {__version__}"
    return [*lines, ("Data", ", ".join(names)), ("Measured", made)]


def _title(gathered: Gathered) -> str:
    """What it is about; of bias only where data say what is one."""
    models = ", ".join(dict.fromkeys(part.model for part in gathered.parts))
    data = ", ".join(dict.fromkeys(part.data.name for part in gathered.parts))
    about = "Where bias sits" if any(part.data.bias for part in gathered.parts) else "What a model prefers"
    return f"{about}: {models} on {data}"


def _lead(gathered: Gathered) -> list[str]:
    """What the report is made of."""
    newest = max(run.record.created for run in gathered.used)[:10]
    made = f"Made by biasscope {__version__} from {words.runs(gathered)}, the newest of {newest}."
    return [f"{made} Intervals are 95 %, over groups."]


def _row(run: ReportRun) -> dict[str, Any]:
    record = run.record
    used = {"run": run.key, "command": record.command, "model": run.model, "dataset": run.data.name}
    stored = {"path": str(run.folder), "seal": run.seal, "tables": record.datasets[0].tables}
    return {**used, "created": record.created, **stored, "reproduce": record.reproduce}


def _say(
    gathered: Gathered,
    gallery: Gallery,
    files: list[Path],
    chosen: Format | None,
    pairs: Sequence[Pair],
) -> str:
    """Write to stdout what was written and used; returns what was written, in a line."""
    figures = {"folder": str(gallery.folder), "drawn": gallery.drawn, "unchanged": gallery.kept}
    used = [_row(run) for run in gathered.used]
    chosen = formats.form(chosen)
    written = f"written: {', '.join(map(str, files))}"
    drawn = f"figures: {gallery.drawn} drawn, {gallery.kept} unchanged"
    if chosen is Format.TABLE:
        cells = [[*list(row.values())[:4], row["created"][:10]] for row in used]
        notes = [written, f"{drawn}, in {gallery.folder}"]
        notes += [text] if (text := words.not_sealed(gathered)) else []
        table = Table("used", ["run", "command", "model", "dataset", "made"], [cells], notes)
        columns.draw(table, sys.stdout)
    elif chosen is Format.JSON:
        document = {"schema_version": shards.SCHEMA_VERSION, "files": [str(file) for file in files]}
        document |= {"figures": figures, "used": used}
        document["left_out"] = [{**_row(run), "reason": why} for run, why in gathered.left]
        document["damaged"] = [str(run.folder) for run in gathered.damaged]
        document["models"] = [models.document(pair) for pair in pairs]
        formats.write_json(document)
    else:
        plain = [{name: str(value) for name, value in row.items() if name != "tables"} for row in used]
        formats.listing("used", plain, [list(row.values()) for row in plain], chosen, columns=list(plain[0]))
    sys.stdout.flush()
    return f"{written}; {drawn}"


def sections(gathered: Gathered, gallery: Gallery, pairs: Sequence[Pair]) -> list[Section]:
    """All sections, in order."""
    content = list(first_screen.sections(gathered, gallery))
    for dataset, group in itertools.groupby(gathered.parts, key=lambda part: part.data.name):
        parts = list(group)
        content.append(Section(dataset, [*_overview(parts, gallery)]))
        content += models.section(pairs, dataset)
        for title, make in (
            ("The clean model", _clean),
            ("Which sites", sites.which_sites),
            ("Along the prompt", sites.along),
            ("Estimates against exact effects", sites.calibration),
            ("Where it can be read", probes.section),
            ("Sets of sites", circuits.section),
            ("What removing costs", edits.section),
            ("Between the sites", edges.section),
        ):
            if shown := list(make(parts, gallery)):
                content.append(Section(f"{title}: {dataset}", shown, level=3))
        content[-1].blocks.extend(block for part in parts for block in _unmeasured(part))
    content += [*comparison.agreement(gathered, gallery), _limits(gathered)]
    return [*content, *_glossary(content), _again(gathered)]


def _unmeasured(part: Part) -> Iterator[Block]:
    """A line with the commands that would measure what is missing; none where nothing is."""
    options = " --method exact --components resid_post --positions term,between,readout"
    lacking = {
        words.command("baseline", part): part.baseline is None,
        words.command("patch", part, " --method exact"): all(m.given for m in part.maps),
        words.command("patch", part, " --method edges"): not part.between and bool(part.maps),
        words.command("patch", part, options): not part.along,
        words.command("probe", part): not part.probes,
        "biasscope circuit --from RUN": not part.circuits and bool(part.maps),
        "biasscope mitigate --from RUN": not part.mitigations and bool(part.maps),
    }
    if commands := [command for command, missing in lacking.items() if missing]:
        yield Block("unmeasured", f"Not measured for {part.model}:", commands)


def _glossary(content: Sequence[Section]) -> Iterator[Section]:
    """The terms that the sections use, with their meanings."""
    texts = [text for section in content for block in section.blocks for text in block.texts]
    if terms := glossary.used(texts):
        yield Section("Glossary", [Block("terms", points=terms)])


def _overview(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    rows = [{"name": part.model, **row} for part in parts if (row := clean(part))]
    rows = [{name: row[name] for name in ("name", "estimate", "ci_low", "ci_high", "unit")} for row in rows]
    if rows and len(parts) > 1:
        says = "; ".join(f"{row['name']} {words.interval(row, row['unit'])}" for row in rows)
        named: Any = {"title": f"Clean models on {parts[0].data.name}", "unit": rows[0]["unit"]}
        yield from pictures([gallery.picture("clean-models", points.overview, rows, says, **named)])


def _clean(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    for part in parts:
        for run in [*([part.baseline] if part.baseline else []), *part.edited]:
            yield from [paragraph(words.edited(run))] if run.record.given else []
            table = tables.clean_model(run.summary, part.data, run.file, run.record.given)
            yield Block("table", table=table)


def _limits(gathered: Gathered) -> Section:
    blocks = [bullets(words.limits(gathered.parts))]
    # what was left out, and why, stands with how to repeat it; minimal sets have their own sentence
    elsewhere = ("examples dropped", "minimal set")
    said = dict.fromkeys(f"{run.model}: {text}" for run in gathered.used for text in run.record.warnings)
    failed = [text for text in said if not any(word in text for word in elsewhere)]
    blocks += [paragraph("Warnings of the runs:"), bullets(failed)] if failed else []
    for run in gathered.damaged:
        folder = "/".join(run.folder.parts[-DEPTH:])
        blocks.append(missing(f"Not read, because it {run.damage}: {folder}"))
    return Section("What this does not show", blocks)


def _again(gathered: Gathered) -> Section:
    facts: dict[str, list[str]] = {}
    for run in gathered.used:
        model, (part,) = run.record.model, run.record.datasets
        if model is not None:
            how = f"revision {model.revision or NONE}, {model.dtype} on {model.device}"
            weights = f"its weights: sha256 {model.digest}; its tokenizer: sha256 {model.tokenizer_digest}"
            facts.setdefault(model.digest, [f"model {relative(model.name)}: {how}", weights])
        facts.setdefault(part.digest, [f"data {part.name}: content sha256 {part.digest}"])
    lines, records = list(itertools.chain(*facts.values())), [run.record for run in gathered.used]
    counts = ((run.key, part) for run in gathered.used for part in run.record.datasets)
    lines.append("examples used: " + "; ".join(f"{p.used} of {p.found} in run {key}" for key, p in counts))
    versions = {", ".join(f"{name} {number}" for name, number in r.versions.items()) for r in records}
    lines += [f"versions: {text}" for text in sorted(versions)]
    lines.append(f"seeds: {', '.join(sorted({str(record.seed) for record in records}))}")
    lines += [text] if (text := words.not_sealed(gathered)) else []
    for run in gathered.used:
        dropped = "; ".join(f"{n} × {reason}" for reason, n in run.record.datasets[0].dropped.items())
        lines += [f"left out of {run.key} ({run.record.command}): {dropped}"] if dropped else []
    for run, why in gathered.left:
        shown = f"{run.model}, {run.data.name}, {run.record.command}"
        lines.append(f"{run.key} ({shown}) is not shown: {why}")
    commands = [f"{run.record.reproduce}    # {run.key}" for run in gathered.used]
    return Section("How to repeat it", [bullets(lines), Block("code", lines=commands)])
