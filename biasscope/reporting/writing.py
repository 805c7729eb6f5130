"""A report from the folder of runs to the files that people open."""

import json
import sys
from pathlib import Path
from typing import Any

from biasscope import __version__, show
from biasscope.console import Screen
from biasscope.engine import runs, schemas, store
from biasscope.engine.errors import PartialError, UsageError
from biasscope.options import Format
from biasscope.reporting import document, mapped, parts, words
from biasscope.reporting.nouns import Found, Gathered
from biasscope.tables import Table


def write(found: Gathered, out: Path, chosen: Format | None, *, quiet: bool) -> None:
    """Write the report, then what it used to stdout. PartialError where runs could not be read."""
    if out.suffix != ".md":
        raise UsageError(f"--out {out} must end in .md; the HTML page gets the same name with .html")
    runs.check_writable(out.parent)
    gallery = document.Gallery(out.parent / f"{out.stem}_figures")
    sections = parts.sections(found, gallery)
    given: dict[str, Any] = {"title": _title(found), "lead": _lead(found), "sections": sections, "folder": gallery.folder.name}
    page = out.with_suffix(".html")
    store.write_bytes(out, document.render("md", **given).encode())
    store.write_bytes(page, document.render("html", **given).encode())
    gallery.sweep()
    _say(found, gallery, [out, page], chosen, Screen(quiet=quiet))
    if found.damaged:
        what = "; ".join(f"{run.folder} {run.damage}" for run in found.damaged[:5])
        raise PartialError(f"missing in the report, {len(found.damaged)} in all: {what}; the command that made a run makes it again")


def _title(found: Gathered) -> str:
    models, datasets = (list(dict.fromkeys(getattr(part, name) for part in found.parts)) for name in ("model", "dataset"))
    return f"Where bias sits: {', '.join(models)} on {', '.join(datasets)}"


def _lead(found: Gathered) -> list[str]:
    """What the report is made of, and what significant means in it."""
    newest = max(run.record.created for run in found.used)[:10]
    made = f"{len(found.used)} runs of biasscope {__version__}; the newest of {newest}."
    lines = [f"{made} Estimates with 95 % intervals over groups (occupations, terms)."]
    star = schemas.LEGENDS[schemas.STAR].removeprefix(f"{schemas.STAR} ")
    families = mapped.families(found)
    return (
        [*lines, f"Significant (*): {star}.", f"p_family is over all sites that a run could have named: {families}."] if families else lines
    )


def _row(run: Found) -> dict[str, Any]:
    record = run.record
    used = {"run": run.key, "command": record.command, "model": run.model, "dataset": run.dataset, "created": record.created}
    return {**used, "path": str(run.folder), "seal": run.seal, "tables": record.datasets[0].tables, "reproduce": record.reproduce}


def _say(found: Gathered, gallery: document.Gallery, files: list[Path], chosen: Format | None, screen: Screen) -> None:
    """Nothing: says what was written and used."""
    figures = {"folder": str(gallery.folder), "drawn": gallery.drawn, "unchanged": gallery.kept}
    used = [_row(run) for run in found.used]
    left = [{**_row(run), "reason": why} for run, why in found.left]
    chosen = chosen or (Format.TABLE if sys.stdout.isatty() else Format.JSON)
    if chosen is Format.TABLE:
        cells = [[run.key, run.record.command, run.model, run.dataset, run.record.created[:10]] for run in found.used]
        notes = [f"written: {', '.join(map(str, files))}", f"figures: {gallery.drawn} drawn, {gallery.kept} unchanged, in {gallery.folder}"]
        notes += [text] if (text := words.not_sealed(found)) else []
        show.draw(Table("used", ["run", "command", "model", "dataset", "made"], [cells], notes), sys.stdout)
    elif chosen is Format.JSON:
        written = {"schema_version": store.SCHEMA_VERSION, "files": [str(file) for file in files], "figures": figures}
        damaged = [str(run.folder) for run in found.damaged]
        sys.stdout.write(json.dumps({**written, "used": used, "left_out": left, "damaged": damaged}, allow_nan=False, indent=2) + "\n")
    else:
        plain = [{name: str(value) for name, value in row.items() if name != "tables"} for row in used]
        show.listing("used", plain, [list(row.values()) for row in plain], chosen, columns=list(plain[0]))
    sys.stdout.flush()
    if chosen is not Format.TABLE:
        screen.note(f"written: {', '.join(map(str, files))}; figures: {gallery.drawn} drawn, {gallery.kept} unchanged")
