"""What is said of an edit: every case of the table of sentences, by numbers alone."""

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import biasscope
from biasscope.engine.schemas import SUMMARY
from biasscope.engine.store.runs import DatasetPart
from biasscope.report.edits import tables
from biasscope.report.edits.judged import Judged, sentences

PART = {"name": "winogender", "digest": "", "source": {"url": "x"}, "found": 1, "used": 1, "not_drawn": 0}
PART |= {"dropped": {}, "partly": {}, "groups": 60, "noun": "occupation", "sides": ("“he”", "“she”")}
PART |= {"bias": "the occupational stereotype"}
DATA = DatasetPart.model_validate(PART)
OWN = DatasetPart.model_validate(PART | {"source": {"file": "mine.csv"}, "bias": ""})


def row(statistic: str, low, estimate, high, subset="judged", **more) -> dict:
    same = {"subset": subset, "metric": "target", "source": "mean", "position": "e", "n": 120, "clusters": 30}
    ends = {"ci_low": low, "estimate": estimate, "ci_high": high}
    return dict.fromkeys(SUMMARY) | same | ends | {"statistic": statistic, "unit": "nats/SD"} | more


def judged(*changes: dict, kind: str = "mean", ranks=((0.048, 20, "size"), (0.048, 20, "cost"))) -> Judged:
    """An edit that leaves 0.4 of the slope and 0.9 of factual gender, but for the rows that differ."""
    rows = [
        row("slope", -0.5, -0.36, -0.2),
        row("left", 0.2, 0.4, 0.6),
        row("mean", -0.1, 0.0, 0.1),
        row("left", 0.35, 0.45, 0.55, "choosing"),
        row("left", 0.3, 0.5, 0.7, "transfer"),
        row("left", 0.8, 0.9, 1.0, "facts"),
        row("random", -0.1, 0.0, 0.1, source="cost"),
        *(row("rank", None, estimate, None, n=n, source=role) for estimate, n, role in ranks),
    ]
    key = lambda r: (r["statistic"], r["subset"], r["source"])  # noqa: E731
    different = {key(r): r for r in changes}
    return Judged("e", kind, [different.get(key(r), r) for r in rows], 0.6)


RANDOM = "random edits of equal cost: 1.00 [0.83, 1.17]"
SHOWN = f"The slope that is left is 0.40 [0.20, 0.60] of the clean one ({RANDOM})."
FITTED = "On the occupations it was fitted to it does more (0.10 left): expect the judged number elsewhere."
MORE = "It takes more of the stereotype than of factual gender (0.90 [0.80, 1.00] left)."
NOTHING = "No smaller slope is shown than random edits of this cost give."


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (judged(), [SHOWN, MORE]),
        (judged(row("left", 0.2, 0.6, 1.1)), [NOTHING]),
        (judged(row("left", 1.1, 1.3, 1.5)), [NOTHING]),
        (judged(ranks=((0.048, 20, "size"), (0.095, 20, "cost"))), [NOTHING]),
        (judged(ranks=((0.143, 20, "labels"), (0.048, 20, "cost"))), [NOTHING]),
        (
            judged(row("left", 0.3, 0.5, 0.7, "facts")),
            [
                SHOWN,
                "It takes gender as a whole, factual gender (0.50 [0.30, 0.70] left) with the stereotype.",
            ],
        ),
        (
            judged(row("left", 0.0, 0.1, 0.15, "facts")),
            [SHOWN, "It takes more of factual gender (0.10 [0.00, 0.15] left) than of the stereotype."],
        ),
        (
            judged(row("left", 0.5, 0.9, 1.01, "facts")),
            [SHOWN, "Whether it takes factual gender too is not shown (0.90 [0.50, 1.01] left)."],
        ),
        (
            judged(row("mean", -0.5, -0.3, -0.1)),
            [SHOWN, MORE, "It also moves the base rate of “he” by −0.300 [−0.500, −0.100] nats."],
        ),
        (judged(row("left", 0.7, 0.9, 1.1, "transfer")), [SHOWN, MORE, "On occupations nothing is shown."]),
        (
            judged(row("left", 1.1, 1.2, 1.3, "transfer")),
            [SHOWN, MORE, "On occupations it leaves more than there was (1.20 [1.10, 1.30])."],
        ),
        (
            judged(row("left", 0.05, 0.1, 0.15, "choosing")),
            [SHOWN, MORE, FITTED],
        ),
        (
            judged(row("left", 0.2, 0.6, 1.1), row("mean", 0.1, 0.3, 0.5), kind="steer"),
            ["It moves the base rate of “he” by 0.300 [0.100, 0.500] nats.", NOTHING],
        ),
        (judged(ranks=()), ["Not testable: no random edit was drawn to compare it with."]),
        (
            judged(ranks=((0.048, 20, "size"), (None, 3, "cost"))),
            ["Not testable: 3 random edits at this cost to compare it with, 19 are needed."],
        ),
        (
            judged(row("left", None, None, None)),
            ["Not testable: the interval of the clean slope holds 0."],
        ),
        (
            judged(row("left", None, 1.0, None)),
            ["Not testable: what is left has no interval: the edit does the same to all groups, or nothing."],
        ),
        (
            judged(row("left", None, None, None), row("slope", None, -0.3, None, clusters=4)),
            ["Not testable: only 4 groups: no statement about other groups."],
        ),
    ],
)
def test_each_case_has_its_sentence_and_no_other(edit, said):
    assert sentences(edit, DATA, "occupations") == said
    assert edit.shown == said[0].startswith("The slope that is left")


