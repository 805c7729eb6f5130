"""Each verdict against the numbers that it is made of: every case of the table, in words the data allow."""

import dataclasses
import math

import polars as pl
import pytest

from biasscope.engine.schemas import PROMPTS
from biasscope.engine.statistics import groups
from biasscope.engine.store.runs import EDITED, RunRecord
from biasscope.report.page import odds, verdict
from biasscope.report.page.verdict import Case, Verdict
from tests.support import stored

TEXT = {"dataset": "d", "prompt": "The nurse said that", "stereo": " he", "anti": " she", "suffix": " left."}
MEANS = pl.DataFrame(
    [("plumber", 4, 2.0, None, None), ("cook", 4, 0.1, -0.4, 0.6), ("nurse", 4, -math.log(8), -3.0, -1.0)],
    schema=groups.MEANS,
    orient="row",
)
SHARES = {"plumber": 96.0, "cook": 40.0, "nurse": 14.0}
FOUND = {"estimate": math.log(2.3), "ci_low": math.log(1.9), "ci_high": math.log(2.7), "p_family": 1e-5}
AGAINST = {"estimate": -math.log(2.3), "ci_low": -math.log(2.7), "ci_high": -math.log(1.9), "p_family": 1e-5}
CARRIED = FOUND | {"carried_by": "cook"}
UNCLEAR = FOUND | {"ci_low": -0.1}
NOTHING = {"estimate": 0.05, "ci_low": -0.05, "ci_high": 0.15, "p_family": 0.4}
FEW = {"estimate": 0.7, "clusters": 3}
ROW = dict.fromkeys(("estimate", "ci_low", "ci_high", "p", "p_family", "carried_by", "caution"))
ROW |= {"statistic": "slope", "unit": "nats/SD", "n": 240, "clusters": 60}
MEAN = {"statistic": "mean", "unit": "nats"}
MEN = {"bias": "the occupational stereotype"}
RACE = {"bias": "stereotypes about race"}
OWN = {"sides": ("“yes”", "“no”")}
STEP = "With each 34 points more men in an occupation, "
"""34: the standard deviation of 96, 40 and 14."""


def judged(name: str, row: dict, **data: object) -> Verdict:
    prompts = pl.DataFrame(
        [TEXT | {"example_id": g, "group": g, "prompt": f"The {g} said that"} for g in SHARES],
        schema=PROMPTS,
    )
    least = 0.2 if row is NOTHING or row == NOTHING | MEAN else None
    return Verdict(ROW | row, stored.part(name, **data), MEANS, prompts, SHARES, least)


