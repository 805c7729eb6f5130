"""The only place that talks to a person says it safely, and on the right stream."""

import io
import json
import math
import sys

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biasscope import console
from biasscope.engine.schemas import RELIABILITY, SUMMARY
from biasscope.engine.settings import Format, Measure
from biasscope.engine.store import runs
from biasscope.report import formats, markdown, tables
from biasscope.report.drawing import columns
from tests.support import stored

HOSTILE = "a\x1b[31mred\x9b1m\u202e\u200b\ufeff\x07b\tc\nd"


def summary(**columns: object) -> pl.DataFrame:
    """One SUMMARY row with these values."""
    base = {
        "model": "m",
        "dataset": "d",
        "subset": "all",
        "method": "exact",
        "source": "mean",
        "metric": "target",
        "statistic": "mean",
        "position": "all",
    }
    return pl.DataFrame([{**base, **columns}], schema=SUMMARY)


def test_safe_text_drops_what_could_steer_a_terminal():
    assert console.safe_text(HOSTILE) == "a[31mred1mb c d"


@given(st.text())
def test_safe_text_leaves_only_printable_characters(text: str):
    assert all(c.isprintable() for c in console.safe_text(text))


def test_safe_text_keeps_letters_of_every_script():
    assert console.safe_text("naïve – Ωβ 漢字 שלום") == "naïve – Ωβ 漢字 שלום"


def test_progress_yields_every_unit_and_is_silent_where_there_is_no_terminal_and_no_time_passes(capsys):
    assert list(console.Screen().track([1, 2, 3], "work")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_progress_says_a_plain_line_every_few_seconds_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "EVERY", 0.0)
    list(console.Screen().track([1, 2], "work"))
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("work: 1/2, ") and "\x1b" not in err


def test_quiet_progress_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(console, "EVERY", 0.0)
    assert list(console.Screen(quiet=True).track([1, 2], "work")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_what_is_known_so_far_is_a_line_in_a_log_and_stands_above_the_bar_on_a_terminal(capsys, monkeypatch):
    rows = [("L0.mlp", "−0.677"), ("L24.mlp", "−0.435 ± 0.492")]
    console.Screen().standings("9 of 60 groups", rows)
    assert capsys.readouterr().err == "9 of 60 groups: L0.mlp −0.677, L24.mlp −0.435 ± 0.492\n"
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    screen = console.Screen()
    screen.standings("9 of 60 groups", rows)
    list(screen.track([1], "work"))
    shown = terminal.getvalue()
    assert shown.index("9 of 60 groups") < shown.index("−0.435 ± 0.492") < shown.index("work")


def test_libraries_cannot_write_to_stdout_while_hushed(capsys):
    with console.Screen().hushed():
        print("Loaded pretrained model")  # noqa: T201
    assert capsys.readouterr() == ("", "")


def test_a_warning_shows_even_when_quiet(capsys):
    console.Screen(quiet=True).warn("labels repaired")
    assert capsys.readouterr().err == "warning: labels repaired\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.0, "0.000"),
        (-0.32612, "−0.326"),
        (12.345, "12.3"),
        (1234.5, "1234"),
        (0.00321, "0.0032"),
        (5e-5, "5e−05"),
    ],
)
def test_numbers_have_three_significant_digits_and_a_dash_where_there_is_none(
    value: float | None, shown: str
):
    assert tables.number(value) == shown


def test_a_star_marks_the_family_wise_test_and_not_the_single_p():
    row = {
        "estimate": -0.3,
        "ci_low": -0.4,
        "ci_high": -0.2,
        "p": 0.001,
        "p_family": 0.2,
        "carried_by": None,
        "caution": None,
    }
    assert tables.interval(row) == "−0.300  [−0.400, −0.200]"
    assert tables.interval(row | {"p_family": 0.01}) == "−0.300* [−0.400, −0.200]"


def test_strict_json_records_turn_nan_and_infinity_into_null():
    found = list(formats.records([summary(estimate=math.nan, ci_low=-math.inf, n=3)]))
    assert json.loads(json.dumps(found, allow_nan=False))[0]["estimate"] is None
    assert found[0]["ci_low"] is None and found[0]["n"] == 3


def test_markdown_cells_cannot_add_columns_links_or_tags():
    lines = markdown.of_summary(summary(dataset="a|b`c`<script>[x](y)\x1b[1m", estimate=0.1)).splitlines()
    assert len(lines) == 3 and "<" not in lines[2] and "\x1b" not in lines[2]
    assert lines[2].replace("\\|", "").count("|") == lines[0].count("|")


