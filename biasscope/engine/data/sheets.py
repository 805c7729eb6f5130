"""Tables of the user's own, as CSV, TSV, JSON lines, JSON or Parquet: records of named cells, each with the
place where it begins.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from biasscope.engine.data import reading
from biasscope.engine.errors import DataError, UsageError

MIB, ROWS, COLUMNS = 64, 100_000, 64
"""MiB, records and columns that a table may have."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that no text has: line breaks and tabs are none of them."""
NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,100}")
"""A name that a column may have."""
QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"')
"""A cell as RFC 4180 quotes it."""


class Record(NamedTuple):
    """One record."""

    where: str
    """Where it begins, for messages: FILE:LINE."""
    cells: Mapping[str, Any]
    """Column → what stands there; empty cells are left out."""


@dataclass(frozen=True)
class Sheet:
    """A table as it was read; nothing is known of what its columns mean."""

    origin: str
    """What messages call it: the path of its file, or its name."""
    columns: Mapping[str, str]
    """Column → where it is named first."""
    records: list[Record]
    """Those that hold anything."""
    decimals: str = ""
    """The decimal marks that numbers may have where they are texts; empty where numbers are numbers."""


def read(path: Path) -> Sheet:
    """The table in a file, by the ending of its name.

    DataError: it cannot be read, is malformed, is too large, or a column has no name or the name of another.
    """
    return _checked(FORMS[path.suffix.lower()](checked_size(path)))


