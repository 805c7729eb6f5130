"""What the golden runs gave, read from their folder and made comparable: nothing of the machine, the day or
the libraries is left in it.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from .steps import STEPS, Step

STORED = Path(__file__).with_name("record.json")
CLOCK = (
    (r'"timing": ?\{[^}]*\}', '"timing": "‹seconds›"'),
    (r'"peak_rss_bytes": ?\d+', '"peak_rss_bytes": "‹bytes›"'),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?", "‹time›"),
    (r"\d{4}-\d\d-\d\d", "‹day›"),
)
"""What differs between two runs of the same code."""
MACHINE = (
    (r'"versions": ?\{[^}]*\}', '"versions": "‹versions›"'),
    (r"(?m)^- versions: .*$", "- versions: ‹versions›"),
    (r"biasscope \d+\.\d+\.\d+\S*?(?=[;\s])", "biasscope ‹version›"),
    (r"\b[0-9a-f]{64}\b", "‹sha256›"),
    (r"-[0-9a-f]{12}\.(svg|png)", r"-‹digest›.\1"),
)
"""What differs between two machines or their libraries: a figure's name and a table's sha256 hang on the last
bits of its numbers.
"""
ENVIRONMENT = ("versions", "digest", "tokenizer", "from")
"""Fields of a run's identity that hang on the libraries: of the model only its weights' digest."""
WHOLE = 250
"""Rows up to which a table's numbers are kept one by one."""
SAMPLED = 40
LINES = 6
"""Of output with a row per example, how many lines are kept."""


def masked(text: str, rules: tuple[tuple[str, str], ...], keys: Mapping[str, str] | None = None) -> str:
    """The text with what a rule names, and the keys of runs, replaced by what they are."""
    for key, name in (keys or {}).items():
        text = text.replace(key, f"‹{name}›")
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def observed(folder: Path, data: Path | None) -> dict[str, Any]:
    """Step → what it printed, saved and stored, and the study's files it wrote."""
    keys = {} if data is None else {str(data): "data"}
    steps: dict[str, Any] = {}
    for step in STEPS:
        if (folder / "stdout" / f"{step.name}.json").is_file():
            steps[step.name] = _step(folder, step, keys)
            if step.resumes and steps[step.name]["runs"] == steps[step.resumes]["runs"]:
                steps[step.name]["runs"] = f"‹as of {step.resumes}›"
    return steps


def _step(folder: Path, step: Step, keys: dict[str, str]) -> dict[str, Any]:
    document = json.loads((folder / "stdout" / f"{step.name}.json").read_text(encoding="utf-8"))
    parts = document["run"]["datasets"] if isinstance(document, dict) and "run" in document else []
    for part in parts:
        name = f"key of {step.name}, {part['name']}"
        keys |= {key: keys.get(key, name) for key in (part["run_key"], part["run_key"][:8])}
    saved = {part["name"]: _run(folder, part, keys) for part in parts}
    printed = {
        form: _printed(folder, step.name, form, keys, parts)
        for form in (form or "json" for form in step.forms)
    }
    written = sorted((folder / "study" / step.name).glob("*/*.json"))
    texts = {
        file: masked(file.read_text(encoding="utf-8"), MACHINE if file.name == "figures.json" else (), keys)
        for file in written
    }
    study = {f"{file.parent.name}/{file.name}": json.loads(text) for file, text in texts.items()}
    found = {"words": step.words, "stdout": printed, "runs": saved, "study": study}
    if step.name == "report":
        found["report"] = masked(
            (folder / "results/report.md").read_text(encoding="utf-8"), CLOCK + MACHINE, keys
        ).split("\n")
    return {name: value for name, value in found.items() if value}


def _printed(folder: Path, name: str, form: str, keys: Mapping[str, str], parts: list[dict[str, Any]]) -> Any:
    """A document without the rows that are in its tables, or lines."""
    text = (folder / "stdout" / f"{name}.{form}").read_text(encoding="utf-8")
    plain = masked(text, CLOCK + MACHINE, keys)
    if form == "json":
        document = json.loads(plain)
        for table in ("summary", "reliability") if parts else ():
            rows = [row for part in parts for row in _rows(folder / part["path"] / f"{table}.parquet")]
            document[table] = "‹as in the tables›" if json.loads(text)[table] == rows else document[table]
        return document
    lines = plain.rstrip("\n").split("\n")
    return {"lines": len(lines), "first": lines[:LINES]} if form in ("csv", "markdown", "rows") else lines