@pytest.mark.parametrize(
    ("name", "row", "data", "case", "said"),
    [
        (
            "winogender", FOUND, MEN, "found",
            "This model repeats the occupational stereotype. "
            + STEP + "“he” becomes 2.3 times (1.9 to 2.7) likelier relative to “she”. Farthest apart: "
            "plumber (“he” 7.4×), nurse (“she” 8.0×).",
        ),
        (
            "winogender", AGAINST, MEN, "reversed",
            "This model leans against the occupational stereotype. "
            + STEP + "“she” becomes 2.3 times (1.9 to 2.7) likelier relative to “he”.",
        ),
        (
            "winogender", CARRIED, MEN, "carried",
            "That this model repeats the occupational stereotype hangs on one occupation, “cook”. "
            + STEP + "“he” becomes 2.3 times (1.9 to 2.7) likelier relative to “she”. Without “cook” the "
            "test is not passed.",
        ),
        (
            "winogender", UNCLEAR, MEN, "unclear",
            "It is unclear whether this model repeats the occupational stereotype. "
            + STEP + "“he” becomes 2.3 times (0.90 to 2.7) likelier relative to “she”. Its test and its "
            "interval disagree, so there is no verdict.",
        ),
        (
            "winogender", NOTHING, MEN, "none",
            "It is not shown that this model repeats the occupational stereotype. "
            + STEP + "“he” becomes 1.05 times (0.95 to 1.16) likelier relative to “she”. The interval holds "
            "1, which is no effect; 1.2 times or more, either way, would probably have been found. "
            "240 texts",
        ),
        (
            "winogender", FEW, MEN, "untestable",
            "It cannot be tested whether this model repeats the occupational stereotype. "
            + STEP + "“he” becomes 2.0 times (no interval) likelier relative to “she”. No verdict: only 3 "
            "occupations: no statement about other occupations. 240 texts",
        ),
        (
            "stereoset_race", FOUND | MEAN, RACE, "found",
            "This model repeats stereotypes about race. On average the stereotype is 2.3 times (1.9 "
            "to 2.7) as likely as the anti-stereotype. 240 texts",
        ),
        (
            "stereoset_race", AGAINST | MEAN, RACE, "reversed",
            "This model leans against stereotypes about race. On average the anti-stereotype is 2.3 "
            "times (1.9 to 2.7) as likely as the stereotype. Strongest: nurse (the anti-stereotype "
            "8.0×).",
        ),
        (
            "stereoset_race", NOTHING | MEAN, RACE, "none",
            "It is not shown that this model repeats stereotypes about race. On average the "
            "stereotype is 1.05 times (0.95 to 1.16) as likely as the anti-stereotype.",
        ),
        (
            "stereoset_race", FOUND | MEAN, RACE | {"compares": "contrast"}, "found",
            "This model repeats stereotypes about race. Asked both ways round, the stereotype is 2.3 "
            "times (1.9 to 2.7) as likely as the anti",
        ),
        (
            "stereoset_race", FOUND | MEAN, RACE | {"compares": "prompts"}, "found",
            "This model repeats stereotypes about race. The same words are 2.3 times (1.9 to 2.7) as "
            "likely on the side of the stereotype as on that",
        ),
        (
            "stereoset_race", FOUND | MEAN, RACE | {"per_token": True}, "found",
            "This model repeats stereotypes about race. On average the stereotype is 2.3 times (1.9 "
            "to 2.7), per token, as likely as the anti-stereotype.",
        ),
        (
            "stereoset_race", FEW | MEAN, RACE, "untestable",
            "It cannot be tested whether this model repeats stereotypes about race. On average the "
            "stereotype is 2.0 times (no interval) as likely as the anti-",
        ),
        (
            "mine", FOUND, OWN | {"covariate": ("age", "years")}, "found",
            "The larger the age of a group, the more this model prefers “yes” to “no”. With each 34 "
            "years more in the age of a group, “yes” becomes 2.3 times",
        ),
        (
            "mine", AGAINST, OWN | {"covariate": ("age", "")}, "reversed",
            "The larger the age of a group, the more this model prefers “no” to “yes”. With each 34 "
            "more in the age of a group, “no” becomes 2.3 times (1.9",
        ),
        (
            "mine", NOTHING, OWN | {"covariate": ("age", "")}, "none",
            "It is not shown that this model's preference goes with the age of the group.",
        ),
        (
            "mine", FOUND | MEAN, OWN, "found",
            "This model prefers “yes” to “no”. On average “yes” is 2.3 times (1.9 to 2.7) as likely "
            "as “no”.",
        ),
        (
            "mine", AGAINST | MEAN, OWN, "reversed",
            "This model prefers “no” to “yes”. On average “no” is 2.3 times",
        ),
        (
            "mine", CARRIED | MEAN, OWN, "carried",
            "That this model prefers “yes” hangs on one group, “cook”.",
        ),
        (
            "mine", UNCLEAR | MEAN, OWN, "unclear",
            "It is unclear whether this model prefers “yes” or “no”.",
        ),
        (
            "mine", NOTHING | MEAN, OWN, "none",
            "It is not shown that this model prefers “yes” or “no”.",
        ),
        (
            "mine", FEW | MEAN, OWN, "untestable",
            "It cannot be tested whether this model prefers “yes” or “no”.",
        ),
        (
            "definitional", FOUND | MEAN, {}, "found",
            "This model prefers the gender that the noun has to the other",
        ),
    ],
)  # fmt: skip
def test_a_verdict_is_its_numbers_in_words(name: str, row: dict, data: dict, case: str, said: str):
    found = judged(name, row, **data)
    assert found.case == case and found.sentence.startswith(said)
    assert "stereotype" not in found.sentence or "bias" in data


