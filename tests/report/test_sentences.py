"""Each sentence of the report and of the terminal's tables against the hand-made numbers that it is made
of.
"""

import io
from pathlib import Path

import polars as pl
import pytest

from biasscope.engine.schemas import RELIABILITY, SUMMARY
from biasscope.engine.statistics import comparison
from biasscope.engine.statistics.circuits import subset
from biasscope.engine.statistics.racing import METHOD
from biasscope.engine.store.runs import RunRecord
from biasscope.report import circuits, numbers, probes, reliability, sites, tables, words
from biasscope.report.comparison import show_tables
from biasscope.report.drawing import columns, terminal
from biasscope.report.page import blocks, first_screen, gather, runs
from biasscope.report.page.gallery import Gallery
from biasscope.report.page.gather import Gathered, Part, ReportRun
from tests.support import stored

CERTAIN = {
    "split_top10": 0.8,
    "split_top10_chance": 10 / 270,
    "detectable": 0.09,
    "detectable_family": 0.13,
    "split_spearman": 0.45,
}


def rows(*values: dict, **same) -> pl.DataFrame:
    """SUMMARY of heads L0H0, L0H1, … with an effect each, and what is said of them."""
    base = {
        "model": "m",
        "dataset": "winogender",
        "subset": "all",
        "method": "exact",
        "source": "corrupt",
        "metric": "target",
    }
    base |= {
        "statistic": "slope",
        "unit": "nats/SD",
        "component": "z",
        "layer": 0,
        "position": "all",
        "n": 240,
        "clusters": 60,
    }
    made = [
        base | {"head": i, "estimate": 0.5, "ci_low": 0.4, "ci_high": 0.6, "p_family": 0.5} | same | row
        for i, row in enumerate(values)
    ]
    return pl.DataFrame(made, schema_overrides=SUMMARY).pipe(
        lambda frame: pl.concat([SUMMARY.to_frame(), frame], how="diagonal")
    )


STARRED = {"estimate": 0.714, "ci_low": 0.6, "ci_high": 0.8, "p_family": 1e-5}


def trusted(n: int = 100, **numbers) -> pl.DataFrame:
    """RELIABILITY of heads."""
    same = {
        "model": "m",
        "dataset": "winogender",
        "method": "exact",
        "source": "corrupt",
        "metric": "target",
        "statistic": "slope",
    }
    shares = ("split_top10", "split_top10_chance", "agreement_top10")
    made = []
    for quantity, value in numbers.items():
        single = quantity.startswith(("false_alarms", "family_sites"))
        where = (
            {"component": "single", "source": None, "heads": False}
            if single
            else {"component": "z", "heads": True}
        )
        number = {"quantity": quantity, "unit": "share" if quantity in shares else "nats/SD", "n": n}
        number |= {"estimate": value, "low": value, "high": value}
        # what hook points that contain others say comes first, and is of another family
        made += [same | where | number | {"component": "containing", "estimate": 0.99}] if single else []
        made.append(same | where | number | {"against": ""})
    return pl.DataFrame(made, schema=RELIABILITY)


def found(
    command: str, summary: pl.DataFrame, key: str, reliability: pl.DataFrame | None = None, **params
) -> ReportRun:
    """A finished run with those tables."""
    data = stored.part(summary["dataset"][0], used=summary["n"][0] or 0)
    made = RunRecord(
        command=command, model=None, params=params, seed=0, versions={}, created="2026-01-01", reproduce="",
        timing={}, peak_rss_bytes=0, warnings=[], datasets=[data],
    )  # fmt: skip
    return ReportRun(Path(f"/results/{key}"), made, summary, reliability)


def part(*runs: ReportRun) -> Part:
    return gather.part(runs)


# One run a sentence, named; a measurement stands before an estimate


