"""A result as it leaves the command: tables for people, data for programs, each on its stream."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, TextIO

import polars as pl
import pyarrow.parquet as pq

from biasscope.console import Screen, safe_text
from biasscope.engine.errors import Stopped
from biasscope.engine.schemas import SUMMARY
from biasscope.engine.settings import Format, Measure
from biasscope.engine.statistics.racing import METHOD
from biasscope.engine.store import reproduce
from biasscope.engine.store.cache import labelled
from biasscope.engine.store.runs import DatasetPart, Result, RunRecord
from biasscope.report import circuits, edges, markdown, probes, reliability, tables
from biasscope.report.drawing import terminal
from biasscope.report.drawing.columns import draw
from biasscope.report.edits import tables as edits
from biasscope.report.page import verdict
from biasscope.report.page.verdict import Verdict

FLUSH = 1000
"""Rows written to stdout at a time."""
EDGES = 100
"""Edges in a JSON document; all of them stand in the run's table."""


def result(result: Result, options: Measure, *, plot: bool = False) -> None:
    """Write the result to stdout as chosen, the table to stderr where a person watches a pipe.

    `plot`: it is drawn too, under the tables, or on stderr beside data. PartialError: values were left out.
    """
    explicit = Format.JSON if options.json else options.format
    chosen = form(explicit)
    if chosen is Format.TABLE:
        show_tables(result, sys.stdout)
    else:
        if explicit is None and sys.stderr.isatty() and not options.quiet:
            show_tables(result, sys.stderr)
        write_data(result, chosen, options.rows)
    if plot:
        draw_plots(result, sys.stdout if chosen is Format.TABLE else sys.stderr)
    sys.stdout.flush()
    if result.record.datasets and result.record.complete:  # a shard has no result yet
        Screen(options.quiet).note(f"next: {reproduce.following(result.record)}")
    result.check()


@contextlib.contextmanager
def showing_stopped(options: Measure, *, plot: bool = False) -> Iterator[None]:
    """Write what a measurement that is stopped has until then, as `result` does; the stop goes on."""
    try:
        yield
    except Stopped as stopped:
        result(stopped.result, options, plot=plot)
        raise


def form(chosen: Format | None) -> Format:
    """The format that was chosen, else the table on a terminal and JSON in a pipe."""
    return chosen or (Format.TABLE if sys.stdout.isatty() else Format.JSON)


def write_json(document: Any) -> None:
    """Write a document to stdout, strict JSON."""
    sys.stdout.write(json.dumps(document, allow_nan=False, indent=2) + "\n")


def write_data(result: Result, chosen: Format, with_rows: bool) -> None:
    """Write the result to stdout in a format for programs."""
    summary = pl.concat([SUMMARY.to_frame(), *result.summaries])
    if chosen is Format.JSON:
        run = result.record
        document = {"schema_version": run.schema_version, "run": run.model_dump(mode="json")}
        document |= {"summary": list(records([summary])), "reliability": list(records(result.reliability))}
        if parts := [part for part in run.datasets if "edges" in part.tables]:
            document["edges"] = list(records(stored_edges(part).head(EDGES) for part in parts))
        document["warnings"] = run.warnings
        if run.command == "mitigate":
            document["verdicts"] = [
                {"dataset": part.name, "edit": edit.name, "shown": edit.shown, "verdict": " ".join(said)}
                for part, own in zip(run.datasets, result.summaries, strict=True)
                for edit, said in edits.verdicts(own, part)
            ]
        if run.command == "baseline":
            document["verdict"] = [each.document for each in verdicts(result) if each]
        write_json(document | ({"rows": list(records(stored(result.rows)))} if with_rows else {}))
    elif chosen is Format.JSONL:
        n = 0
        for record in records(stored(result.rows) if with_rows else [summary]):
            sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
            n += 1
        # who reads a stream sees by it that nothing was cut off
        keys = [part.run_key[:8] for part in result.record.datasets]
        done = {"done": True, "command": result.record.command, "runs": keys, "rows": n}
        sys.stdout.write(json.dumps(done | {"warnings": result.record.warnings}) + "\n")
    else:
        rows(summary, chosen)


def rows(table: pl.DataFrame, chosen: Format) -> None:
    """Write rows to stdout as JSON lines, CSV or Markdown."""
    if chosen is Format.JSONL:
        sys.stdout.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in records([table])))
    elif chosen is Format.CSV:
        safe = table.with_columns(pl.col(pl.String).map_elements(_inert, pl.String))
        sys.stdout.write(safe.write_csv())
    else:
        readable = markdown.of_summary if "model" in table.columns else markdown.plain
        sys.stdout.write(readable(table))


