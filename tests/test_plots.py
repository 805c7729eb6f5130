"""What is drawn in the terminal says the sign, the strength and the significance without colour, and no escape where it is piped."""

import io
import json

import numpy as np
import polars as pl
import pytest
from test_cli import biasscope
from test_stats import shares, table

from biasscope import plots
from biasscope.engine import stats


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
    return stats.summarise(pl.concat(frames), model="m", method="exact", share_of_men=share)


def drawn(stream=None, **more) -> str:
    stream = stream or io.StringIO()
    plots.sites(summary([2.0, -2.0, 0.7, -0.3, 0.0], **more), stream)
    return stream.getvalue()


def test_signs_and_stars_say_what_colour_would():
    text = drawn(components=("z",))
    assert "\x1b" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("    0 ")]
    cells = [line[6 + 3 * i : 8 + 3 * i] for i in range(5)]
    assert cells[:3] == ["+*", "-*", "+*"] and cells[3] in (",*", ", ") and cells[4] == "· "


def test_a_terminal_gets_colour_and_bars_have_the_length_of_their_effect(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in drawn(Terminal())
    bars = [line for line in drawn(components=("mlp_out",)).splitlines() if ".mlp" in line]
    lengths = [line.count("█") + line.count("▒") for line in bars]
    assert lengths[:2] == [40, 40] and lengths[2] == pytest.approx(14, abs=1) and "▒" in bars[1] and "█" in bars[0]


def test_plot_goes_beside_the_data_and_is_no_part_of_the_record(tiny_gpt2, tmp_path, monkeypatch):
    monkeypatch.setenv("BIASSCOPE_CACHE_DIR", str(tmp_path / "cache"))
    base = ("ablate", "--model", tiny_gpt2, "--dataset", "occupations", "--limit", 12, "--layers", "0-1", "-o", tmp_path)
    _, out, err = biasscope(*base, "--plot", "--json")
    document = json.loads(out)
    assert "layer 0  1  2  3" in err and "plot" not in document["run"]["params"] and "--plot" not in document["run"]["reproduce"]
    assert "layer 0  1  2  3" in biasscope(*base, "--plot", "--format", "table")[1]