@pytest.fixture
def two_maps() -> Part:
    """The same heads estimated (all 270) and, chosen ones, measured, with another number each."""
    share = {"recovered_low": 0.6, "recovered_high": 0.9}
    estimates = rows(*[STARRED | share | {"estimate": 0.751, "recovered": 0.751}] * 2, method="attribution")
    total = rows({"component": "total", "head": None, "layer": None, "estimate": 1.0})
    chosen = rows(STARRED | share | {"recovered": 0.714})
    certain = trusted(**CERTAIN)
    return part(
        found(
            "patch",
            pl.concat([estimates, total.with_columns(method=pl.lit("attribution"))]),
            "estimate",
            certain,
            method="attribution",
        ),
        found("patch", pl.concat([chosen, total]), "measured", certain, method="exact", layers="24-29"),
        found("baseline", rows({"component": None, "layer": None, "head": None}, method="clean"), "cleanrun"),
    )


def summary_lines(*of: Part) -> list[str]:
    return [line for each in of for line in sites.lines(each)]


def on_the_first_screen(of: Part, folder: Path) -> blocks.Block:
    (section,) = first_screen.sections(Gathered([of], []), Gallery(folder))
    return section.blocks[0]


def test_every_sentence_of_the_summary_names_one_run(two_maps: Part):
    lines = summary_lines(two_maps)
    joined = [line for line in lines if line.count("Run ") + line.count("run ") != 1]
    # which of two runs counts, and where a number stands
    assert len(joined) == 2 and all("measured" in line for line in joined)


def test_a_measured_number_stands_before_its_estimate_and_alone(two_maps: Part):
    text = "\n".join(summary_lines(two_maps))
    assert two_maps.shown[0].run.key == "measured" and [m.run.key for m in two_maps.shown] == [
        "measured",
        "estimate",
    ]
    assert "L0H0 0.714 [" in text and "L0H0 0.751" not in text and "L0H1 0.751 [" in text
    assert "L0H0 alone recovers 0.714" in text and "recovers 0.751" not in text
    assert (
        "twin patched in, estimated by attribution" in text
        and "1 with measured numbers in run measured" in text
    )
    assert "where a site has both numbers, the measured one counts" in text


def test_a_long_sentence_is_shown_to_its_end():
    far = {"estimate": -0.0951, "ci_low": -0.137, "ci_high": -0.0531, "p_family": 1e-5}
    estimated = found(
        "patch",
        rows(*[far] * 40, method="attribution"),
        "12345678",
        trusted(family_sites=300.0, n=200),
        layers="1-9",
    )
    one = part(estimated, found("patch", rows(*[far] * 20), "87654321", layers="2-3"))
    text = blocks.clean_text(words.found_sites(one.shown[1], one.shown[0]))
    assert "L0H20" in text and text.endswith("16 more, 20 with measured numbers in run 87654321.")


def test_first_screen_figure_and_sentences_are_of_the_same_run(two_maps: Part, tmp_path: Path):
    shown = on_the_first_screen(two_maps, tmp_path)
    points = dict(shown.points)
    assert points["Where"].endswith("run measured).") and shown.pictures[0].caption.startswith(
        "Run measured:"
    )
    assert "(run cleanrun)" in points["How certain"] and points["How certain"].endswith("(run measured).")


def test_an_estimate_alone_is_called_so():
    estimates = rows(
        STARRED | {"recovered": 0.75},
        {"component": "total", "head": None, "layer": None},
        method="attribution",
    )
    (found_map,) = part(found("patch", estimates, "k")).shown
    assert "is estimated to recover 0.750" in words.recovery(
        found_map
    ) and "estimated by attribution" in words.found_sites(found_map)


# What significant means


def test_only_stars_are_counted_and_the_family_of_chosen_sites_is_said():
    values = [STARRED, STARRED | {"carried_by": "nurse"}, STARRED | {"ci_low": -0.1}, {}]
    run = found("ablate", rows(*values), "k", trusted(family_sites=300.0, n=20), method="exact", top=20)
    one = part(run)
    (found_map,) = one.shown
    said = words.found_sites(found_map)
    assert "1 of 4 heads is significant" in said and "of all 300 sites, 20 measured" in said
    assert words.families([one]) == "300 (run k, 20 of them measured)"
    extent = "of all 300 sites, 20 measured; run k)"
    assert words.where(one).startswith("1 of 4 measured heads changes this") and extent in words.where(one)
    assert words.short_sites(found_map).startswith("1 of 4 measured heads: L0H0 (")
    assert extent in words.short_sites(found_map)


