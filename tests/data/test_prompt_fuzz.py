"""Whatever a file of prompts holds, it is a data set that adds up or an error in words; never a traceback."""

import contextlib
import io
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import biasscope as bs
from biasscope.engine.data import prompt_columns
from biasscope.engine.errors import DataError, UsageError
from tests.support.own_prompts import ROWS, as_csv, load

HEADERS = [
    "prompt",
    "a",
    "b",
    "group",
    "covariate: x [%]",
    "twin",
    "per_token",
    "id",
    "term",
    "note",
    "",
    "Prompt",
]
PIECES = [
    "he",
    " ",
    "  ",
    "true",
    "1,5",
    "NaN",
    "1e999",
    '"',
    '""',
    ",",
    ";",
    "\t",
    "\n",
    "\r\n",
    "\x1b",
    "x",
]
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=4).map("".join)
CELL = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(TEXT, max_size=1)
OBJECT = st.dictionaries(st.sampled_from([*prompt_columns.KNOWN, "note", ""]), CELL, max_size=8)
TEMPLATE = {"prompt": "The nurse said that", "a": "he", "b": "she"}


def survives(content: bytes, ending: str) -> None:
    """Read a file of these bytes, as they are and without what cannot be used."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{ending}"
        path.write_bytes(content)
        for skip in (False, True):
            try:
                data = load(str(path), skip_invalid=skip)
            except (DataError, UsageError):
                continue
            assert data.found == len(data.examples) + data.dropped.total()
            assert all(e.prompt and e.stereo and e.anti and e.group for e in data.examples)


@settings(max_examples=150, deadline=None)
@given(header=st.lists(st.sampled_from(HEADERS), max_size=9), body=TEXT, mark=st.sampled_from(",;\t"))
def test_any_text_under_any_header(header: list[str], body: str, mark: str) -> None:
    content = f"{mark.join(header)}\n{body}\n{mark.join(['x', 'y', 'z', *header][: len(header)])}".encode()
    survives(content, ".csv")
    survives(content, ".tsv")


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(OBJECT, max_size=4), extra=TEXT, keep=st.booleans())
def test_any_objects(rows: list[Any], extra: str, keep: bool) -> None:
    rows = [TEMPLATE | row if keep else row for row in rows]
    lines = [json.dumps(row) for row in rows]
    survives("\n".join([*lines, extra]).encode(), ".jsonl")
    survives(json.dumps(rows).encode(), ".json")
    with contextlib.suppress(DataError, UsageError):
        assert bs.prompts(rows, skip_invalid=True).found <= len(rows)


def parquet() -> bytes:
    out = io.BytesIO()
    pl.DataFrame(ROWS, infer_schema_length=None).write_parquet(out)
    return out.getvalue()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ending=st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]))
def test_any_damage_to_a_whole_file(data: Any, ending: str) -> None:
    whole = {
        ".csv": as_csv(ROWS).encode(),
        ".tsv": as_csv(ROWS, "\t").encode(),
        ".jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
        ".json": json.dumps(ROWS).encode(),
        ".parquet": parquet(),
    }[ending]
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, 8))
    survives(whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + cut :], ending)


@settings(max_examples=60, deadline=None)
@given(
    columns=st.lists(st.sampled_from([*prompt_columns.KNOWN, "note"]), unique=True, max_size=5),
    values=st.lists(
        st.sampled_from([[1, 2], [0.5, None], ["x", "y"], [True, None], [[1], [2]], [b"x", b"\xff"]])
    ),
    keep=st.booleans(),
)
def test_any_columns_of_parquet(columns: list[str], values: list[Any], keep: bool) -> None:
    table = {name: [text] * 2 for name, text in TEMPLATE.items()} if keep else {}
    out = io.BytesIO()
    pl.DataFrame(table | dict(zip(columns, values, strict=False))).write_parquet(out)
    survives(out.getvalue(), ".parquet")


def test_random_bytes_are_no_prompts(tmp_path: Path) -> None:
    for ending in (".csv", ".tsv", ".jsonl", ".json", ".parquet"):
        for size in (1, 7, 400):
            path = tmp_path / f"x{ending}"
            path.write_bytes(random.Random(size).randbytes(size))
            for skip in (False, True):
                with pytest.raises((DataError, UsageError)):
                    load(str(path), skip_invalid=skip)
