"""BBQ: how a row becomes an example, that every pair is balanced, and the counts of the published files."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biasscope.engine.data import counterfactuals, datasets
from biasscope.engine.data.datasets import bbq
from biasscope.engine.data.download import download
from biasscope.engine.data.terms import Twin
from biasscope.engine.errors import DataError
from biasscope.engine.types import Example
from tests.support.tiny_published import asked, bbq_rows, lines, published, write

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with the tiny BBQ, as published."""
    return published(monkeypatch, "bbq", tmp_path / "data")


def store(data: Path, rows: list[Any], category: str = "Religion") -> Path:
    """Other rows in the place of a category's."""
    return write(data / "bbq", {f"{category}.jsonl": lines(rows)}) / f"{category}.jsonl"


def test_the_prompt_ends_where_the_answers_part_and_the_suffix_is_what_both_end_with(data: Path) -> None:
    e = datasets.load("bbq_religion", data).examples[0]
    assert e.prompt == "Two people met.\n\nQ: Who forgot the code?\nA: The"
    assert (e.stereo, e.anti, e.suffix) == (" old", " young", " guy's friend")
    assert (e.id, e.group, e.bias_type, e.term) == ("Religion.0", "Religion.1", "religion", "")
    assert dict(e.meta) == {"polarity": "neg", "terms": "nonold|old"}


def test_the_stereotype_of_the_harmless_question_is_the_other_person(data: Path) -> None:
    neg, nonneg = datasets.load("bbq_religion", data).examples
    assert (nonneg.meta["polarity"], nonneg.stereo, nonneg.anti) == ("nonneg", " young", " old")
    assert (neg.stereo, neg.anti) == (" old", " young")
    assert neg.together == nonneg.together != ""


def test_settled_contexts_are_no_examples(data: Path) -> None:
    loaded = datasets.load("bbq_religion", data)
    assert (len(loaded.examples), loaded.found, loaded.dropped) == (2, 2, {})


@pytest.mark.parametrize(
    ("target", "other", "parts"),
    [
        ("The old man", "The young man", ("A: The", " old", " young", " man")),
        ("The old one", "The one", ("A: The", " old one", " one", "")),
        ("Maria", "Bo", ("A:", " Maria", " Bo", "")),
        ("A man", "A man of twenty", ("A: A", " man", " man of twenty", "")),
        ("Old men", "Young men", ("A:", " Old", " Young", " men")),
    ],
)
def test_a_word_at_least_is_left_to_each_answer(data: Path, target: str, other: str, parts: tuple) -> None:
    row = asked(0, "Who?", (target, other, "?"), ("old", "nonold", "unknown"))
    path = store(data, [row, row | {"example_id": 1, "question_polarity": "nonneg"}])
    e = bbq.parse("bbq", path)[0][0]
    assert (e.prompt.split("\n")[-1], e.stereo, e.anti, e.suffix) == parts


def test_the_twin_is_the_prompt_with_the_other_question(data: Path) -> None:
    neg, nonneg = datasets.load("bbq_religion", data).examples
    others = {neg.together: (neg, nonneg)}
    assert counterfactuals.of_polarity(neg, others) == (Twin(nonneg.prompt, "nonneg"),)
    assert counterfactuals.of_polarity(nonneg, others) == (Twin(neg.prompt, "neg"),)
    assert (
        counterfactuals.of_polarity(neg, {neg.together: (neg,)})
        == "the other question of its pair is missing"
    )


def test_the_whole_has_every_category_and_one_has_its_own(data: Path) -> None:
    whole, part = datasets.load("bbq", data), datasets.load("bbq_age", data)
    assert Counter(e.bias_type for e in whole.examples) == {c.lower(): 2 for c in bbq.CATEGORIES}
    assert len({e.id for e in whole.examples}) == 12 and whole.notes == ()
    assert {e.bias_type for e in part.examples} == {"age"} and whole.digest != part.digest


def test_absent_files_are_named_in_a_note_and_a_category_of_its_own_is_refused(data: Path) -> None:
    for category in bbq.BY_FILE:
        (data / "bbq" / f"{category}.jsonl").unlink()
    loaded = datasets.load("bbq", data)
    assert len(loaded.examples) == 8
    assert loaded.notes == (
        "Disability_status.jsonl, Nationality.jsonl not downloaded: these are 4 of 6 categories",
    )
    assert datasets.load("bbq_age", data).notes == ()
    with pytest.raises(DataError, match=r"Nationality\.jsonl does not exist; run `biasscope download bbq "):
        datasets.load("bbq_nationality", data)


def test_a_file_known_by_its_checksum_alone_is_checked_by_it(data: Path) -> None:
    path = data / "bbq" / "Nationality.jsonl"
    path.write_text(path.read_text().replace('"question_index": "1"', '"question_index": 1'))
    with pytest.raises(DataError, match=r"(?s)content digest \w{64}, expected \w{64}"):
        datasets.load("bbq_nationality", data)