def test_a_map_of_mlps_alone_says_that_heads_were_not_measured():
    mlps = part(found("patch", rows(STARRED | {"component": "mlp_out", "head": None}), "k", method="exact"))
    assert mlps.first is None and words.where(mlps) == "Heads were not measured."
    assert words.where(part(found("baseline", rows({}), "k"))) == "Not measured."


def test_a_race_that_measured_every_site_left_none_out_and_does_not_hide_a_full_scan():
    full = found("ablate", rows(STARRED, {}), "full", method="exact")
    race = found("ablate", rows(STARRED, {}), "race", method="exact", adaptive=True)
    assert not part(race).first.partial and runs.size(full) > runs.size(race)
    guesses = [{"method": METHOD, "head": i} for i in (2, 3)]
    race = found("ablate", rows(STARRED, {}, *guesses), "race", method="exact", adaptive=True)
    assert part(race).first.partial and runs.size(full) > runs.size(race)


def test_what_would_have_been_found_is_said_where_nothing_was():
    (found_map,) = part(found("ablate", rows({}, {}), "k", trusted(**CERTAIN))).shown
    said = words.found_sites(found_map)
    assert (
        "none of 2 heads is significant. An effect of 0.130 nats/SD or more would probably have been found."
        in said
    )
    (found_map,) = part(
        found("ablate", rows({}), "k", trusted(**CERTAIN | {"detectable_family": None}))
    ).shown
    assert "would" not in words.found_sites(found_map)


def test_no_head_is_called_most_specific_without_an_interval():
    values = [STARRED | {"specificity": 0.992}, STARRED | {"specificity": 0.5}]
    text = "\n".join(summary_lines(part(found("ablate", rows(*values), "k", control="definitional"))))
    assert "pecific" not in text


# Chance beside overlap


def test_what_repeats_stands_beside_luck(tmp_path: Path):
    one = part(found("ablate", rows({}), "k", trusted(**CERTAIN)))
    (found_map,) = one.shown
    assert reliability.repeated(found_map) == tables.Overlap(8.0, 10, 10 * 10 / 270)
    (said,) = reliability.sentences(found_map)
    assert "8 come up again" in said and "0.4 by luck" in said
    points = dict(on_the_first_screen(one, tmp_path).points)
    again = "Of the 10 strongest heads 8 come up again in half of the groups, 0.4 by luck (run k)."
    assert points["How certain"] == again
    few = trusted(**CERTAIN | {"split_top10_chance": 10 / 16})
    (found_map,) = part(found("ablate", rows({}), "k", few)).shown
    assert reliability.repeated(found_map) is None and reliability.sentences(found_map) == []


@pytest.mark.parametrize(
    ("luck", "said"),
    [(10 / 270, "8 of 10, 0.4 by luck"), (0.5, "8 of 10, 5.0 by luck"), (10 / 16, "–"), (None, "–")],
)
def test_the_terminal_shows_luck_and_nothing_where_it_gives_more_than_half(luck: float | None, said: str):
    (table,) = reliability.tables(rows({}).clear(), trusted(**CERTAIN | {"split_top10_chance": luck}))
    assert table.sections[0][0][-1] == said


def test_sources_that_agree_stand_beside_luck():
    for size, said in ((270, "7 of 10, 0.4 by luck"), (16, "–")):
        (table,) = reliability.tables(
            rows({}).clear(), trusted(n=size, agreement_spearman=0.5, agreement_top10=0.7)
        )
        assert table.title == "agreement between sources" and table.sections[0][0][-1] == said


def test_compare_counts_stars_and_shows_luck():
    one = rows(*[STARRED] * 3, STARRED | {"ci_low": -1.0}, *[{}] * 26)
    rankings = [
        *comparison.rankings("a", 1, one),
        *comparison.rankings("b", 1, one.drop("carried_by", "caution")),
    ]
    (pair,) = comparison.pairs(rankings, 10)
    assert pair["significant_both"] == 3 and [row["head"] for row in comparison.common(rankings)] == [0, 1, 2]
    document = {"pairs": [pair], "depths": [], "common": [], "runs": []}
    assert show_tables(rankings, document)[0].sections[0][0][3:5] == ["10 of 10, 3.3 by luck", "< 1e−4"]
    document["pairs"] = comparison.pairs(rankings, 20)
    assert show_tables(rankings, document)[0].sections[0][0][3:5] == ["–", "–"]


