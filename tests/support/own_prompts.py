"""Prompts of one's own in every form that is read."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl

import biasscope as bs
from biasscope.engine.data import datasets
from biasscope.engine.types import Dataset

ROWS: list[dict[str, Any]] = [
    {"id": "n1", "prompt": "The nurse said that", "a": "he", "b": "she", "group": "nurse", "share": 10.42},
    {"id": "n2", "prompt": 'The nurse, "so", late', "a": "he", "b": "she", "group": "nurse", "share": 10.42},
    {"id": "b1", "prompt": "The baker said that", "a": "he", "b": "she", "group": "baker", "share": 60.0},
    {"id": "c1", "prompt": "The clerk said that", "a": "er", "b": "ßie", "group": "clerk", "per_token": True},
]
ROWS[3]["source"] = "Ärzteblatt | <b>5</b>"


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def as_csv(rows: list[dict[str, Any]], mark: str = ",") -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, delimiter=mark)
    writer.writeheader()
    writer.writerows(
        {name: json.dumps(cell) if isinstance(cell, bool) else cell for name, cell in row.items()}
        for row in rows
    )
    return out.getvalue()


def form(kind: str, folder: Path, rows: list[dict[str, Any]]) -> Any:
    """The rows in one of the forms that are read: a path, or a table."""
    path = folder / f"mine.{kind}"
    if kind == "csv":
        return write(path, as_csv(rows))
    if kind == "tsv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[row.get(name, "") for name in names] for row in rows]
        return write(path, "\n".join("\t".join(map(str, line)) for line in [names, *cells]) + "\n")
    if kind == "jsonl":
        return write(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    if kind == "json":
        return write(path, json.dumps(rows))
    frame = pl.DataFrame(rows, infer_schema_length=None)
    if kind == "parquet":
        frame.write_parquet(path)
        return str(path)
    return {"polars": frame, "pandas": pd.DataFrame(rows), "list": rows}[kind]


def load(path: str, **how: bool) -> Dataset:
    return datasets.read(path, Path("nowhere"), **how)


def own(*rows: dict[str, Any], **how: bool) -> Dataset:
    return bs.prompts(list(rows), **how)


def row(**cells: Any) -> dict[str, Any]:
    return {"prompt": "The nurse said that", "a": "he", "b": "she", **cells}


def winogender_as_rows(truth: Dataset) -> list[dict[str, Any]]:
    """WinoGender as a user would write it: pronouns, occupations and their share of men."""
    men = truth.covariates[0].values
    return [
        {"id": e.id, "prompt": e.prompt, "a": e.stereo, "b": e.anti, "occupation": e.group}
        | {"suffix": e.suffix, "category": "gender", "covariate: share of men [%]": repr(men[e.group])}
        for e in truth.examples
    ]