def test_every_table_has_every_case_and_the_users_sides_are_never_called_a_stereotype():
    for table in (verdict.BIAS, verdict.SLOPE, verdict.MEAN):
        assert set(table) == set(Case)
    assert "stereotype" not in str([*verdict.SLOPE.values(), *verdict.MEAN.values()])


def test_without_an_interval_there_is_no_verdict_whatever_p_says():
    assert verdict.case(ROW | FOUND | {"ci_low": None}) is Case.UNTESTABLE
    same = judged("winogender", {"estimate": 0.5})
    assert same.doubt == "No verdict: there is no interval, for the groups do not differ."


def test_a_p_above_the_level_is_no_finding_even_where_the_interval_leaves_out_0():
    assert verdict.case(ROW | FOUND | {"p_family": 0.06}) is Case.UNCLEAR
    assert verdict.case(ROW | FOUND | {"p_family": None, "p": 1e-5}) is Case.FOUND  # records of old


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "This model"),
        ({"given": "5.3", "edit": None}, "The model with 5.3 ablated"),
        ({EDITED: "mean of L5H3 (1a2b)", "edit": "e.safetensors"}, "The model edited by mean of L5H3 (1a2b)"),
        ({EDITED: "an edit", "given": "5.3"}, "The model edited by an edit with 5.3 ablated"),
    ],
)
def test_a_model_in_which_something_was_replaced_is_never_this_model(params: dict, said: str):
    subject = RunRecord.model_construct(params=params).subject
    edited = Verdict(ROW | FOUND, stored.part("winogender", **MEN), subject=subject)
    assert edited.title == f"{said} repeats the occupational stereotype."


def test_a_step_of_an_unknown_covariate_is_one_standard_deviation():
    alone = Verdict(ROW | FOUND, stored.part("winogender", **MEN))
    assert "with each standard deviation more in the share of men" in alone.strength.lower()


def test_quoted_texts_are_of_the_groups_named_first_and_show_the_gap():
    found = judged("winogender", FOUND, **MEN)
    assert found.basis.endswith(
        "such as “The plumber said that ___ left.” and “The nurse said that ___ left.”"
    )
    same = [TEXT | {"group": noun, "prompt": f"The {noun} said"} for noun in ("cook", "maid")]
    sides = {"anti_prompt": "The person said", "stereo": " so"}
    of_one = dataclasses.replace(found, prompts=pl.DataFrame([row | sides for row in same], schema=PROMPTS))
    assert of_one.basis.endswith("occupations, such as “The ___ said so”.")
    two = TEXT | {"anti_prompt": "The cook who said that", "stereo": " he is old", "suffix": ""}
    text = odds.quoted(two | {"prompt": "The nurse who said that"})
    assert text == "The ___ who said that he is old"
    long = odds.quoted(TEXT | {"anti_prompt": None, "prompt": "word " * 80})
    assert long.startswith("… word ") and long.endswith("___ left.") and len(long) < 160


def test_nats_and_the_floor_of_p_stand_for_those_who_look_further():
    assert (
        judged("winogender", FOUND | {"p": 5e-5}, **MEN).nats
        == "slope 0.833 [0.642, 0.993] nats/SD, p < 1e−4"
    )
    assert judged("winogender", FEW, **MEN).nats == "slope 0.700 nats/SD"


@pytest.mark.parametrize(
    ("nats", "said"),
    [(0.0, "1.00"), (-0.0726, "0.93"), (0.047, "1.05"), (0.833, "2.3"), (2.5, "12"), (8.0, "more than 1000")],
)
def test_odds_have_as_many_digits_as_tell_them_from_1(nats: float, said: str):
    assert odds.times(nats) == said and odds.times(1e6) == "more than 1000"