def test_an_edit_that_turns_the_slope_round_is_said_to():
    said = sentences(judged(row("left", -0.8, -0.5, -0.2)), DATA)[0]
    assert (
        said
        == f"The slope that is left is −0.50 [−0.80, −0.20] of the clean one ({RANDOM}): it is turned round."
    )


def test_what_leans_against_the_stereotype_is_not_called_one():
    against = replace(judged(), clean=-0.6)
    assert sentences(against, DATA)[1] == MORE.replace("the stereotype", "what these prompts measure")


def test_several_of_a_noun_of_two_words():
    pairs = DATA.model_copy(update={"noun": "pair of words"})
    (*_, said) = sentences(judged(row("left", 0.0, 0.1, 0.2, "choosing")), pairs)
    assert said == FITTED.replace("occupations", "pairs of words")


def test_a_user_s_own_prompts_are_not_called_a_stereotype():
    assert "stereotype" not in " ".join(sentences(judged(), OWN))


def test_words_that_promise_too_much_stand_nowhere():
    folder = Path(biasscope.__file__).parent
    texts = [p.read_text(encoding="utf-8") for p in (folder / "report" / "edits").glob("*.py")]
    texts += [
        p.read_text(encoding="utf-8") for p in (folder / "engine").rglob("*.py") if "mitigate" in str(p)
    ]
    assert texts
    for text in texts:
        assert not re.search(
            r"debias|unbiased|\bfair(er)?\b|remove[sd]? the bias|bias-free", text, re.IGNORECASE
        )


def audit_row(position: str, head: int, estimate: float, p: float) -> dict:
    site = {"component": "z", "layer": 1, "head": head, "position": position, "p_family": p}
    return row("slope", estimate - 0.1, estimate, estimate + 0.1, "audit", **site)


def test_an_audit_counts_stars_and_names_the_strongest_head_then_and_before():
    before = [audit_row("clean", 2, -1.2, 0.01), audit_row("clean", 0, 0.05, 1.0)]
    rows = [*before, audit_row("e", 0, 0.3, 0.02), audit_row("f", 2, -0.2, 0.5), audit_row("f", 0, 0.02, 1.0)]
    summary = pl.DataFrame(rows, SUMMARY)
    said = [each.sentence for each in tables.audited(summary)]
    assert said[0] == (
        "Audit of the edited model: heads with a star: 1 of 2 (before the edit 1); the strongest of 1 "
        "measured is L1H0, 0.300* [0.200, 0.400] nats/SD (before 0.0500 [−0.050, 0.150]); the strongest "
        "before was L1H2, −1.20* [−1.30, −1.10]."
    )
    table = tables.audit(summary, 2)
    assert [cells[:3] for cells in table.sections[0]] == [
        ["e", "1 (1)", "L1H0"],
        ["f", "0 (1)", "L1H2"],
        ["", "", "L1H0"],
    ]
    assert tables.audit(summary.filter(pl.col("subset") != "audit")) is None