# How often a star appears without an effect


def test_false_alarms_are_said_on_the_terminal_and_in_the_report():
    said = (
        "in data like these without any effect a star appears in 4 % (symmetric) to 31 % (as skewed as here) "
        "of studies"
    )
    audit = trusted(false_alarms_symmetric=0.04, false_alarms_resampled=0.31, family_sites=300.0, n=20)
    (table,) = reliability.tables(rows({}).clear(), audit)
    assert table.notes == [
        "p_family is over all 300 sites that could have been chosen, 20 of them measured",
        said,
    ]
    (found_map,) = part(found("ablate", rows({}), "k", audit)).shown
    assert reliability.sentences(found_map) == [f"Run k: {said}."]
    assert reliability.false_alarms(trusted(**CERTAIN)) is None


# Verdicts on probes


def probe(low: float | None, accuracy: float = 1.0) -> ReportRun:
    high = None if low is None else 1.0
    label = {"component": "resid", "head": None, "layer": 2, "metric": "lean", "statistic": "accuracy"}
    own = {"method": "probe", "estimate": accuracy, "ci_low": low, "ci_high": high}
    band = {"method": "shuffled", "estimate": 0.5, "ci_low": 0.4, "ci_high": 0.75}
    return found("probe", rows(label | own, label | band), "k", split="holdout")


@pytest.mark.parametrize(("low", "verdict"), [(None, None), (0.8, True), (0.7, False)])
def test_report_table_and_bars_have_one_verdict_on_a_probe(low: float | None, verdict: bool | None):
    run = probe(low)
    own, band = run.summary.to_dicts()
    assert probes.readable(own, band) is verdict
    said = probes.sentence(run)
    assert ("no interval" in said and "no verdict" in said) == (verdict is None) and (
        "nothing is shown" in said
    ) == (verdict is False)
    table, bars = probes.probes(run.summary, "d", "group", "FILE", "holdout"), io.StringIO()
    terminal.probes(run.summary, bars)
    assert ("*" in table.sections[0][0][1]) == (verdict is True) == ("0.500*" in bars.getvalue())
    assert any("a fifth of the groups is held out" in note for note in table.notes)


def test_a_probe_whose_best_row_is_unsure_does_not_hide_another_that_is_readable():
    best, sure = probe(0.7).summary, probe(0.8, 0.9).summary.with_columns(layer=pl.lit(5, pl.Int64))
    run = found("probe", pl.concat([best, sure.cast(dict(best.schema))]), "k", split="holdout")
    said = probes.sentence(run)
    assert "row 2" in said and "nothing is shown" not in said and said.endswith("rows above theirs: 5.")


# Sets of sites


def kept(ends: dict[int, tuple[float | None, float]]) -> ReportRun:
    """A circuit of these sizes: the lower end of f, and the upper end of random sets."""
    same = {"method": "keep", "statistic": "faithfulness", "unit": "f", "p_family": None}
    top = [
        same | {"subset": subset("top", k), "ci_low": low, "ci_high": None if low is None else 1.0}
        for k, (low, _) in ends.items()
    ]
    random = [
        same | {"subset": subset("random", k), "ci_low": -0.1, "ci_high": high}
        for k, (_, high) in ends.items()
    ]
    return found("circuit", rows(*top, *random), "k")


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({1: (0.1, 0.2), 3: (0.5, 0.2), 5: (0.6, 0.3)}, "more than random sets from 3 sites on"),
        ({1: (0.5, 0.2), 3: (0.1, 0.2), 5: (0.6, 0.3)}, "more than random sets at 1, 5 sites"),
        ({1: (0.5, 0.2), 3: (0.1, 0.2), 5: (0.1, 0.3)}, "more than random sets at 1 site"),
        ({1: (0.5, 0.2), 3: (0.5, 0.2), 5: (0.6, 0.3)}, "more than random sets from 1 site on"),
        ({1: (0.1, 0.2), 3: (0.1, 0.3)}, "no size is shown to keep more than random sets"),
        ({1: (None, 0.2), 3: (None, 0.3)}, "without intervals they are not compared with random sets"),
    ],
)
def test_sets_beat_random_ones_at_the_sizes_at_which_their_interval_is_above(ends: dict, said: str):
    assert f"; {said}." in circuits.sentence(kept(ends))


