"""StereoSet's records: every fault has its reason, and is refused or counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biasscope.engine.data import datasets
from biasscope.engine.errors import DataError
from tests.support.tiny_data import intrasentence, record

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def store(data: Path, records: Any) -> Path:
    path = data / "stereoset" / "intrasentence.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def broken(fault: str) -> list[Any]:
    """The tiny records with one fault in the first."""
    records: list[Any] = intrasentence()
    first, trio = records[0], records[0]["sentences"]
    if fault == "label":
        trio[0]["gold_label"] = "related"
    elif fault == "triple":
        trio[0]["gold_label"] = "unrelated"
    elif fault == "field":
        del first["context"]
    elif fault == "sentence field":
        trio[1]["sentence"] = 5
    elif fault == "id":
        first["id"] = "e2"
    elif fault == "sentence id":
        trio[0]["id"] = trio[1]["id"]
    elif fault == "type":
        first["bias_type"] = "age"
    elif fault == "mismatch":
        trio[0]["sentence"] = "The chess player is asian."
    elif fault == "empty filler":
        trio[0]["sentence"] = "The chess player was ."
    elif fault == "no blank":
        first["context"] = "The chess player was here."
    else:
        records[0] = "text"
    return records


FAULTS = {
    "label": "label not in the three",
    "triple": "not one sentence of each label",
    "field": "missing field 'context'",
    "sentence field": "missing field 'sentence' of a sentence",
    "id": "duplicate id",
    "sentence id": "duplicate sentence id",
    "type": "bias type not in the four",
    "mismatch": "a sentence does not match its context",
    "empty filler": "a sentence does not match its context",
    "no blank": "a sentence does not match its context",
    "object": "not an object",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_with_the_record_it_is_in(data: Path, fault: str) -> None:
    path = store(data, broken(fault))
    with pytest.raises(DataError, match="1 of 6 records cannot be used") as error:
        datasets.load("stereoset", data)
    assert f"record {2 if fault == 'id' else 1}" in str(error.value)
    assert FAULTS[fault] in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_skip_invalid_counts_a_fault_by_its_reason(data: Path, fault: str) -> None:
    store(data, broken(fault))
    loaded = datasets.load("stereoset", data, skip_invalid=True)
    assert loaded.dropped == {FAULTS[fault]: 1}
    assert loaded.found == len(loaded.examples) + loaded.dropped.total() == 6
    assert "is not the published stereoset" in loaded.notes[0]


def test_many_faults_are_listed_up_to_twenty(data: Path) -> None:
    store(data, [{} for _ in range(22)])
    with pytest.raises(DataError) as error:
        datasets.load("stereoset", data)
    assert str(error.value).count("  record ") == 20
    assert "and 2 more" in str(error.value)


def test_skip_invalid_does_not_excuse_other_content(data: Path) -> None:
    store(data, intrasentence()[:5])
    with pytest.raises(DataError, match="content digest"):
        datasets.load("stereoset", data, skip_invalid=True)


def test_exchanged_labels_are_refused_even_with_skip_invalid(data: Path) -> None:
    turn = {"stereotype": "unrelated", "unrelated": "anti-stereotype", "anti-stereotype": "stereotype"}
    records = intrasentence()
    store(
        data,
        [
            r | {"sentences": [s | {"gold_label": turn[s["gold_label"]]} for s in r["sentences"]]}
            for r in records
        ],
    )
    with pytest.raises(DataError, match=r"labels are exchanged: 'The chess player was \w+\.'"):
        datasets.load("stereoset", data, skip_invalid=True)


def scalars() -> st.SearchStrategy[Any]:
    return (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.sampled_from(["e1", "", "BLANK", "The BLANK.", "gender"])
    )


@FEW
@given(data_=st.data())
def test_any_damage_to_a_record_is_a_dataset_or_a_data_error(data: Path, data_: st.DataObject) -> None:
    records: list[Any] = intrasentence()
    field = data_.draw(st.sampled_from(list(records[0])))
    records[0][field] = data_.draw(
        scalars() | st.lists(scalars()) | st.dictionaries(st.sampled_from(["id", "sentence"]), scalars())
    )
    store(data, records)
    try:
        loaded = datasets.load("stereoset", data, skip_invalid=True)
    except DataError as error:
        # A valid record that says something else than the published one.
        assert "content digest" in str(error)  # noqa: PT017 - any of two outcomes
        return
    assert loaded.found == len(loaded.examples) + loaded.dropped.total() == 6


@FEW
@given(
    context=st.text(max_size=40) | st.lists(st.sampled_from(["BLANK", " ", "a", "İ", "ß", "."])).map("".join),
    sentence=st.text(max_size=40) | st.lists(st.sampled_from(["x", " ", "A", "i̇", "SS", "."])).map("".join),
)
def test_any_context_and_sentence_are_a_dataset_or_a_data_error(
    data: Path, context: str, sentence: str
) -> None:
    odd = record(7, "BLANK.", ("a", "b", "c")) | {"context": context}
    odd["sentences"][0]["sentence"] = sentence
    store(data, [*intrasentence(), odd])
    try:
        assert datasets.load("stereoset", data, skip_invalid=True).found == 7
    except DataError as error:
        assert "content digest" in str(error) or "surrogate" in str(error)  # noqa: PT017 - any of two outcomes
