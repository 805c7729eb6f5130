"""An adaptive scan finds the same top with less work, and its bound on what it leaves open holds."""

import json

import numpy as np
import pytest
from scipy.stats import hypergeom

from biasscope.engine.statistics.inference import resampling
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")

RNG = np.random.default_rng


def test_the_bound_is_exact_for_draws_without_replacement():
    for population, drawn, seen in ((50, 20, 0), (280, 110, 0), (280, 60, 2), (30, 30, 1)):
        most = resampling.most_beyond(population, drawn, seen)
        assert hypergeom(population, most, drawn).cdf(seen) > 0.05 or most == seen
        assert most == population - drawn + seen or hypergeom(population, most + 1, drawn).cdf(seen) <= 0.05
    assert resampling.most_beyond(280, 110, 0) < 0.02 * 280 <= resampling.most_beyond(280, 109, 0)
    assert resampling.enough(280, 0.02) == 110
    # the bound of an endless population
    assert resampling.most_beyond(280, 110, 0) < (1 - 0.05 ** (1 / 110)) * 280


def test_the_bound_fails_at_most_five_times_in_a_hundred():
    rng, misses = RNG(0), 0
    for _ in range(2000):
        beyond = int(rng.integers(0, 30))
        seen = int(rng.hypergeometric(beyond, 200 - beyond, 60))
        misses += beyond > resampling.most_beyond(200, 60, seen)
    assert misses / 2000 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 2000)


def test_an_adaptive_scan_finds_the_same_top_with_less_work_and_says_what_it_leaves_open(tmp_path):
    where = (
        "--model",
        "planted:graded",
        "--dataset",
        "occupations",
        "--limit",
        120,
        "-o",
        tmp_path / "r",
        "--cache-dir",
        tmp_path / "c",
    )
    _, out, err = biasscope("ablate", *where, "--adaptive", "--top", 3, "--miss", 0.4, "--json")
    part, whole = json.loads(out), json.loads(biasscope("ablate", *where, "--json")[1])

    def first(document):
        rows = [r for r in document["summary"] if r["statistic"] == "slope"]
        return {(r["component"], r["layer"], r["head"]): r["estimate"] for r in rows[:3]}

    assert first(part) == pytest.approx(first(whole), abs=1e-6)
    said = {r["quantity"]: r["estimate"] for r in part["reliability"] if r["quantity"].startswith("adaptive")}
    assert 9 / 20 <= said["adaptive_measured"] < 1 and said["adaptive_beyond"] < 0.6
    assert "sites measured; at most" in err
    code, _, err = biasscope("ablate", *where, "--adaptive", "--source", "all", ok=False)
    assert code == 2 and "does not go with" in err
