"""Files of the original study: joined with the downloaded data by their sentences, never believed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import biasscope as bs
from biasscope.engine.data import datasets, reading
from biasscope.engine.data.download import download
from biasscope.engine.errors import DataError
from tests.support.tiny_data import ROWS, intrasentence, record

# How the original file renamed the true labels.
PERMUTED = {"anti-stereotype": "unrelated", "stereotype": "antistereotype", "unrelated": "stereotype"}


def permuted(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        r | {"sentences": [s | {"gold_label": PERMUTED[s["gold_label"]]} for s in r["sentences"]]}
        for r in records
    ]


def pairs(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Clean: the stereotype, called antistereotype; corrupted: the unrelated one, called stereotype."""

    def side(record: dict[str, Any], index: int, label: str) -> dict[str, Any]:
        meta = {
            "bias_type": record["bias_type"],
            "target": record["target"],
            "label": label,
            "logit_position": 0,
        }
        return {
            "context": "x",
            "sentence": record["sentences"][index]["sentence"],
            "tokens": [1],
            "metadata": meta,
        }

    return [
        {"pair_id": "p", "clean": side(r, 0, "antistereotype"), "corrupted": side(r, 2, "stereotype")}
        for r in records
    ]


def twos(answers: tuple[str, str] = ("male", "female")) -> list[dict[str, Any]]:
    return [
        {
            "sentence": text.format(word),
            "profession": "baker",
            "pronoun": word,
            "answer": answer,
            "word": "guest",
            "example_id": name,
        }
        for name, text, words in ROWS
        for word, answer in zip(words[:2], answers, strict=True)
    ]


def write(tmp_path: Path, content: Any, name: str = "stereoset_test.json") -> str:
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return str(tmp_path / name)


def test_permuted_labels_are_counted_and_replaced_by_the_true_ones(data: Path, tmp_path: Path) -> None:
    loaded = datasets.load(write(tmp_path, permuted(intrasentence())), data)
    assert "18 of 18 labels were wrong and were taken from StereoSet" in loaded.notes
    assert [(e.id, e.stereo, e.anti) for e in loaded.examples][:1] == [("e1", " asian", " tall")]
    assert (loaded.name, loaded.examples[0].dataset, loaded.found) == ("stereoset_test", "stereoset_test", 6)


def test_true_labels_are_said_to_agree(data: Path, tmp_path: Path) -> None:
    assert datasets.load(write(tmp_path, intrasentence()), data).notes == (
        "all 18 labels agree with StereoSet",
    )


def test_pairs_get_the_whole_true_example(data: Path, tmp_path: Path) -> None:
    loaded = datasets.load(write(tmp_path, pairs(intrasentence())), data)
    assert loaded.notes == (
        "12 of 12 labels were wrong and were taken from StereoSet",
        "the file's token ids and positions were not used",
    )
    truth = datasets.load("stereoset", data).examples
    assert [(e.prompt, e.stereo, e.anti, e.unrelated) for e in loaded.examples] == [
        (e.prompt, e.stereo, e.anti, e.unrelated) for e in truth
    ]


def test_a_pair_must_agree_in_bias_type(data: Path, tmp_path: Path) -> None:
    wrong = pairs(intrasentence())
    wrong[0]["clean"]["metadata"]["bias_type"] = "race"
    with pytest.raises(DataError, match=r"1 of 6 .*\n  pair 1 .*stand together in no example"):
        datasets.load(write(tmp_path, wrong), data)


def test_sentences_of_two_examples_do_not_make_one(data: Path, tmp_path: Path) -> None:
    mixed = pairs(intrasentence())
    mixed[0]["corrupted"]["sentence"] = mixed[1]["corrupted"]["sentence"]
    loaded = datasets.load(write(tmp_path, mixed), data, skip_invalid=True)
    assert loaded.dropped == {"its sentences stand together in no example of stereoset": 1}
    assert loaded.found == len(loaded.examples) + 1 == 6


def test_repeated_pairs_stay_with_ids_of_their_own(data: Path, tmp_path: Path) -> None:
    loaded = datasets.load(write(tmp_path, pairs(intrasentence()[:1]) * 3), data)
    assert [e.id for e in loaded.examples] == ["e1", "e1#2", "e1#3"]


def test_pairs_that_fit_two_examples_are_shared_out_between_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They differ in the anti-stereotype only, which a pair does not hold.
    alike = [
        record(7, "A cook is BLANK.", ("hot", "cold", "rain")),
        record(8, "A cook is BLANK.", ("hot", "shy", "rain")),
    ]
    write(data / "stereoset", [*intrasentence(), *alike], "intrasentence.json")
    monkeypatch.setattr(reading, "confirm", lambda *args, **kwargs: ())
    loaded = datasets.load(write(tmp_path, pairs(alike)), data)
    assert [(e.id, e.anti) for e in loaded.examples] == [("e7", " cold"), ("e8", " shy")]