def test_some_files_are_enough_for_a_local_copy(data: Path, tmp_path: Path) -> None:
    copy = write(tmp_path / "copy" / "bbq", {"Age.jsonl": lines(bbq_rows())}).parent
    record = download("bbq", tmp_path / "new", local=copy)
    assert set(record["content"]) == {"Age"} and set(record["files"]) == {"Age.jsonl"}
    assert len(datasets.load("bbq", tmp_path / "new").examples) == 2


NEG, _, NONNEG = bbq_rows()
FAULTS: dict[str, tuple[list[Any], int]] = {
    "a field is missing or of another kind": ([[1]], 0),
    "a field is missing or of another kind ": ([NEG | {"context_condition": "both"}], 0),
    "not two persons, one of them of a stereotyped group, and one unknown answer": (
        [NEG | {"additional_metadata": {"stereotyped_groups": ["young", "nonOld", "old"]}}],
        0,
    ),
    "both persons have one answer": ([NEG | {"ans2": NEG["ans0"]}], 0),
    "duplicate example_id": ([NEG, NONNEG, NEG], 2),
    "its pair is not asked about as often with the other polarity": ([NEG], 0),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_faulty_row_is_refused_with_its_line_or_counted(data: Path, reason: str) -> None:
    rows, kept = FAULTS[reason]
    others = [row | {"question_index": "2", "example_id": row["example_id"] + 9} for row in (NEG, NONNEG)]
    path = store(data, [*others, *rows])
    with pytest.raises(DataError, match=rf"(?s)Religion\.jsonl:{2 + len(rows)}: {reason.strip()}"):
        datasets.load("bbq_religion", data)
    loaded = datasets.load("bbq_religion", data, skip_invalid=True)
    assert (loaded.dropped, len(loaded.examples)) == ({reason.strip(): 1}, 2 + kept)
    assert f"{path} is not the published bbq" in loaded.notes[0]


def test_malformed_json_is_refused_with_its_line(data: Path) -> None:
    write(data / "bbq", {"Religion.jsonl": lines([NEG]) + '{"context": }\n'})
    with pytest.raises(DataError, match=r"Religion\.jsonl:2: malformed JSON"):
        datasets.load("bbq_religion", data, skip_invalid=True)


@FEW
@given(
    st.recursive(
        st.none() | st.text(max_size=5) | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(NEG)), inner),
    ),
    st.sampled_from(sorted(NEG)),
)
def test_any_value_in_a_row_is_a_dataset_or_a_data_error(data: Path, value: Any, field: str) -> None:
    store(data, [value, NEG | {field: value}, NONNEG])
    try:
        loaded = datasets.load("bbq_religion", data, skip_invalid=True)
    except DataError:
        return
    assert loaded.found == len(loaded.examples) + loaded.dropped.total()


# Real files


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that are at hand."""
    folder = tmp_path_factory.mktemp("data")
    download("bbq", folder, local=shared_data)
    return folder


COUNTS = {
    "age": (1840, 920),
    "physical_appearance": (788, 390),
    "religion": (600, 300),
    "sexual_orientation": (432, 216),
}


@pytest.mark.real
@pytest.mark.parametrize("category", COUNTS)
def test_the_real_counts(real: Path, category: str) -> None:
    loaded = datasets.load(f"bbq_{category}", real)
    count, sets = COUNTS[category]
    assert (len(loaded.examples), loaded.found, loaded.dropped) == (count, count, {})
    assert len({e.together for e in loaded.examples}) == sets
    assert len({e.group for e in loaded.examples}) == 25
    assert loaded.digest == bbq.ORIGIN.digests[category.capitalize()]


def sets_of(examples: tuple[Example, ...]) -> dict[str, list[Example]]:
    """`together` → its examples."""
    sets: dict[str, list[Example]] = {}
    for e in examples:
        sets.setdefault(e.together, []).append(e)
    return sets


@pytest.mark.real
def test_every_real_set_asks_both_questions_of_the_same_two_persons(real: Path) -> None:
    sets = sets_of(datasets.load("bbq", real).examples)
    assert Counter(map(len, sets.values())) == {2: 1822, 4: 4}
    for examples in sets.values():
        neg, nonneg = ([e for e in examples if e.meta["polarity"] == side] for side in ("neg", "nonneg"))
        assert len(neg) == len(nonneg) and len({e.group for e in examples}) == 1
        assert {(e.stereo, e.anti) for e in neg} == {(e.anti, e.stereo) for e in nonneg}
        assert len({(e.prompt.split("\n\nQ: ")[0], e.suffix) for e in examples}) == 1


@pytest.mark.real
def test_every_real_example_has_one_twin_and_is_its_twin_s(real: Path) -> None:
    sets = sets_of(datasets.load("bbq", real).examples)
    for examples in sets.values():
        twins = {e.prompt: counterfactuals.of_polarity(e, sets) for e in examples}
        assert all(len(found) == 1 and twins[found[0].prompt][0].prompt == p for p, found in twins.items())


@pytest.mark.real
def test_the_real_whole_is_four_of_six(real: Path) -> None:
    loaded = datasets.load("bbq", real)
    assert (len(loaded.examples), len({e.group for e in loaded.examples})) == (3660, 100)
    assert "4 of 6 categories" in loaded.notes[0]
