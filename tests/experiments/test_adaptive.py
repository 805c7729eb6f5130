"""An adaptive scan finds the same top with less work, says what it left open, and can be stopped and read."""

import json
from collections.abc import Callable

import polars as pl
import pytest

from biasscope import console
from biasscope.engine.errors import DataError
from biasscope.engine.store import cache
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")

PLANTED = ["ablate", "--model", "planted:graded", "--dataset", "occupations", "--limit", 120]
Scan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """`ablate` of the planted model, in folders of its own."""
    folder = tmp_path_factory.mktemp("adaptive")
    return lambda *more, **how: biasscope(
        *PLANTED, *more, "-o", folder / "r", "--cache-dir", folder / "c", **how
    )


def slopes(document: dict, method: str = "exact") -> dict[tuple, float]:
    """Site → slope on target, the strongest first."""
    rows = [r for r in document["summary"] if r["statistic"] == "slope" and r["method"] == method]
    return {(r["component"], r["layer"], r["head"]): r["estimate"] for r in rows}


def test_the_same_top_is_found_with_less_work_and_what_was_given_up_is_said(scan):
    _, out, err = scan("--adaptive", "--top", 3, "--json")
    part, whole = json.loads(out), slopes(json.loads(scan("--json")[1]))
    measured, given_up = slopes(part), slopes(part, "raced")
    assert list(measured)[:3] == list(whole)[:3] and not measured.keys() & given_up.keys()
    assert measured == pytest.approx({site: whole[site] for site in measured}, abs=1e-6)
    said = {r["quantity"]: r["estimate"] for r in part["reliability"] if r["quantity"].startswith("adaptive")}
    assert said["adaptive_measured"] < 0.5 and said["adaptive_whole"] == len(measured) / 20
    assert f"{len(measured)} of 20 sites measured in all groups" in err and "6 of 60 groups" in err
    rows = [r for r in part["summary"] if r["method"] == "raced"]
    assert len(rows) == 20 - len(measured) and {r["p_family"] for r in rows} == {None}
    assert all(6 <= r["clusters"] < 60 and r["ci_low"] <= r["estimate"] <= r["ci_high"] for r in rows)
    folder, site = part["run"]["datasets"][0]["path"], ["layer", "component", "head"]
    effects, partial = (pl.read_parquet(f"{folder}/{name}.parquet") for name in ("effects", "partial"))
    groups = partial.group_by(site).agg(pl.col("group").n_unique())["group"]
    assert sorted(groups) == sorted(r["clusters"] for r in rows)
    assert effects.select(site).n_unique() == len(measured)


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_stopped_race_shows_what_it_has_can_be_read_and_goes_on(scan, monkeypatch, stop, code):
    def impatient(_screen, title, rows):
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(console.Screen, "standings", impatient)
        left, out, err = scan("--adaptive", "--top", 3, "--json", ok=False)
        stopped = json.loads(out)
        assert left == code and ("stopped: Ctrl-C" in err) == (code == 130)
        assert stopped["run"]["complete"] is False
        assert "measured in part" in scan("--adaptive", "--top", 3, "--format", "table", ok=False)[1]
    rows, folder = stopped["summary"], stopped["run"]["datasets"][0]["path"]
    assert len(rows) == 20 and next(iter(slopes(stopped, "raced"))) == ("z", 2, 1)
    assert json.loads(biasscope("runs", "show", folder, "--json")[1])["complete"] is False
    results = folder.split("/planted-graded/")[0]
    assert json.loads(biasscope("runs", "ls", "-o", results, "--json")[1])[0]["how"].endswith("stopped")
    with pytest.raises(DataError, match="the same command goes on: biasscope ablate"):
        cache.whole(results, folder)
    whole = json.loads(scan("--adaptive", "--top", 3, "--json")[1])
    part = whole["run"]["datasets"][0]
    assert "complete" not in whole["run"] and part["path"] == folder and part["reused"] > 0
    assert list(slopes(whole)) and not slopes(whole).keys() & slopes(whole, "raced").keys()


def test_an_adaptive_scan_is_of_one_source_on_the_whole_model(scan):
    code, _, err = scan("--adaptive", "--source", "all", ok=False)
    assert code == 2 and "does not go with" in err
