"""Twins, rule by rule on texts, then their counts on the real data with two tokenizers."""

from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from biasscope.engine.data import counterfactuals, datasets, download, stereoset_twins
from biasscope.engine.data.terms import Twin
from biasscope.engine.measure import circuits
from biasscope.engine.model import twins
from biasscope.engine.model.loading import LM, start_of_text
from biasscope.engine.statistics import cells
from biasscope.engine.types import Example

JOBS = {"nurse", "plumber", "artist", "policeman", "delivery man"}


def sentence(bias_type: str, term: str, prompt: str, suffix: str = ".") -> Example:
    """A StereoSet example."""
    return Example("e", "stereoset", bias_type, term, prompt, " kind", " cruel", " blue", suffix)


def texts(bias_type: str, term: str, prompt: str, seed: int = 0) -> list[str]:
    """Its twins' prompts, or the reason, alone."""
    found = stereoset_twins.of_sentence(
        sentence(bias_type, term, prompt), JOBS if bias_type == "profession" else (), seed
    )
    return [found] if isinstance(found, str) else [twin.prompt for twin in found]


@pytest.mark.parametrize(
    ("term", "prompt", "twin"),
    [
        ("mother", "The mother said she was", "The father said he was"),
        ("mother", "Her mother was very", "Her father was very"),
        ("sister", "A sister told her that", "A brother told him that"),
        ("sister", "The sister lost her", "The brother lost him"),
        ("sister", "The sister lost her keys because she was", "The brother lost his keys because he was"),
        (
            "grandfather",
            "The grandfather gave his dog to him, but he",
            "The grandmother gave her dog to her, but she",
        ),
        ("schoolgirl", "Schoolgirls are", "Schoolboys are"),
        ("mother", "MOTHER is", "FATHER is"),
        ("mother", "My mother's hair is", "My father's hair is"),
        ("himself", "He hurt himself and his", "She hurt herself and her"),
        ("male", "A male nurse is", "A female nurse is"),
    ],
)
def test_gender_terms_and_the_pronouns_that_mean_them_change_together(term, prompt, twin):
    assert texts("gender", term, prompt)[0] == twin


def test_a_bias_type_without_rules_is_a_reason_and_no_error():
    strange = Example("e", "mine", "age", "clerk", "The clerk said that", " he", " she")
    assert stereoset_twins.of_sentence(strange, ["clerk"], 0) == "no counterpart is defined for age"


@pytest.mark.parametrize(
    ("term", "prompt", "reason"),
    [
        ("mother", "She said her mother and she were", "before and after"),
        ("himself", "Gary thought of himself as", "without a pronoun"),
        ("mommy", "The girl's mommy was", "another noun"),
        ("mother", "The mother and father are", "already there"),
        ("mother", "Mother Teresa was", "part of a name"),
        ("mother", "The motherly woman is", "whole word"),
    ],
)
def test_a_prompt_that_cannot_be_changed_cleanly_is_dropped_with_the_reason(term, prompt, reason):
    assert reason in texts("gender", term, prompt)[0]


def test_a_term_after_blank_or_without_a_space_before_it_has_no_twin():
    assert (
        stereoset_twins.of_sentence(sentence("gender", "mother", "She is a", " mother"), (), 0)
        == "its term stands after BLANK"
    )
    assert "no prefix" in stereoset_twins.of_sentence(sentence("gender", "mother", ""), (), 0)


def test_the_article_follows_the_partner_and_no_policeman_stands_beside_she():
    assert set(texts("profession", "nurse", "A nurse is")) == {
        "A plumber is",
        "An artist is",
        "A policeman is",
        "A delivery man is",
    }
    assert set(texts("profession", "nurse", "The nurses are")) == {"The plumbers are", "The artists are"}
    assert set(texts("profession", "nurse", "The nurse said she")) == {
        "The plumber said she",
        "The artist said she",
    }
    assert "a plumber" in " ".join(texts("profession", "artist", "I saw an artist who"))


def test_a_country_is_replaced_by_a_country_and_a_people_by_another_that_cannot_be_the_same():
    assert {t.removeprefix("I like ") for t in texts("race", "Iraq", "I like Iraq")} == set(
        stereoset_twins.COUNTRIES
    ) - {"Iraq"}
    found = {t.split()[0] for t in texts("race", "Eritrean", "Eritrean people are")}
    assert not found & {"Eritrean", "Ethiopian", "African", "Ghanaian"} and "Persian" in found
    assert {t.split()[0] for t in texts("race", "Persian people", "Persian people are")} >= {"Arab", "Saudi"}


def test_a_term_in_capitals_is_no_part_of_a_name():
    assert texts("gender", "male", "THE MALE WE SAW IS") == ["THE FEMALE WE SAW IS"]


@pytest.mark.parametrize("prompt", ["The Japanese are", "Japanese have always", "I met a Japanese"])
def test_japanese_as_a_noun_has_no_twin(prompt):
    assert "Japanese" in texts("race", "Japanese", prompt)[0]


def test_religion_has_its_own_order():
    assert texts("religion", "Brahmin", "The brahmin is") == [
        "The dalit is",
        "The sudra is",
        "The rajput is",
        "The hindu is",
    ]


@given(st.integers(0, 99), st.sampled_from(sorted(stereoset_twins.COUNTRIES)))
def test_twins_are_a_pure_function_of_text_and_seed(seed, term):
    once = texts("race", term, f"The food of {term} is", seed)
    assert once == texts("race", term, f"The food of {term} is", seed) and len(once) == len(set(once)) >= 18
    assert once != texts("race", term, f"The food of {term} is", seed + 1)


