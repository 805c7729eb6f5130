"""What is drawn in the terminal says the sign, the strength and the significance without colour, and no
escape where it is piped.
"""

import io
import json

import numpy as np
import polars as pl
import pytest

from biasscope.engine.statistics.summary import summarise
from biasscope.engine.types import Design
from biasscope.report.drawing import terminal
from tests.support.cli import biasscope
from tests.support.tables import shares, table

pytestmark = pytest.mark.usefixtures("few_draws")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def summary(slopes, components=("z", "mlp_out")) -> pl.DataFrame:
    share = shares(20)
    x = np.array([share[f"g{j:02d}"] for j in range(20)])
    x = (x - x.mean()) / x.std()
    values = np.array(slopes)[:, None] * x + 0.05 * np.random.default_rng(0).normal(size=(len(slopes), 20))
    frames = [table(values, heads=c == "z", component=c) for c in components]
    return summarise(pl.concat(frames), model="m", method="exact", design=Design(share))


def drawn(stream=None, **more) -> str:
    stream = stream or io.StringIO()
    terminal.sites(summary([2.0, -2.0, 0.7, -0.3, 0.0], **more), stream)
    return stream.getvalue()


def test_signs_and_stars_say_what_colour_would():
    text = drawn(components=("z",))
    assert "\x1b" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("    0 ")]
    assert [line[6 + 3 * i : 9 + 3 * i] for i in range(5)] == ["++*", "--*", "+* ", ",* ", "·  "]
    legend = text.splitlines()[0]
    assert (
        legend.startswith("heads: slope, nats/SD; ++ -- from 1.2")
        and "; + from 0.6" in legend
        and "; , from 0.2" in legend
    )
    assert legend.endswith("; · less; * significant") and "'" not in legend


def test_a_legend_explains_the_marks_that_are_drawn_and_a_star_needs_its_interval():
    rows = summary([2.0, -2.0], components=("z",)).with_columns(ci_low=pl.lit(-3.0), ci_high=pl.lit(3.0))
    stream = io.StringIO()
    terminal.sites(rows, stream)
    assert (
        "† passes the test, interval holds 0" in stream.getvalue()
        and "++†--†" in stream.getvalue()
        and "*" not in stream.getvalue()
    )


def test_a_terminal_gets_colour_and_bars_have_the_length_of_their_effect(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in drawn(Terminal())
    bars = [line for line in drawn(components=("mlp_out",)).splitlines() if ".mlp" in line]
    assert all(line[29] == "│" for line in bars)
    sides = [(line[9:29].count("█"), line[30:].count("█")) for line in bars]
    assert sides[:2] == [(0, 20), (20, 0)] and sides[2] == (0, pytest.approx(7, abs=1)) and "█" not in bars[4]


def test_bars_of_mlps_are_on_the_scale_of_the_heads():
    share = shares(20)
    x = np.array([share[f"g{j:02d}"] for j in range(20)])
    x = (x - x.mean()) / x.std()
    noise = 0.05 * np.random.default_rng(0).normal(size=(1, 20))
    frames = [
        table(2.0 * x[None] + noise, heads=True, component="z"),
        table(0.1 * x[None] + noise, heads=False, component="mlp_out"),
    ]
    stream = io.StringIO()
    terminal.sites(summarise(pl.concat(frames), model="m", method="exact", design=Design(share)), stream)
    (bar,) = [line for line in stream.getvalue().splitlines() if ".mlp" in line]
    assert bar.count("█") + bar.count("░") == 1


def test_plot_goes_beside_the_data_and_is_no_part_of_the_record(tiny_gpt2, tmp_path, monkeypatch):
    monkeypatch.setenv("BIASSCOPE_CACHE_DIR", str(tmp_path / "cache"))
    base = (
        "ablate",
        "--model",
        tiny_gpt2,
        "--dataset",
        "occupations",
        "--limit",
        12,
        "--layers",
        "0-1",
        "-o",
        tmp_path,
    )
    _, out, err = biasscope(*base, "--plot", "--json")
    document = json.loads(out)
    assert (
        "layer 0  1  2  3" in err
        and "plot" not in document["run"]["params"]
        and "--plot" not in document["run"]["reproduce"]
    )
    assert "layer 0  1  2  3" in biasscope(*base, "--plot", "--format", "table")[1]
