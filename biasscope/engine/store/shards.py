"""Tables as Parquet: each against its declared columns. No pickle.

A shard is read only after its sha256 agreed with the journal's: polars and pyarrow read some flipped bits
without a word.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from biasscope.engine.schemas import (
    ACTIVATIONS,
    BANDS,
    CONDITIONAL,
    COVARIATES,
    EDGES,
    EDITS,
    EFFECTS,
    FITS,
    GRAPH,
    GROUPS,
    MEANS,
    PATTERNS,
    PREDICTIONS,
    PROBES,
    PROMPTS,
    RELIABILITY,
    SCORES,
    SUBSETS,
    SUMMARY,
    TRIPLES,
    TWINS,
)
from biasscope.engine.store.files import replace, write_bytes

SCHEMA_VERSION = 2
SCHEMAS = {
    "effects": EFFECTS,
    "exact": EFFECTS,
    "partial": EFFECTS,
    "aside": EFFECTS,
    "floor": EFFECTS,
    "conditional": CONDITIONAL,
    "groups": GROUPS,
    "neurons": SUMMARY,
    "graph": GRAPH,
    "edges": EDGES,
    "control": EFFECTS,
    "scores": SCORES,
    "triples": TRIPLES,
    "subsets": SUBSETS,
    "covariates": COVARIATES,
    "means": MEANS,
    "twins": TWINS,
    "prompts": PROMPTS,
    "patterns": PATTERNS,
    "activations": ACTIVATIONS,
    "predictions": PREDICTIONS,
    "bands": BANDS,
    "probes": PROBES,
    "edits": EDITS,
    "fits": FITS,
    "audit": EFFECTS,
    "estimates": EFFECTS,
    "summary": SUMMARY,
    "reliability": RELIABILITY,
}
"""Table → its columns; `exact`: what attribution is calibrated with, `partial`: of sites that a race gave up,
`control`: effects on the control; `audit`: of heads in edited models, `estimates`: of those that were not
replaced.
"""


def encoded(frame: pl.DataFrame, schema: pl.Schema, name: str) -> bytes:
    """The frame as the bytes of a zstd Parquet file, after comparing its columns with the declared ones.

    A list column whose lists have one length has that in its type; a head's width and the model's need not be
    one (Gemma 3, Qwen 3).
    """
    if frame.schema != schema:
        raise TypeError(f"{name} has columns {dict(frame.schema)}, declared are {dict(schema)}")
    # not polars' own writer: its errors carry no errno, so a full disk could not be told from another fault
    sink = pa.BufferOutputStream()
    pq.write_table(_arrow(frame), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _arrow(frame: pl.DataFrame) -> pa.Table:
    for column, kind in frame.schema.items():
        lengths = frame[column].list.len() if isinstance(kind, pl.List) else None
        if lengths is not None and lengths.n_unique() == 1 and lengths[0]:  # null: a vector that none has
            frame = frame.with_columns(pl.col(column).list.to_array(lengths[0]))
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def write_table(file: Path, frame: pl.DataFrame, schema: pl.Schema) -> str:
    """Write the frame as a Parquet file; returns its sha256."""
    return write_bytes(file, encoded(frame, schema, file.name))


def write_stream(file: Path, frames: Iterable[pl.DataFrame], schema: pl.Schema) -> None:
    """Write frames that need not fit into memory together as one Parquet file, a row group each."""

    def write(temp: Path) -> None:
        parts = (frame for frame in frames if frame.height)
        first = next(parts, schema.to_frame())
        # a list column has lists of one length, which only the first frame knows
        with pq.ParquetWriter(temp, _arrow(first).schema, compression="zstd") as writer:
            for frame in itertools.chain([first], parts):
                if frame.schema != schema:
                    raise TypeError(
                        f"{file.name} has columns {dict(frame.schema)}, declared are {dict(schema)}"
                    )
                writer.write_table(_arrow(frame))

    replace(file, write, 0)


def decoded(content: bytes, schema: pl.Schema) -> pl.DataFrame:
    """The frame of a shard's bytes."""
    frame = pl.from_arrow(pq.read_table(pa.BufferReader(content)), schema_overrides=dict(schema))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow gives a Series only for an array
    return frame.cast(dict(schema))  # type: ignore[arg-type]