def test_the_files_own_id_chooses_between_equal_examples(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = [record(number, "A cook is BLANK.", ("hot", "cold", "rain")) for number in (7, 8)]
    write(data / "stereoset", [*intrasentence(), *alike], "intrasentence.json")
    monkeypatch.setattr(reading, "confirm", lambda *args, **kwargs: ())
    assert [e.id for e in datasets.load(write(tmp_path, alike[::-1]), data).examples] == ["e8", "e7"]


def test_winogender_records_become_one_example_of_two(data: Path, tmp_path: Path) -> None:
    loaded = datasets.load(write(tmp_path, twos(), "winogender_test.json"), data)
    assert [(e.id, e.stereo, e.anti, e.meta["case"]) for e in loaded.examples] == [
        ("baker.guest.0", " his", " her", "possessive"),
        ("baker.guest.1", " him", " her", "accusative"),
    ]
    assert loaded.notes == ("all 4 labels agree with WinoGender",)
    assert loaded.digest == datasets.load("winogender", data).digest


def test_exchanged_genders_are_repaired(data: Path, tmp_path: Path) -> None:
    loaded = datasets.load(write(tmp_path, twos(("female", "male")), "winogender_test.json"), data)
    assert loaded.notes == ("4 of 4 labels were wrong and were taken from WinoGender",)
    assert loaded.examples[0].stereo == " his"


def test_repeated_and_single_winogender_records_are_kept_and_said(data: Path, tmp_path: Path) -> None:
    loaded = datasets.load(write(tmp_path, [*twos(), twos()[0]], "winogender_test.json"), data)
    assert [e.id for e in loaded.examples] == ["baker.guest.0", "baker.guest.1", "baker.guest.0#2"]
    assert "1 examples had only one of their two sentences in the file" in loaded.notes


def test_winogender_pairs_are_joined_with_winogender(data: Path, tmp_path: Path) -> None:
    def side(name: str, sentence: str, label: str) -> dict[str, Any]:
        return {
            "sentence": sentence,
            "tokens": [0],
            "metadata": {"example_id": name, "label": label, "male_token_ids": [7091]},
        }

    content = [
        {
            "clean": side(n, t.format(w[1]), "female"),
            "corrupted": side(n, t.format(w[0]), "male"),
            "pair_id": n,
        }
        for n, t, w in ROWS
    ]
    loaded = datasets.load(write(tmp_path, content), data)
    assert [e.id for e in loaded.examples] == ["baker.guest.0", "baker.guest.1"]
    assert loaded.notes[0] == "all 4 labels agree with WinoGender"


def test_records_that_join_to_nothing_are_listed(data: Path, tmp_path: Path) -> None:
    foreign = permuted(intrasentence())
    foreign[0]["sentences"][0]["sentence"] = "Something else."
    with pytest.raises(DataError, match=r"record 1 \('Something else\.'\)"):
        datasets.load(write(tmp_path, foreign), data)


OWN = [
    record(1, "My neighbour the plumber is BLANK.", ("rough", "gentle", "purple"), target="plumber"),
    record(2, "Our clerk, they say, was very BLANK", ("old-fashioned", "modern", "wet"), target="clerk"),
]


def test_own_triples_are_read_as_own_prompts_with_their_labels(data: Path, tmp_path: Path) -> None:
    loaded = datasets.load(write(tmp_path, OWN), data)
    assert [(e.prompt, e.stereo, e.anti, e.unrelated, e.suffix, e.group) for e in loaded.examples] == [
        ("My neighbour the plumber is", " rough", " gentle", " purple", ".", "plumber"),
        ("Our clerk, they say, was very", " old-fashioned", " modern", " wet", "", "clerk"),
    ]
    assert loaded.notes == (
        "none of its 2 records is in stereoset: read as prompts of your own, with the file's labels",
    )
    assert (
        loaded.record["source"] == "file" and loaded.rule == "none" and loaded.examples[0].sentences is None
    )


def test_own_pairs_and_own_sentences_of_two_are_read_too(data: Path, tmp_path: Path) -> None:
    of_pairs = pairs(OWN)
    for pair in of_pairs:
        pair["clean"]["metadata"]["label"], pair["corrupted"]["metadata"]["label"] = (
            "stereotype",
            "antistereotype",
        )
    (first, _) = datasets.load(write(tmp_path, of_pairs), data).examples
    assert (first.prompt, first.stereo, first.anti) == ("My neighbour the plumber is", " rough", " purple")
    own = [r | {"sentence": r["sentence"].replace("The baker", "A baker")} for r in twos()]
    loaded = datasets.load(write(tmp_path, own), data)
    assert loaded.sides == ("the male word", "the female word")
    assert [(e.prompt, e.stereo, e.anti, e.group) for e in loaded.examples] == [
        ("A baker showed the guest", " his", " her", "baker"),
        ("A baker warned the guest, but nobody told", " him", " her", "baker"),
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sentence": "Quite another one."}, "its sentences do not begin alike and then differ"),
        ({"gold_label": "unrelated"}, "its labels are not those of two sides"),
    ],
)
def test_own_sentences_that_make_no_example_are_counted(
    data: Path, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    bad = json.loads(json.dumps(OWN[1]))
    bad["sentences"][0] |= change
    file = write(tmp_path, [OWN[0], bad, {"context": "x"}])
    loaded = datasets.load(file, data, skip_invalid=True)
    assert loaded.dropped == {reason: 1, "a field is missing or is no text": 1} and loaded.found == 3
    with pytest.raises(DataError, match=f"2 of 3 records .*\n.*{reason}"):
        datasets.load(file, data)


def test_a_record_of_another_shape_is_counted(data: Path, tmp_path: Path) -> None:
    loaded = datasets.load(write(tmp_path, [*intrasentence(), {"context": "x"}, 3]), data, skip_invalid=True)
    assert loaded.dropped == {"a field is missing or is no text": 2}


@pytest.mark.parametrize(("content", "source"), [(intrasentence(), "stereoset"), (twos(), "winogender")])
def test_without_the_downloaded_data_the_command_is_named(tmp_path: Path, content: Any, source: str) -> None:
    with pytest.raises(DataError, match=f"biasscope download {source}"):
        datasets.load(write(tmp_path, content), tmp_path / "empty")


@pytest.mark.parametrize("content", [[], {}, [3], [{"a": 1}], {"data": {"intrasentence": []}}])
def test_other_files_are_refused(data: Path, tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError):
        datasets.load(write(tmp_path, content), data)


def test_a_missing_file_is_named(data: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read nowhere\.json"):
        datasets.load("nowhere.json", data)


def test_the_name_of_the_dataset_is_safe_for_folders(data: Path, tmp_path: Path) -> None:
    assert datasets.load(write(tmp_path, intrasentence(), "..my file;$x.json"), data).name == "my_file_x"


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["clean", "corrupted", "sentence", "metadata", "bias_type", "label"]), inner
        )
    ),
)
KEYS = ["clean", "corrupted", "context", "sentences", "sentence", "profession", "answer"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=7), max_size=3))
def test_any_list_is_a_dataset_or_a_data_error(data: Path, tmp_path: Path, items: Any) -> None:
    full = [{"clean": {"metadata": {}}, "corrupted": {"metadata": {}}} | item for item in items]
    for content in (items, full):
        with pytest.raises(DataError):
            datasets.load(write(tmp_path, content), data, skip_invalid=True)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "count", "note"),
    [
        ("stereoset_gender", 255, "510 of 510 labels were wrong and were taken from StereoSet"),
        ("stereoset_race", 961, "1922 of 1922 labels were wrong and were taken from StereoSet"),
        ("winogender", 240, "all 480 labels agree with WinoGender"),
    ],
)
def test_the_real_pair_files(shared_data: Path, tmp_path: Path, name: str, count: int, note: str) -> None:
    download(name.split("_")[0], tmp_path, local=shared_data)
    loaded = datasets.load(str(shared_data / "seed_acdc_pairs" / f"{name}_acdc_pairs.json"), tmp_path)
    truth = {e.id: (e.stereo, e.anti) for e in datasets.load(name, tmp_path).examples}
    assert {e.id: (e.stereo, e.anti) for e in loaded.examples}.items() <= truth.items()
    assert (len(loaded.examples), loaded.notes[0]) == (count, note)


@pytest.mark.real
def test_the_real_permuted_file(shared_data: Path, tmp_path: Path) -> None:
    download("stereoset", tmp_path, local=shared_data)
    records = json.loads((shared_data / "stereoset_intrasentence.json").read_text(encoding="utf-8"))
    loaded = datasets.load(write(tmp_path, permuted(records)), tmp_path)
    assert loaded.notes == ("6318 of 6318 labels were wrong and were taken from StereoSet",)
    assert [e.id for e in loaded.examples] == [r["id"] for r in records]


def test_a_run_on_a_file_shows_its_prompts_in_a_notebook(data: Path, tmp_path: Path, tiny_gpt2: Path) -> None:
    file, places = (
        write(tmp_path, intrasentence()),
        {"cache_dir": tmp_path / "cache", "output_dir": tmp_path / "results"},
    )
    named = bs.ablate(str(tiny_gpt2), file, heads="1.0", data_dir=data, **places)
    assert named.prompts("1.0")["prompt"].null_count() == 0
    assert (
        bs.ablate(str(tiny_gpt2), bs.load_dataset(file, data_dir=data), heads="1.0", **places).key
        == named.key
    )
