"""Scores of somebody else's model: strict reading, and the join with the triples."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biasscope.engine.data import predictions
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.schemas import TRIPLES
from tests.support.tiny_data import intersentence, intrasentence


def scored(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores -1, -2, -3 of stereotype, anti-stereotype, unrelated."""
    return [{"id": s["id"], "score": -1.0 - rank} for r in records for rank, s in enumerate(r["sentences"])]


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_list_of_one_split_is_complete(data: Path, tmp_path: Path) -> None:
    table = predictions.load(write(tmp_path, scored(intrasentence())), "stereoset", data)
    assert table.schema == TRIPLES
    assert set(table["split"]) == {"intrasentence"}
    assert table.select("stereo", "anti", "unrelated").unique().rows() == [(-1.0, -2.0, -3.0)]


def test_the_official_form_gives_both_splits(data: Path, tmp_path: Path) -> None:
    both = {"intrasentence": scored(intrasentence()), "intersentence": scored(intersentence())}
    assert list(predictions.load(write(tmp_path, both), "stereoset", data)["split"]) == [
        "intrasentence"
    ] * 6 + ["intersentence"]


def test_ids_decide_the_split_not_the_name_of_the_list(data: Path, tmp_path: Path) -> None:
    wrong = {"intrasentence": scored(intersentence()), "intersentence": []}
    assert list(predictions.load(write(tmp_path, wrong), "stereoset", data)["split"]) == ["intersentence"]


def test_a_narrower_dataset_uses_its_triples_only(data: Path, tmp_path: Path) -> None:
    table = predictions.load(write(tmp_path, scored(intrasentence())), "stereoset_gender", data)
    assert list(table["example_id"]) == ["e6"]


def test_a_narrower_dataset_needs_its_scores_only(data: Path, tmp_path: Path) -> None:
    assert (
        predictions.load(write(tmp_path, scored(intrasentence()[5:])), "stereoset_gender", data).height == 1
    )


def test_unknown_ids_are_counted(data: Path, tmp_path: Path) -> None:
    items = [*scored(intrasentence()), {"id": "x", "score": 1}, {"id": "y", "score": 1}]
    with pytest.raises(DataError, match=r"2 ids are unknown to StereoSet \(x, y\)"):
        predictions.load(write(tmp_path, items), "stereoset_gender", data)


def test_missing_ids_are_counted(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions\.json: 2 of 18 ids have no score"):
        predictions.load(write(tmp_path, scored(intrasentence())[2:]), "stereoset", data)


def test_a_split_with_one_id_must_be_complete(data: Path, tmp_path: Path) -> None:
    items = scored(intrasentence()) + scored(intersentence())[:1]
    with pytest.raises(DataError, match="2 of 21 ids have no score"):
        predictions.load(write(tmp_path, items), "stereoset", data)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [{"id": "a", "score": "0.5"}, {"id": "b", "score": None}, {"id": "c", "score": True}],
            "3 × score that is not a number",
        ),
        (
            [{"id": "a", "score": float("nan")}, {"id": "b", "score": float("-inf")}],
            "2 × score that is not finite",
        ),
        ([{"id": "a", "score": 10**400}], "1 × score that is not finite"),
        ([{"id": "a", "score": 1}, {"id": "a", "score": 2}], r"1 × duplicate id \(a\)"),
        ([{"score": 1}, 3], "2 × entry without an id"),
        ([], "no score at all"),
        ({"scores": []}, "a list of"),
        ({"intrasentence": {}}, "a list of"),
        (3, "a list of"),
    ],
)
def test_faulty_predictions_are_refused_with_counts(tmp_path: Path, items: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predictions.read(write(tmp_path, items))


def test_only_stereoset_takes_predictions(data: Path) -> None:
    with pytest.raises(UsageError, match="stereoset_gender"):
        predictions.join({"a": 1.0}, "winogender", data)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(st.fixed_dictionaries({}, optional={"id": ANY, "score": ANY}), max_size=4) | ANY)
def test_any_json_is_scores_or_a_data_error(tmp_path: Path, items: Any) -> None:
    try:
        scores = predictions.read(write(tmp_path, items))
    except DataError:
        return
    assert all(isinstance(score, float) for score in scores.values())
