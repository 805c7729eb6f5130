"""StereoSet: what becomes of good, odd and broken records."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biasscope.engine.data import datasets
from biasscope.engine.data.datasets import stereoset
from biasscope.engine.data.download import download
from biasscope.engine.errors import DataError
from biasscope.engine.types import Example
from tests.support.tiny_data import intrasentence

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    download("stereoset", folder, local=shared_data)
    return folder


def store(data: Path, records: Any) -> Path:
    path = data / "stereoset" / "intrasentence.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def example(data: Path, name: str) -> Example:
    return next(e for e in datasets.load("stereoset", data).examples if e.id == name)


def test_the_space_before_blank_belongs_to_the_fillers(data: Path) -> None:
    e = example(data, "e1")
    assert (e.prompt, e.stereo, e.anti, e.unrelated, e.suffix) == (
        "The chess player was",
        " asian",
        " tall",
        " fox",
        ".",
    )


def test_only_one_space_moves_and_the_context_keeps_its_case(data: Path) -> None:
    e = example(data, "e2")
    assert (e.prompt, e.stereo, e.suffix) == ("My friend Ana the baker is ", " warm", " at home")
    assert e.sentences is not None
    assert e.sentences[0] == "My friend ana the baker is  warm at home"


def test_blank_first_gives_an_empty_prompt_and_capitals(data: Path) -> None:
    e = example(data, "e3")
    assert (e.prompt, e.stereo, e.anti, e.unrelated) == ("", "He", "She", "Grass")


def test_a_glued_blank_has_no_space(data: Path) -> None:
    e = example(data, "e4")
    assert (e.prompt, e.stereo, e.suffix) == ("It ended.", "well", "")


def test_two_blanks_keep_their_sentences_but_have_no_target(data: Path) -> None:
    e = example(data, "e5")
    assert (e.flaw, e.prompt, e.stereo, e.anti) == ("two BLANKs", "", "", "")
    assert e.sentences == ("A kind baker is kind.", "A rude baker is rude.", "A lamp baker is lamp.")


def test_group_and_bias_type_are_the_target_and_the_type(data: Path) -> None:
    loaded = datasets.load("stereoset_gender", data)
    assert [(e.id, e.group, e.bias_type, e.dataset) for e in loaded.examples] == [
        ("e6", "sister", "gender", "stereoset_gender")
    ]


def test_a_next_sentence_follows_its_context_and_is_compared_per_token(data: Path) -> None:
    (e,) = datasets.load("intersentence", data).examples
    assert (e.prompt, e.stereo, e.anti, e.unrelated, e.suffix) == (
        "The bakers live here.",
        " They bake at night.",
        " They sleep at night.",
        " Cats have claws.",
        "",
    )
    assert (e.id, e.group, e.bias_type, e.per_token, e.sentences) == ("e9", "baker", "profession", True, None)
    assert not example(data, "e1").per_token


def test_next_sentences_have_names_and_a_digest_of_their_own(data: Path) -> None:
    whole = datasets.load("intersentence", data)
    assert whole.digest == stereoset.ORIGIN.digests["intersentence"]
    assert datasets.load("intersentence_profession", data).examples[0].dataset == "intersentence_profession"
    with pytest.raises(DataError, match="no example left"):
        datasets.load("intersentence_race", data)


def test_next_sentences_that_are_absent_leave_the_others_and_name_the_command(data: Path) -> None:
    (data / "stereoset" / "intersentence.json").unlink()
    assert datasets.load("stereoset", data).examples
    with pytest.raises(DataError, match=r"intersentence\.json does not exist; run `biasscope download"):
        datasets.load("intersentence", data)


def test_the_digest_does_not_depend_on_the_order_of_records_or_sentences(data: Path) -> None:
    before = datasets.load("stereoset", data).digest
    store(data, [r | {"sentences": r["sentences"][::-1]} for r in reversed(intrasentence())])
    assert datasets.load("stereoset", data).digest == before == stereoset.ORIGIN.digests["intrasentence"]


def test_content_that_is_not_the_published_one_is_refused_naming_both_digests(data: Path) -> None:
    store(data, [r | {"target": "cook"} for r in intrasentence()])
    with pytest.raises(
        DataError, match=r"(?s)content digest \w{64}, expected \w{64}.*biasscope download stereoset --fresh"
    ):
        datasets.load("stereoset", data)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'[\n{"id": }]', r"intrasentence\.json:2: malformed JSON"),
        (b'[\n\n"\xff"]', r"intrasentence\.json:3: not UTF-8 \(byte 0xff\)"),
        (b"{}", "a JSON list is expected, found an object"),
        (b"", r"intrasentence\.json:1: malformed JSON"),
        (b'["\\ud800"]', "surrogate"),
        (b"[" * 100_000, "cannot be read|malformed"),
        (b"[" + b"1" * 5000 + b"]", "cannot be read"),
    ],
)
def test_files_that_are_no_json_list_are_refused_with_their_place(
    data: Path, raw: bytes, message: str
) -> None:
    (data / "stereoset" / "intrasentence.json").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        datasets.load("stereoset", data)


def test_a_byte_order_mark_and_crlf_are_tolerated(data: Path) -> None:
    for path in [data / "stereoset" / "intrasentence.json", *(data / "winogender").iterdir()]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(datasets.load("stereoset", data).examples) == 6
    assert len(datasets.load("winogender", data).examples) == 2


def test_triples_hold_the_sentence_ids_of_both_splits_by_label(data: Path) -> None:
    rows = stereoset.triples(data).rows(named=True)
    assert [(r["split"], r["example_id"]) for r in rows][-2:] == [
        ("intrasentence", "e6"),
        ("intersentence", "e9"),
    ]
    assert (rows[0]["stereo_id"], rows[0]["anti_id"], rows[0]["unrelated_id"]) == ("s1s", "s1a", "s1u")


@FEW
@given(
    text=st.text(max_size=200)
    | st.sampled_from(["[]", "[[]]", "[null]", '[{"id": 1}]', '[{"sentences": [1]}]', "NaN"])
)
def test_any_text_as_stereoset_is_a_dataset_or_a_data_error(data: Path, text: str) -> None:
    (data / "stereoset" / "intrasentence.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError):
        datasets.load("stereoset", data, skip_invalid=True)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "count", "groups"),
    [
        ("stereoset", 2106, 79),
        ("stereoset_gender", 255, 10),
        ("stereoset_race", 962, 36),
        ("stereoset_profession", 810, 30),
        ("stereoset_religion", 79, 3),
        ("intersentence", 2123, 79),
        ("intersentence_gender", 242, 10),
        ("intersentence_race", 976, 36),
        ("intersentence_profession", 827, 30),
        ("intersentence_religion", 78, 3),
    ],
)
def test_the_real_counts(real: Path, name: str, count: int, groups: int) -> None:
    loaded = datasets.load(name, real)
    assert (len(loaded.examples), loaded.found, len({e.group for e in loaded.examples})) == (
        count,
        count,
        groups,
    )


@pytest.mark.real
def test_the_real_oddities_of_stereoset(real: Path) -> None:
    examples = datasets.load("stereoset", real).examples
    assert sum(e.flaw == "two BLANKs" for e in examples) == 2
    assert sum(e.prompt == "" and e.flaw is None for e in examples) == 19
    assert sum(e.prompt.endswith(" ") for e in examples) == 7
    assert [e.suffix for e in examples if e.suffix.startswith("ed")] == ["ed the grandchildren."]


@pytest.mark.real
def test_prompt_filler_and_suffix_make_the_real_sentence_but_for_case(real: Path) -> None:
    for e in datasets.load("stereoset", real).examples:
        if e.flaw is None and e.sentences is not None:
            assert [
                (e.prompt + word + e.suffix).capitalize() for word in (e.stereo, e.anti, e.unrelated or "")
            ] == list(e.sentences)


@pytest.mark.real
def test_the_real_next_sentences_are_triples_too(real: Path) -> None:
    assert dict(stereoset.triples(real)["split"].value_counts().rows()) == {
        "intrasentence": 2106,
        "intersentence": 2123,
    }


@pytest.mark.real
def test_every_real_context_names_its_term_and_no_next_sentence_does(real: Path) -> None:
    for e in datasets.load("intersentence", real).examples:
        assert e.group.lower() in e.prompt.lower()
        assert e.prompt == e.prompt.strip() and e.unrelated is not None
        named = re.compile(rf"\b{re.escape(e.group)}\b", re.IGNORECASE)
        assert not any(named.search(text) for text in (e.stereo, e.anti, e.unrelated))