def _rows(file: Path) -> list[dict[str, Any]]:
    rows = pl.read_parquet(file).rows(named=True) if file.is_file() else []
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in rows
    ]


def _run(folder: Path, part: dict[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """One dataset's run: its identity, its units in the order in which they were stored, its tables."""
    saved, stored = folder / part["path"], folder / "cache/runs" / part["run_key"]
    for table, sha256 in part["tables"].items():
        assert hashlib.sha256((saved / f"{table}.parquet").read_bytes()).hexdigest() == sha256, (
            f"{saved}: {table} is not what its record says"
        )
    content = (stored / "key.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == part["run_key"], f"{stored} is not named after its content"
    lines = [json.loads(line) for line in (stored / "journal.jsonl").read_bytes().splitlines()]
    return {
        "key": part["run_key"],
        **_identity(json.loads(content), keys),
        "units": [line["unit"] for line in lines if "unit" in line],
        "facts": sorted({line["fact"] for line in lines if "fact" in line}),
        "files": sorted(file.name for file in saved.iterdir()),
        "tables": {
            table: fingerprint(pl.read_parquet(saved / f"{table}.parquet")) for table in part["tables"]
        },
    }


def _identity(found: dict[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """The identity without what hangs on the libraries, and that apart: the key is compared only where the
    latter is equal.
    """
    model = found.get("model") or {}
    inside = {name: found[name] for name in ENVIRONMENT if name in found} | {"digest": model.get("digest")}
    kept = {name: "‹environment›" if name in ENVIRONMENT else value for name, value in found.items()}
    kept |= {"model": {**model, "digest": "‹environment›"}, "examples": digest(found["examples"])}
    if "from" in found:
        kept["from"] = masked(str(found["from"]), (), keys)
    return {"environment": digest(inside), "identity": kept}


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for the value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(table: pl.DataFrame) -> dict[str, Any]:
    """Schema, height, the order of rows by all that is no float, and the floats: all of a small table, sums
    and a sample of others.
    """
    floats = [name for name, kind in table.schema.items() if kind.is_float() or _nested(kind)]
    words = table.drop(floats)
    return {
        "schema": {name: str(kind) for name, kind in table.schema.items()},
        "rows": table.height,
        "order": digest(words.rows()),
        "first": [" ".join("–" if v is None else str(v) for v in row) for row in words.head(2).rows()],
        "floats": {name: _numbers(table[name]) for name in floats if table[name].null_count() < table.height},
    }


def _nested(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.List | pl.Array)


def _numbers(column: pl.Series) -> list[float | None]:
    """The numbers of a column, or number of nulls, sum, sum of sizes and a sample evenly spread."""
    if _nested(column.dtype):
        column = column.explode()
    if column.len() <= WHOLE:
        return [short(value) for value in column]
    sample = column.gather_every(column.len() // SAMPLED)
    return [column.null_count(), short(column.sum()), short(column.abs().sum()), *map(short, sample)]


def short(value: float | None) -> float | None:
    """The value to seven digits; null where it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def written(value: Any, indent: str = "") -> Iterator[str]:
    """JSON that a diff shows well: a key or a text a line, numbers of one column in one line."""
    if isinstance(value, dict) and value:
        yield "{"
        for number, (name, inner) in enumerate(value.items()):
            lines = list(written(inner, indent + " "))
            lines[0] = f"{indent} {json.dumps(name, ensure_ascii=False)}: {lines[0]}"
            lines[-1] += "," if number < len(value) - 1 else ""
            yield from lines
        yield indent + "}"
    elif isinstance(value, list) and any(isinstance(inner, str | dict) for inner in value):
        yield "["
        for number, inner in enumerate(value):
            lines = list(written(inner, indent + " "))
            lines[0] = f"{indent} {lines[0]}"
            lines[-1] += "," if number < len(value) - 1 else ""
            yield from lines
        yield indent + "]"
    else:
        yield json.dumps(value, ensure_ascii=False, separators=(",", ":"))
