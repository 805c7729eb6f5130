"""Somebody else's per-sentence StereoSet scores, joined with the triples they belong to."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.data import reading
from biasscope.engine.data.datasets import stereoset, unknown
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.schemas import TRIPLES


def read(path: Path) -> dict[str, float]:
    """Sentence id → score, from a list of {"id", "score"} or the official {"intrasentence": [...],
    "intersentence": [...]}.

    The lists of the official form are taken together: the ids decide the split.
    """
    value = reading.read_json(path)
    parts = (
        value.values()
        if isinstance(value, dict) and value and value.keys() <= {"intrasentence", "intersentence"}
        else [value]
    )
    if not all(isinstance(part, list) for part in parts):
        raise DataError(
            f'{path}: a list of {{"id", "score"}} or '
            '{"intrasentence": [...], "intersentence": [...]} is expected'
        )
    items = [item for part in parts for item in part]
    faults = Counter(fault for item in items if (fault := _fault(item)))
    repeated = Counter(item["id"] for item in items if not _fault(item))
    doubles = [name for name, count in repeated.items() if count > 1]
    if doubles:
        faults[f"duplicate id ({', '.join(doubles[:5])})"] = len(doubles)
    if faults or not items:
        counts = "; ".join(f"{count} × {fault}" for fault, count in faults.items()) or "no score at all"
        raise DataError(
            f"{path}: {counts}; found {len(items)} entries, each must be a sentence id with one finite score"
        )
    return {item["id"]: float(item["score"]) for item in items}


def _fault(item: Any) -> str:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return "entry without an id"
    score = item.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float):
        return "score that is not a number"
    # abs() first: an integer beyond the floats would raise.
    return "" if abs(score) <= 1.7e308 and math.isfinite(score) else "score that is not finite"


def join(scores: dict[str, float], name: str, data_dir: Path) -> pl.DataFrame:
    """The scores of the named dataset's triples (schema TRIPLES), for every split of which the scores hold an
    id.

    Every id must belong to StereoSet, and each split that occurs must be complete for the named dataset.
    DataError with counts otherwise.
    """
    if name not in stereoset.FILL_IN:
        raise UsageError(unknown("dataset for predictions", name, stereoset.FILL_IN))
    triples = stereoset.triples(data_dir)
    ids = pl.concat_list("stereo_id", "anti_id", "unrelated_id")
    splits = triples.select("split", id=ids).explode("id")
    split_of = dict(zip(splits["id"], splits["split"], strict=True))
    strangers = [sentence for sentence in scores if sentence not in split_of]
    present = {split_of[sentence] for sentence in scores if sentence in split_of}
    named = pl.lit(name == "stereoset") | (pl.lit("stereoset_") + pl.col("bias_type") == name)
    wanted = triples.filter(pl.col("split").is_in(list(present)) & named)
    missing = [sentence for sentence in wanted.select(id=ids).explode("id")["id"] if sentence not in scores]
    _refuse(strangers, missing, wanted.height * 3, sorted(set(triples["split"])))
    columns = {
        kind: pl.col(f"{kind}_id").replace_strict(scores, return_dtype=pl.Float64)
        for kind in ("stereo", "anti", "unrelated")
    }
    return wanted.with_columns(**columns).select(TRIPLES.names())


def _refuse(strangers: list[str], missing: list[str], needed: int, splits: list[str]) -> None:
    if strangers:
        raise DataError(
            f"{len(strangers)} ids are unknown to StereoSet ({', '.join(strangers[:5])}); downloaded here: "
            f"{', '.join(splits)};\n"
            "check that the predictions are of the public development set"
        )
    if missing:
        raise DataError(
            f"{len(missing)} of {needed} ids have no score ({', '.join(missing[:5])}); score every sentence "
            "of the split"
        )


def load(path: Path, name: str, data_dir: Path) -> pl.DataFrame:
    """The scored triples of a predictions file (schema TRIPLES)."""
    try:
        return join(read(path), name, data_dir)
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
