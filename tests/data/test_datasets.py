"""The folder as registry, --limit, and the two datasets that ship with the package."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from biasscope.engine.data import datasets
from biasscope.engine.data.download import download
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.model import tokens
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset, Example

TYPES = ("gender", "race", "profession", "religion")
STEREOSET = [name for of in ("stereoset", "intersentence") for name in (of, *(f"{of}_{t}" for t in TYPES))]
BBQ = ["bbq", "bbq_age", "bbq_disability_status", "bbq_nationality", "bbq_physical_appearance"]
BBQ += ["bbq_religion", "bbq_sexual_orientation"]
CROWS = ["crows_pairs", "crows_pairs_fr"]
WINOBIAS = ["winobias_type1", "winobias_type2"]


def test_every_file_of_the_folder_is_a_source() -> None:
    assert datasets.names() == [
        *BBQ,
        *CROWS,
        "definitional",
        "occupations",
        *STEREOSET,
        *WINOBIAS,
        "winogender",
    ]


def test_the_default_is_what_is_downloaded_of_the_original_three(data: Path) -> None:
    assert datasets.default(data) == ["stereoset_race", "stereoset_gender", "winogender"]


def test_the_default_without_downloads_ships_with_the_package(tmp_path: Path) -> None:
    assert datasets.default(tmp_path) == ["occupations"]


def test_an_unknown_name_gets_a_suggestion_and_the_choices(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"unknown dataset 'stereoset-race' \(did you mean 'stereoset_race'\?\); "
        "choose from: bbq,",
    ):
        datasets.load("stereoset-race", tmp_path)


@pytest.mark.parametrize("name", ["stereoset_gender", "winogender"])
def test_data_that_is_not_downloaded_names_the_command(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"run `biasscope download {name.split('_')[0]}"):
        datasets.load(name, tmp_path)


def test_a_dataset_without_examples_is_an_error(data: Path) -> None:
    with pytest.raises(DataError, match="no example left"):
        datasets.load("stereoset_race", data)


def test_loading_imports_neither_torch_nor_the_hub() -> None:
    code = "import sys; from pathlib import Path; from biasscope.engine.data import datasets, download;"
    code += " datasets.load('occupations', Path('.'));"
    code += (
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets', 'huggingface_hub', "
        "'pooch', 'requests')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def some(count: int, groups: int) -> list[Example]:
    return [Example(f"e{i}", "x", "gender", f"g{i % groups}", "p", " he", " she") for i in range(count)]


def test_a_limit_is_spread_evenly_over_groups() -> None:
    drawn = Counter(e.group for e in datasets.sample(some(60, 6), 15, seed=0))
    assert sorted(drawn.values()) == [2, 2, 2, 3, 3, 3]


def test_a_limit_keeps_data_order_and_has_no_example_twice() -> None:
    numbers = [int(e.id[1:]) for e in datasets.sample(some(60, 6), 15, seed=0)]
    assert numbers == sorted(set(numbers))


def test_a_limit_depends_on_the_seed_alone() -> None:
    assert datasets.sample(some(60, 6), 9, seed=1) == datasets.sample(some(60, 6), 9, seed=1)
    assert datasets.sample(some(60, 6), 9, seed=1) != datasets.sample(some(60, 6), 9, seed=2)


def test_uneven_groups_give_what_they_have() -> None:
    examples = [*some(9, 1), *(replace(e, id=f"x{e.id}", group="small") for e in some(2, 1))]
    assert Counter(e.group for e in datasets.sample(examples, 8, seed=0)) == {"g0": 6, "small": 2}


def test_a_limit_above_the_count_takes_all(data: Path) -> None:
    assert len(datasets.load("stereoset", data, limit=99).examples) == 6


def test_a_limit_leaves_the_count_of_what_was_found(data: Path) -> None:
    loaded = datasets.load("stereoset", data, limit=2)
    assert (len(loaded.examples), loaded.found) == (2, 6)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_a_usage_error(tmp_path: Path, limit: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        datasets.load("occupations", tmp_path, limit=limit)


def shipped(name: str) -> Dataset:
    return datasets.load(name, Path("nowhere"))


def test_occupations_holds_every_occupation_in_at_least_twelve_sentences() -> None:
    counts = Counter(e.group for e in shipped("occupations").examples)
    assert len(counts) == 60
    assert set(counts.values()) == {12}


def test_ids_and_prompts_of_occupations_are_unique() -> None:
    examples = shipped("occupations").examples
    assert len({e.id for e in examples}) == len({e.prompt for e in examples}) == len(examples)
    assert "nurse.t03" in {e.id for e in examples}


def test_occupations_uses_three_cases_and_a_third_has_participants() -> None:
    examples = shipped("occupations").examples
    assert Counter((e.meta["case"], e.stereo, e.anti) for e in examples) == {
        ("nominative", " he", " she"): 360,
        ("possessive", " his", " her"): 180,
        ("accusative", " him", " her"): 180,
    }
    assert sum(e.meta["participant"] != "" for e in examples) == 240


def test_a_participant_is_in_the_prompt_and_never_the_occupation() -> None:
    for e in shipped("occupations").examples:
        assert str(e.meta["participant"]) in e.prompt
        assert e.meta["participant"] != e.group
        assert e.group in e.prompt


def test_articles_fit_the_occupation() -> None:
    prompts = " ".join(e.prompt for e in shipped("occupations").examples)
    assert " an engineer " in prompts
    assert " a nurse " in prompts
    assert not [vowel for vowel in "aeiou" if f" a {vowel}" in prompts]


def test_not_every_sentence_begins_with_the_occupation() -> None:
    nurse = [e.prompt for e in shipped("occupations").examples if e.group == "nurse"]
    assert sum(prompt.startswith("The nurse") for prompt in nurse) < len(nurse) / 2


def test_definitional_pairs_every_sentence_with_both_genders() -> None:
    examples = shipped("definitional").examples
    assert Counter(e.meta["gender"] for e in examples) == {"male": 24, "female": 24}
    assert Counter(Counter(e.group for e in examples).values()) == {2: 24}  # a cluster is a sentence
    assert len({e.word for e in examples}) == len({e.id for e in examples}) == 48
    assert {(e.stereo, e.anti) for e in examples if e.meta["gender"] == "male"} == {
        (" he", " she"),
        (" his", " her"),
        (" him", " her"),
    }
    assert {(e.stereo, e.anti) for e in examples if e.meta["gender"] == "female"} == {
        (" she", " he"),
        (" her", " his"),
        (" her", " him"),
    }


def test_definitional_holds_the_example_of_the_documentation() -> None:
    assert ("My father said that", "father", "male") in {
        (e.prompt, e.word, e.meta["gender"]) for e in shipped("definitional").examples
    }


def test_the_noun_is_found_in_every_prompt_though_the_group_is_the_sentence(tiny) -> None:
    forest = tokens.forest(tiny("gpt2"), shipped("definitional").examples, share="example", positions=True)
    assert not forest.dropped and all(prompt.term for prompt in forest.prompts)


def test_a_term_enters_the_content_digest_only_where_there_is_one() -> None:
    occupations = shipped("occupations").examples[:3]
    assert (
        digests.of_examples(occupations) == "5fd36b23797416190a221fe4286c2280feca7822ba928a3b696aa7ef4858b906"
    )
    assert digests.of_examples([replace(e, term="nurse") for e in occupations]) != digests.of_examples(
        occupations
    )


@pytest.mark.parametrize("name", ["occupations", "definitional"])
def test_prompts_end_before_the_space_of_the_pronoun(name: str) -> None:
    for e in shipped(name).examples:
        assert e.prompt == e.prompt.strip()
        assert "{" not in e.prompt
        assert e.suffix[0] in " ."


@pytest.mark.real
def test_occupations_copies_the_real_facts_and_nothing_else(shared_data: Path, tmp_path: Path) -> None:
    download("winogender", tmp_path, local=shared_data)
    facts = {
        e.group: (e.meta["bls_pct_female"], e.meta["bergsma_pct_female"])
        for e in datasets.load("winogender", tmp_path).examples
    }
    ours = datasets.load("occupations", tmp_path).examples
    assert {e.group: (e.meta["bls_pct_female"], e.meta["bergsma_pct_female"]) for e in ours} == facts
    theirs = {e.meta["participant"] for e in datasets.load("winogender", tmp_path).examples}
    assert not theirs & {e.meta["participant"] for e in ours}