def _inert(text: str) -> str:
    """The text of a CSV cell, which no spreadsheet takes for a formula."""
    text = safe_text(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def stored(files: Iterable[Path]) -> Iterable[pl.DataFrame]:
    """The tables in the files, a slice at a time."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(FLUSH):
            yield pl.DataFrame(pl.from_arrow(batch))


def stored_edges(part: DatasetPart) -> pl.DataFrame:
    """EDGES of a run, the strongest first."""
    return pl.read_parquet(Path(part.path) / "edges.parquet")


def records(frames: Iterable[pl.DataFrame]) -> Iterable[dict[str, Any]]:
    """The rows as dictionaries fit for strict JSON: numbers unrounded, null for what is not finite."""
    numbers = pl.selectors.float()
    for frame in frames:
        finite = frame.with_columns(pl.when(numbers.is_finite()).then(numbers))
        for part in finite.iter_slices(FLUSH):
            yield from part.iter_rows(named=True)


def verdicts(result: Result) -> list[Verdict | None]:
    """What a baseline shows, per data set; None where it has no target."""
    subject = result.record.subject
    both = zip(result.summaries, result.record.datasets, strict=True)
    return [verdict.of(summary, part, Path(part.path), subject) for summary, part in both]


def tables_of(result: Result) -> Iterator[tables.Table]:
    """The tables of each dataset; the title says what was replaced all the while."""
    record = result.record

    def edited(table: tables.Table) -> tables.Table:
        named = f", {record.name}" if record.name else ""
        return replace(table, title=f"{table.title}{record.given}{named}")

    shown = iter(verdicts(result) if record.command == "baseline" else ())
    for part, summary, trusted in zip(record.datasets, result.summaries, result.reliability, strict=True):
        file = f"{part.path}/summary.parquet"
        if record.command == "baseline":
            called = labelled(record.name, summary["model"][0])
            named = summary.with_columns(model=pl.lit(called))
            table, found = tables.clean_model(named, part, file, record.given), next(shown)
            yield replace(table, notes=[*([found.short] if found else []), *table.notes])
        elif record.command == "probe":
            yield edited(probes.probes(summary, part.name, part.noun, file, record.params["split"]))
        elif record.command == "circuit":
            yield edited(circuits.sets(summary, part, record.params, Path(part.path)))
        elif record.command == "mitigate":
            yield edited(edits.judged(summary, part, file))
            yield edits.curve(summary)
            if (audit := edits.audit(summary)) is not None:
                yield audit
        elif record.command == "encode":
            yield edited(tables.encoded(part.name, f"{part.path}/activations.parquet"))
        elif "edges" in part.tables:
            yield edited(edges.strongest(summary, stored_edges(part), part))
            yield from reliability.tables(summary.clear(), trusted)
        else:
            yield from map(edited, _of_sites(summary, part, file))
            single = summary.filter(pl.col("method").is_in(["conditional", METHOD]).not_())
            yield from reliability.tables(single, trusted)


def _of_sites(summary: pl.DataFrame, part: DatasetPart, file: str) -> Iterator[tables.Table]:
    """The tables of a dataset's effects, one for each method and source."""
    own = summary.filter(dataset=part.name)
    for rows in own.partition_by("method", "source", maintain_order=True):
        if rows["method"][0] == "conditional":
            yield edges.hidden(pl.read_parquet(Path(part.path) / "conditional.parquet"), rows, part)
        elif rows["method"][0] == METHOD:
            yield tables.raced(rows, part, file)
        elif "neurons" in part.tables:
            yield edges.neurons(rows, part, file, Path(part.path))
        else:  # a control's rows follow
            control = summary.filter(pl.col("dataset") != part.name, source=rows["source"][0])
            yield tables.effects(rows, part, file, control)


def show_tables(result: Result, stream: TextIO) -> None:
    """Write the tables of each dataset."""
    for table in tables_of(result):
        draw(table, stream)


def html(table: tables.Table) -> str:
    """The table for a notebook, nothing in it that HTML would act on."""

    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(safe_text(cell))}</{tag}>' for cell in cells)}</tr>"

    head = f"<thead>{row(table.columns, 'th')}</thead>" if table.columns else ""
    sections = ("".join(row(cells, "td") for cells in section) for section in table.sections)
    body = "".join(f"<tbody>{section}</tbody>" for section in sections)
    notes = "".join(f"<div><small>{escape(safe_text(note))}</small></div>" for note in table.notes)
    caption = f"<caption>{escape(safe_text(table.title))}</caption>" if table.title else ""
    return f"<table>{caption}{head}{body}</table>{notes}"


def draw_plots(result: Result, stream: TextIO) -> None:
    """Draw each dataset, method and source."""
    for summary in result.summaries:
        if result.record.command == "probe":
            terminal.probes(summary, stream)
            continue
        if result.record.command == "mitigate":
            terminal.doses(edits.left_by_dose(summary), stream)
            continue
        own = summary.filter(pl.col("dataset") == summary["dataset"][0])
        drawn = own.filter(pl.col("method") != METHOD)
        for rows in drawn.partition_by("method", "source", maintain_order=True):
            terminal.sites(rows, stream)


def listing(
    title: str,
    rows: list[dict[str, Any]],
    cells: list[list[str]],
    chosen: Format | None,
    columns: list[str] | None = None,
) -> None:
    """Write a list to stdout: `cells` as a table (columns: the rows' first keys), or the rows as data."""
    chosen = form(chosen)
    if chosen is Format.JSON:
        write_json(rows)
    elif chosen is Format.JSONL:
        sys.stdout.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    else:
        columns = columns or (list(rows[0])[: len(cells[0])] if rows else [])
        if chosen is Format.TABLE:
            draw(tables.Table(title, columns, [cells], [] if rows else ["nothing"]), sys.stdout)
        else:
            shown = safe_text if chosen is Format.MARKDOWN else _inert
            texts, schema = [list(map(shown, row)) for row in cells], dict.fromkeys(columns, pl.String)
            frame = pl.DataFrame(texts, schema, orient="row")
            plain = chosen is Format.MARKDOWN
            sys.stdout.write(markdown.table(columns, texts) if plain else frame.write_csv())
    sys.stdout.flush()


def record(record: RunRecord, table: tables.Table, seal: str, chosen: Format | None) -> None:
    """Write one run's record to stdout, whole for programs, the essentials and the seal for people."""
    if form(chosen) is Format.TABLE:
        draw(replace(table, notes=[*table.notes, f"{'record':<12} {seal}"]), sys.stdout)
    else:
        write_json(record.model_dump(mode="json") | {"seal": seal})
    sys.stdout.flush()