@given(
    st.sampled_from([("male", "female"), ("schoolgirl", "schoolboy")]),
    st.sampled_from(["The {} is", "A {}'s", "{}s are", "my {} and"]),
)
def test_a_twin_of_a_twin_is_the_prompt_itself(pair, form):
    assert texts("gender", pair[1], texts("gender", pair[0], form.format(pair[0]))[0]) == [
        form.format(pair[0])
    ]


def test_partners_pair_equal_ranks_across_fifty_per_cent():
    shares = {
        "a": (10, 20),
        "b": (20, 70),
        "c": (30, 30),
        "x": (60, 90),
        "y": (70, 40),
        "z": (80, 80),
        "long one": (90, 90),
    }
    found = counterfactuals.partners(shares, lambda name: len(name.split()))
    # men's side a, b, c ↔ partners x, z (y's counts disagree); women's side x, y, z ↔ a, c (b's disagree); no
    # partner of two words
    assert found == {"a": "x", "b": "x", "c": "z", "x": "a", "y": "a", "z": "c"}


def test_an_occupation_is_not_replaced_by_the_participant():
    example = Example(
        "e",
        "w",
        "gender",
        "nurse",
        "The nurse told the plumber",
        " he",
        " she",
        meta={"participant": "plumber"},
    )
    assert "is the participant" in counterfactuals.of_occupation(example, "plumber")
    (twin,) = counterfactuals.of_occupation(example, "engineer")
    assert twin == Twin("The engineer told the plumber", "engineer")


def reader(name: str, shared_data: Path, smollm2: LM) -> LM:
    """SmolLM2, with its own tokenizer or GPT-2's."""
    if name == "smollm2":
        return smollm2
    made = transformers.GPT2TokenizerFast.from_pretrained(str(shared_data / "gpt2_tokenizer"))
    start, prepends = start_of_text(made)
    return replace(smollm2, name=name, tokenizer=made, start=start, prepends=prepends, vocab=len(made))


COUNTS = {"winogender": (232, 236), "stereoset_gender": (179, 180), "stereoset_profession": (620, 600)}
COUNTS |= {"stereoset_race": (827, 851), "stereoset_religion": (60, 60), "intersentence": (2027, 2024)}
COUNTS |= {"winobias_type1": (790, 790), "winobias_type2": (783, 783)}
COUNTS |= {"crows_pairs": (895, 882), "crows_pairs_fr": (342, 330)}
COUNTS |= {"bbq_age": (456, 764), "bbq_physical_appearance": (316, 316), "bbq_religion": (160, 160)}
COUNTS |= {"bbq_sexual_orientation": (152, 200)}
"""Data set → examples kept with GPT-2's tokenizer and with SmolLM2's."""


@pytest.mark.real
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(("model", "column"), [("gpt2", 0), ("smollm2", 1)])
def test_as_many_twins_are_kept_as_the_definition_says(name, model, column, shared_data, smollm2, tmp_path):
    (origin,) = (m.ORIGIN.name for m in datasets.modules().values() if name in m.NAMES)
    download.download(origin, tmp_path, local=shared_data)
    lm, data = reader(model, shared_data, smollm2), datasets.load(name, tmp_path)
    examples, (kept, dropped) = data.examples, twins.fit(lm, data, 0)
    assert len(kept) == COUNTS[name][column] and len(kept) + len(dropped) == len(examples)
    by_id = {e.id: e for e in examples}
    for id_, twin in kept.items():
        assert len(lm.tokenizer(twin.prompt).input_ids) == len(lm.tokenizer(by_id[id_].prompt).input_ids)


@pytest.mark.real
@pytest.mark.parametrize("name", ["winogender", "stereoset_race", "stereoset_profession", "stereoset_gender"])
def test_no_twin_of_one_half_names_a_term_of_the_other(name, shared_data, smollm2, tmp_path):
    download.download(name.split("_")[0], tmp_path, local=shared_data)
    data = datasets.load(name, tmp_path)
    whole, _ = twins.fit(smollm2, data, 0)
    partners = cells.partners(twins.table(data, whole))
    groups = sorted({e.group for e in data.examples})
    kept = 0
    for half in circuits.halves(dict(zip(groups, cells.clusters(groups, partners).tolist(), strict=True)), 0):
        part = data.part("half", half)
        own, dropped = twins.fit(smollm2, part, 0)
        assert not {twin.partner for twin in own.values()} & {
            stereoset_twins.written(group) for group in set(groups) - half
        }
        assert len(own) + len(dropped) == len(part.examples) and all(dropped.values())
        kept += len(own)
    assert kept > 0.93 * len(whole)


def test_the_study_s_pair_files_hold_tokens_that_say_what_their_text_says(tiny):
    lm = tiny("gpt2")
    example = Example(
        "e",
        "w",
        "gender",
        "nurse",
        "The nurse said that",
        " he",
        " she",
        suffix=" left",
        meta={"bls_pct_female": 90.0},
    )
    (pair,) = twins.acdc(lm, [example], {"e": Twin("The plumber said that", "plumber")})
    for side, job in (("clean", "nurse"), ("corrupted", "plumber")):
        meta, tokens = pair[side]["metadata"], list(pair[side]["tokens"])
        assert lm.tokenizer.decode(tokens) == f"The {job} said that he left" and meta["profession"] == job
        after = meta["logit_position"] + 1
        assert tokens[after : after + len(meta["male_token_ids"])] == list(meta["male_token_ids"])
        assert lm.tokenizer.decode(meta["female_token_ids"]) == " she"