@pytest.mark.parametrize(
    ("sizes", "said"), [((1, 5), "the 5 strongest keep f = 0.500"), ((1,), "the strongest keeps f = 0.500")]
)
def test_a_set_of_one_site_is_not_spoken_of_as_several(sizes: tuple[int, ...], said: str):
    text = circuits.sentence(kept(dict.fromkeys(sizes, (0.5, 0.2))))
    assert f": {said} [0.500, 1.00] in groups that did not choose them; " in text


# Tables


@pytest.mark.parametrize(("n", "said"), [(0, []), (1, ["1 more head"]), (20, ["20 more heads"])])
def test_what_is_not_shown_is_counted(n: int, said: list[str]):
    assert numbers.rest(n, "heads") == said


def test_of_too_few_groups_nothing_is_said_of_how_the_ranking_repeats():
    empty = trusted(split_spearman=None, split_top10=None, detectable=None)
    assert [t.title for t in reliability.tables(rows({}), empty)] == []


def test_p_at_the_floor_of_its_draws_is_said_to_be_below():
    assert [tables.probability(p) for p in (5e-5, 1e-4, 0.0312, None)] == ["< 1e−4", "0.0001", "0.0312", "–"]
    assert tables.effects(rows(STARRED), stored.part("winogender"), "FILE").sections[0][0][2] == "< 1e−4"


def test_notes_explain_the_marks_and_columns_that_are_there_and_no_others():
    kl = rows({"metric": "kl", "statistic": "mean", "unit": "nats", "p_family": None})
    notes = "\n".join(tables.effects(pl.concat([rows(STARRED), kl]), stored.part("winogender"), "FILE").notes)
    assert (
        "* p_family" in notes
        and "kl: " in notes
        and not [word for word in ("°", "†", "~", "shift", "compet.", "rms") if word in notes]
    )
    assert "stereotype" not in "\n".join(
        tables.effects(rows({}, statistic="mean"), stored.part("definitional"), "FILE").notes
    )


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("width", "left"), [("90", ""), ("62", "rms, kl"), ("40", "shift, rms, compet., kl")]
)
def test_on_a_narrow_terminal_columns_leave_and_names_stay_whole(monkeypatch, width: str, left: str):
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    own = rows(*[STARRED | {"layer": 26}] * 2)
    beside = [("target", "mean"), ("target", "rms"), ("competence", "rms"), ("kl", "mean")]
    more = [
        own.with_columns(metric=pl.lit(metric), statistic=pl.lit(statistic), p_family=None)
        for metric, statistic in beside
    ]
    stream = Terminal()
    columns.draw(tables.effects(pl.concat([own, *more]), stored.part("winogender"), "FILE"), stream)
    text = stream.getvalue()
    assert "L26H1" in text and "…" not in text and "0.714* [0.600, 0.800]" in text
    assert (f"no room for: {left}\n" in text and "kl: " not in text) if left else ("no room" not in text)


def test_a_note_leaves_with_the_column_that_it_is_about_and_with_no_other(monkeypatch):
    monkeypatch.setenv("COLUMNS", "14")
    monkeypatch.setenv("TERM", "xterm")
    notes, stream = ["wide: in nats", "wide: this stays"], Terminal()
    columns.draw(
        tables.Table("t", ["a", "wide"], [[["x" * 8, "y" * 8]]], notes, about={"wide": notes[0]}), stream
    )
    assert "no room for: wide" in stream.getvalue() and "wide: this stays" in stream.getvalue()
    assert "wide: in nats" not in stream.getvalue()


def test_a_band_without_ends_is_a_dash_and_zero_has_no_sign():
    assert probes.ends({"ci_low": None, "ci_high": None}) == "–"
    assert probes.ends({"ci_low": -0.001, "ci_high": 0.5}) == "[0.00, 0.50]"
