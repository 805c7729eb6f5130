"""The sentence about two models is the case that its numbers are."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from biasscope.engine.schemas import DIFFERENCES, SUMMARY
from biasscope.engine.statistics.paired import Matched
from biasscope.report.page import gather, models, pairing
from tests.support import stored


def pair(data: str = "winogender", **columns: object) -> pairing.Pair:
    """A pair of baselines with one difference, of target's slope."""
    row = {"subset": "all", "metric": "target", "statistic": "slope", "unit": "nats/SD", "dataset": data}
    row |= {"n": 240, "clusters": 60, "first_estimate": 0.6, "second_estimate": 0.3, "estimate": -0.3}
    row |= {"ci_low": -0.4, "ci_high": -0.2, "p": 0.00005, "p_family": 0.00005, **columns}
    frame = pl.DataFrame([row], DIFFERENCES)
    runs = []
    for name, side in (("before", "first"), ("after", "second")):
        at = row[f"{side}_estimate"]
        own = {**row, "estimate": at, "ci_low": at - 0.15, "ci_high": at + 0.15}
        summary = pl.DataFrame([{key: own.get(key) for key in SUMMARY}], SUMMARY)
        record = stored.record(Path("results") / name).model_copy(
            update={"datasets": [stored.part(data, bias="" if data == "definitional" else "a stereotype")]}
        )
        runs.append(gather.ReportRun(Path("results") / name, record, summary, None, label=name))
    return pairing.Pair(*runs, "baseline", Matched(240, 0, 0, 60, 0, 0), frame)


CASES = {
    "weaker": (
        {},
        "Is after less stereotyped than before? Yes, on these sentences. The slope is 0.300 instead of 0.600",
    ),
    "stronger": (
        {"second_estimate": 0.9, "estimate": 0.3, "ci_low": 0.2, "ci_high": 0.4},
        "? No, it is the other way",
    ),
    "reversed": (
        {"second_estimate": -0.2, "estimate": -0.8, "ci_low": -0.9},
        "? No: it leans the other way now.",
    ),
    "against_less": (
        {"first_estimate": -0.6, "second_estimate": -0.3, "estimate": 0.3, "ci_low": 0.2, "ci_high": 0.4},
        "? No: what leaned against the stereotype does so less.",
    ),
    "against_more": (
        {"first_estimate": -0.3, "second_estimate": -0.6},
        "? It leans against the stereotype more.",
    ),
    "neither": (
        {"first_estimate": 0.1, "second_estimate": -0.1, "estimate": -0.2, "ci_low": -0.3, "ci_high": -0.1},
        "? They differ, but neither is shown to lean to a side. The slope is −0.100 instead of 0.100",
    ),
    "open": ({"ci_high": 0.01}, "? Not shown: the interval of the difference holds 0."),
    "same": (
        {"second_estimate": 0.6, "estimate": 0.0, "ci_low": 0.0, "ci_high": 0.0},
        "? No: the two give the same",
    ),
    "untestable": ({"ci_low": None, "ci_high": None, "clusters": 3}, "? Cannot be said: only 3 occupations"),
}


@pytest.mark.parametrize("name", models.CASES)
def test_each_case_has_its_sentence_and_the_numbers_it_is_made_of(name):
    columns, words = CASES[name]
    made = pair(**columns)
    assert models.case(made) == name
    assert words in models.sentence(made)
    if name in ("weaker", "stronger", "open"):
        assert "nats/SD, p < 1e−4, over 240 examples in 60 groups" in models.sentence(made)
        assert (
            "each standard deviation more of the share of men multiplies the odds of “he”"
            in models.sentence(made)
        )


@pytest.mark.parametrize(
    ("first", "second", "case"),
    [
        (0.6, -0.01, "weaker"),
        (-0.01, 0.6, "stronger"),
        (-0.6, 0.01, "against_less"),
        (0.01, -0.6, "against_more"),
    ],
)
def test_an_estimate_whose_own_interval_holds_0_leans_nowhere(first, second, case):
    change = second - first
    made = pair(first_estimate=first, second_estimate=second, estimate=change,
                ci_low=change - 0.1, ci_high=change + 0.1)  # fmt: skip
    assert models.case(made) == case


def test_odds_beyond_all_measure_are_said_to_be_more_or_less():
    made = pair(first_estimate=-800.0, second_estimate=900.0, estimate=1700.0, ci_low=1600.0, ci_high=1800.0)
    assert "“he” by more than 1000 instead of less than 0.01." in models.sentence(made)


def test_odds_are_those_of_both_slopes():
    assert "“he” by 1.35 instead of 1.82" in models.sentence(pair())  # e^0.3, e^0.6


def test_of_a_mean_and_of_ss_the_neutral_value_is_that_of_the_statistic():
    ss = {
        "metric": "stereoset",
        "statistic": "ss",
        "unit": "%",
        "first_estimate": 60.0,
        "second_estimate": 45.0,
    }
    made = pair("stereoset_race", **ss, estimate=-15.0, ci_low=-20.0, ci_high=-10.0)
    assert models.case(made) == "reversed"
    assert "SS (50: neither side preferred) is 45.0 instead of 60.0" in models.sentence(made)


@pytest.mark.parametrize("name", models.PLAIN)
def test_where_no_side_is_a_stereotype_nothing_is_called_one_or_better(name):
    columns, _ = CASES[name]
    text = models.sentence(pair("definitional", **{**columns, "statistic": "mean", "unit": "nats"}))
    assert "stereotyp" not in text and "Yes" not in text and "No:" not in text
    assert text.startswith(f"after beside before: {models.PLAIN[name]}")


def test_the_table_says_who_is_a_and_b_and_what_was_left_out():
    made = replace(pair(), matched=Matched(230, 10, 0, 59, 1, 0))
    table = models.show(made)[-1]
    assert table.sections[0][0][:4] == ["target slope", "all", "0.600", "0.300"]
    assert "A: before, run before" in table.notes and "B: after, run after" in table.notes
    assert any("10 only in the first" in note for note in table.notes)