def test_markdown_has_readable_digits_with_half_the_interval_after_plus_minus():
    ends = {"ci_low": 0.36812345678, "ci_high": 0.84712345678, "p": 5e-5, "n": 240, "clusters": 60}
    text = markdown.of_summary(summary(estimate=0.60712345678, unit="nats", **ends))
    assert text.splitlines()[2].endswith(
        "| 0.607 | ± | 0.239 | 0.368 | 0.847 | nats | &lt; 1e−4 | 240 | 60 |"
    )


def sites(slope: bool) -> pl.DataFrame:
    """A SUMMARY of 20 heads and one MLP, strongest first, with slope or without."""
    rows = []
    for statistic in ("slope", "mean") if slope else ("mean",):
        for head in range(20):
            rows.append(
                summary(
                    component="z",
                    layer=5,
                    head=head,
                    statistic=statistic,
                    estimate=1 - head / 20,
                    n=9,
                    clusters=9,
                )
            )
        rows.append(summary(component="mlp_out", layer=5, statistic=statistic, estimate=0.1, n=9, clusters=9))
    return pl.concat(rows)


def test_the_table_shows_the_strongest_heads_and_says_how_many_more_the_file_holds():
    table = tables.effects(sites(slope=False), stored.part("d"), "FILE")
    assert [len(section) for section in table.sections] == [15, 1]
    assert table.sections[0][0][0] == "L5H0" and any("5 more heads in FILE" in note for note in table.notes)


def found(rows: tuple[pl.DataFrame, ...] = ()) -> formats.Result:
    """A result of one dataset with a hostile name."""
    counts = {"found": 9, "used": 9, "not_drawn": 0, "dropped": {}, "partly": {}, "groups": 9}
    part = runs.DatasetPart(name=HOSTILE, digest="0", source={}, path=HOSTILE, **counts)
    record = {
        "command": "ablate",
        "model": None,
        "params": {},
        "seed": 0,
        "versions": {},
        "created": "",
        "reproduce": "",
        "timing": {},
    }
    made = runs.RunRecord(**record, peak_rss_bytes=1, warnings=[], datasets=[part])
    return formats.Result(
        made, [sites(slope=True).with_columns(dataset=pl.lit(HOSTILE))], [RELIABILITY.to_frame()], list(rows)
    )


@pytest.mark.parametrize("chosen", list(Format))
def test_no_format_writes_an_escape_even_where_the_data_holds_one(chosen, capsys):
    formats.result(found(), Measure(format=chosen))
    out = capsys.readouterr().out
    assert out.count("\n") > 20 and not set(out) & set("\x1b\r\x9b\u202e\u200b\x07")


def test_without_a_format_a_pipe_gets_json(capsys):
    formats.result(found(), Measure())
    assert list(json.loads(capsys.readouterr().out)) == [
        "schema_version",
        "run",
        "summary",
        "reliability",
        "warnings",
    ]


def test_jsonl_streams_the_summary_or_with_rows_the_per_example_rows(capsys, tmp_path):
    pl.DataFrame({"example_id": ["a"], "value": [math.inf]}).write_parquet(tmp_path / "rows.parquet")
    formats.result(found(), Measure(format=Format.JSONL))
    *rows, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(rows) == done["rows"] == 42 and done["done"]
    formats.result(found([tmp_path / "rows.parquet"]), Measure(format=Format.JSONL, rows=True))
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == {"example_id": "a", "value": None}


def test_shift_stands_beside_slope_only_where_slopes_exist():
    assert "shift" in tables.effects(sites(slope=True), stored.part("d"), "FILE").columns
    assert "shift" not in tables.effects(sites(slope=False), stored.part("d"), "FILE").columns


def test_no_text_of_a_table_calls_the_shift_bias():
    table = tables.effects(sites(slope=True), stored.part("occupations"), "FILE")
    assert not any("bias" in text for text in [table.title, *table.columns, *table.notes])


def test_a_drawn_table_fits_80_columns_and_holds_no_escape(capsys):
    columns.draw(tables.effects(sites(slope=True), stored.part("d"), "FILE"), sys.stdout)
    out = capsys.readouterr().out
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 80


def test_few_groups_are_said_to_allow_no_statement():
    few = summary(component="z", layer=0, head=0, estimate=0.1, n=9, clusters=3)
    assert any(
        "only 3 terms" in note
        for note in tables.effects(few, stored.part("stereoset_religion"), "FILE").notes
    )


@pytest.mark.parametrize(
    ("own", "spin"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_do_not_wait_busily_unless_the_user_says_so(monkeypatch, own, spin):
    monkeypatch.setattr(console.os, "environ", dict(own))
    console.hush_environment()
    assert console.os.environ.get("GOMP_SPINCOUNT") == spin
