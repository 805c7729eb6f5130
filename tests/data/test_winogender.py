"""WinoGender: what becomes of good, odd and broken tables."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biasscope.engine.data import datasets
from biasscope.engine.data.download import download
from biasscope.engine.errors import DataError
from tests.support.tiny_data import STATS, TEMPLATES, sentences, write_winogender

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_the_case_of_her_comes_from_the_template(data: Path) -> None:
    possessive, accusative = datasets.load("winogender", data).examples
    assert (possessive.stereo, possessive.anti, possessive.meta["case"]) == (" his", " her", "possessive")
    assert (accusative.stereo, accusative.anti, accusative.meta["case"]) == (" him", " her", "accusative")


def test_winogenders_prompt_and_suffix_surround_the_pronoun(data: Path) -> None:
    e = datasets.load("winogender", data).examples[1]
    assert (e.prompt, e.suffix) == ("The baker warned the guest, but nobody told", " why.")
    assert (e.id, e.group, e.unrelated, e.sentences) == ("baker.guest.1", "baker", None, None)


def test_winogenders_facts_are_numbers(data: Path) -> None:
    loaded = datasets.load("winogender", data)
    assert dict(loaded.examples[0].meta) == {
        "participant": "guest",
        "answer": "occupation",
        "case": "possessive",
        "bls_pct_female": 60.8,
        "bergsma_pct_female": 8.93,
    }
    assert loaded.covariate == {"baker": pytest.approx(39.2)}


BAD_FILES = {
    "no column": ({"stats": "occupation\tbls_year\nbaker\t2015\n"}, r"occupations-stats\.tsv:1: the header"),
    "short row": (
        {"templates": TEMPLATES + "baker\tguest\n"},
        r"templates\.tsv:4: 4 tab-separated columns are expected, found 2",
    ),
    "no number": ({"stats": STATS.replace("60.8", "many")}, r"occupations-stats\.tsv:2: a per cent value"),
    "not a number": ({"stats": STATS.replace("60.8", "nan")}, r"occupations-stats\.tsv:2: a per cent value"),
    "two slots": (
        {"templates": TEMPLATES.replace("why", "$NOM_PRONOUN")},
        r"templates\.tsv:3: one pronoun slot .* found 2",
    ),
    "template twice": (
        {"templates": TEMPLATES + TEMPLATES.split("\n")[1] + "\n"},
        r"templates\.tsv:4: a second template",
    ),
    "occupation twice": (
        {"stats": STATS + STATS.split("\n")[1] + "\n"},
        r"occupations-stats\.tsv:3: 'baker' is duplicated",
    ),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_broken_table_is_refused_with_file_and_line(data: Path, fault: str) -> None:
    texts, message = BAD_FILES[fault]
    write_winogender(data / "winogender", **texts)
    with pytest.raises(DataError, match=message):
        datasets.load("winogender", data, skip_invalid=True)


BAD_GROUPS = {
    "sentid is not occupation.participant.answer.gender.txt": sentences()
    + "baker.male.txt\tThe baker left.\n",
    "duplicate sentid": sentences() + sentences().split("\n")[1] + "\n",
    "not one male, one female and one neutral sentence": sentences().replace(
        sentences().split("\n")[1] + "\n", ""
    ),
    "no template with this occupation and answer": sentences().replace("baker.guest.0", "cook.guest.0"),
    "sentences do not differ in the template's pronoun alone": sentences().replace(
        "guest his oven", "guest his cake"
    ),
}


@pytest.mark.parametrize("reason", BAD_GROUPS)
def test_a_broken_group_is_refused_with_its_line_or_counted(data: Path, reason: str) -> None:
    write_winogender(data / "winogender", sentences=BAD_GROUPS[reason])
    with pytest.raises(DataError, match=rf"(?s)all_sentences\.tsv:\d+ .*{reason}"):
        datasets.load("winogender", data)
    loaded = datasets.load("winogender", data, skip_invalid=True)
    assert loaded.dropped == {reason: 1}
    assert loaded.found == len(loaded.examples) + 1


def test_changed_winogender_is_refused(data: Path) -> None:
    write_winogender(data / "winogender", sentences=sentences().replace("oven", "cake"))
    with pytest.raises(DataError, match="biasscope download winogender --fresh"):
        datasets.load("winogender", data)


@FEW
@given(
    name=st.sampled_from(["sentences", "templates", "stats"]), text=st.text(max_size=120), whole=st.booleans()
)
def test_any_text_in_a_table_is_a_dataset_or_a_data_error(
    data: Path, name: str, text: str, whole: bool
) -> None:
    base = {"sentences": sentences(), "templates": TEMPLATES, "stats": STATS}[name]
    text = text.encode("utf-8", "replace").decode()
    write_winogender(data / "winogender", **{name: text if whole else base + text})
    try:
        loaded = datasets.load("winogender", data, skip_invalid=True)
    except DataError:
        return
    assert loaded.found == len(loaded.examples) + loaded.dropped.total()


@pytest.mark.real
def test_the_real_winogender_cases_and_referents(shared_data: Path, tmp_path: Path) -> None:
    download("winogender", tmp_path, local=shared_data)
    examples = datasets.load("winogender", tmp_path).examples
    assert Counter(e.meta["case"] for e in examples) == {"nominative": 178, "possessive": 54, "accusative": 8}
    assert Counter(e.meta["answer"] for e in examples) == {"occupation": 120, "participant": 120}
    assert len({e.prompt for e in examples}) == 148
    assert sum(e.meta["participant"] == "someone" for e in examples) == 120