def checked_size(path: Path) -> Path:
    """The path of a file that is not too large to be read; DataError where it is, or is not there."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if size > MIB * 2**20:
        raise DataError(f"{path} has {size / 2**20:.0f} MiB, more than the {MIB} that are read; divide it")
    return path


def of_rows(rows: Any, name: str) -> Sheet:
    """The table of a polars or pandas frame, or of a list of dictionaries; UsageError of anything else."""
    if hasattr(rows, "to_dict") and not isinstance(rows, pl.DataFrame):
        try:
            rows = pl.from_pandas(rows)
        except (TypeError, ValueError) as error:
            raise UsageError(f"a column of the frame holds more than one kind of value: {error}") from error
    if isinstance(rows, pl.DataFrame):
        rows = rows.to_dicts()
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(
            "prompts are a path, a polars or pandas frame or a list of dictionaries, found "
            f"{type(rows).__name__}"
        )
    return _checked(_of_objects(name, ((f"{name}: row {n}", row) for n, row in enumerate(rows, 1))))


def _checked(sheet: Sheet) -> Sheet:
    if len(sheet.columns) > COLUMNS:
        raise DataError(
            f"{sheet.origin} has {len(sheet.columns)} columns, more than the {COLUMNS} that are read"
        )
    for column, where in sheet.columns.items():
        if not isinstance(column, str) or not NAME.fullmatch(column):
            raise DataError(f"{where}: {str(column)[:80]!r} is no name of a column")
    return sheet


def _csv(path: Path) -> Sheet:
    """Commas or semicolons between columns, whichever the first line has more of."""
    text = reading.read_text(path)
    lines = text.split("\n")
    mark = max(",;", key=lambda mark: len(QUOTED.sub("", lines[0]).split(mark)))
    cell = rf'(?:{QUOTED.pattern}|[^"\n{mark}]*)'
    whole = re.compile(rf"{cell}(?:{mark}{cell})*")

    def rows() -> Iterator[tuple[int, list[str]]]:
        reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True), 1
        try:
            for row in reader:
                if not whole.fullmatch("\n".join(lines[line - 1 : reader.line_num])):
                    raise DataError(
                        f"{path}:{line}: malformed CSV: a quote within a text is written twice, and the text "
                        f"in quotes directly after the {mark!r}"
                    )
                yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{line}: malformed CSV: {error}; is a quote never closed?") from error

    return _of_lines(path, rows(), ".," if mark == ";" else ".")


def _tsv(path: Path) -> Sheet:
    """Tabs between columns; there is no quoting."""

    def rows() -> Iterator[tuple[int, list[str]]]:
        # Not splitlines(): it would also cut at form feeds and Unicode separators inside a cell.
        for line, text in enumerate(reading.read_text(path).split("\n"), 1):
            row = text.split("\t") if text else []
            if any(QUOTED.fullmatch(cell) for cell in row):
                raise DataError(
                    f"{path}:{line}: a cell in quotes, which .tsv has not; save as .csv, or take them away"
                )
            yield line, row

    return _of_lines(path, rows(), ".")


def _of_lines(path: Path, rows: Iterator[tuple[int, list[str]]], decimals: str) -> Sheet:
    """The table whose first row that is not empty names the columns."""
    filled = ((line, row) for line, row in rows if row)
    first, names = next(filled, (1, []))
    twice = [name for name, n in Counter(filter(str.strip, names)).items() if n > 1]
    if twice:
        raise DataError(f"{path}:{first}: two columns are called `{twice[0]}`")
    records: list[Record] = []
    for line, row in filled:
        if len(row) != len(names):
            raise DataError(
                f"{path}:{line}: {len(names)} columns are expected, found {len(row)}; a text that holds what "
                "divides them stands in double quotes (.csv)"
            )
        cells = {name: cell for name, cell in zip(names, row, strict=True) if cell.strip()}
        if "" in map(str.strip, cells):
            number = next(n for n, name in enumerate(names) if not name.strip() and row[n].strip()) + 1
            raise DataError(f"{path}:{first}: column {number} has no name; give it one, or leave it out")
        if cells:
            _count(len(records), path)
            records.append(Record(f"{path}:{line}", cells))
    columns = {name: f"{path}:{first}" for name in names if name.strip()}
    return Sheet(str(path), columns, records, decimals)


def _jsonl(path: Path) -> Sheet:
    """One object a line."""

    def objects() -> Iterator[tuple[str, Any]]:
        for line, text in enumerate(reading.read_text(path).split("\n"), 1):
            if text.strip():
                yield f"{path}:{line}", reading.parse_json(text, path, line, strict=True)

    return _of_objects(str(path), objects())


def _json(path: Path) -> Sheet:
    """A list of objects."""
    records = reading.read_list(path, strict=True)
    return _of_objects(str(path), ((f"{path}: record {n}", record) for n, record in enumerate(records, 1)))


def _parquet(path: Path) -> Sheet:
    """Flat columns; refused by what its footer says before any is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def objects() -> Iterator[tuple[str, Any]]:
        size, number = 0, 0
        for batch in file.iter_batches(1000):
            size += batch.nbytes
            if size > MIB * 2**20:
                raise DataError(f"{path} has more than {MIB} MiB of texts, which is what is read; divide it")
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row

    try:
        with pq.ParquetFile(path) as file:
            _count(file.metadata.num_rows - 1, path)
            names = file.schema_arrow.names
            if twice := [name for name, n in Counter(names).items() if n > 1]:
                raise DataError(f"{path}: two columns are called `{twice[0]}`")
            sheet = _of_objects(str(path), objects())
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DataError(f"{path} is no Parquet file that can be read: {reason}") from error
    return Sheet(str(path), {name: str(path) for name in names}, sheet.records)


def _of_objects(origin: str, objects: Iterable[tuple[str, Any]]) -> Sheet:
    columns: dict[str, str] = {}
    records: list[Record] = []
    for where, row in objects:
        if not isinstance(row, dict):
            raise DataError(f"{where}: an object is expected, found {reading.kind(row)}")
        columns |= {name: where for name in row if name not in columns}
        cells = {name: cell for name, cell in row.items() if cell is not None and str(cell).strip()}
        if cells:
            _count(len(records), where)
            records.append(Record(where, cells))
    return Sheet(origin, columns, records)


def _count(before: int, where: object) -> None:
    if before >= ROWS:
        raise DataError(f"{where}: more than {ROWS:,} records, which is what is read; divide the file")


FORMS: Mapping[str, Callable[[Path], Sheet]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}
"""Ending of a file's name → how it is read."""
