"""A race finds the strongest sites of a full scan at a fraction of its work, and its bounds hold while it is
looked at.
"""

import numpy as np
import polars as pl
import pytest

from biasscope.engine.statistics import racing
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.racing import Race
from tests.statistics import calibrate
from tests.support import races

K, X = 60, np.linspace(5, 95, 60)


@pytest.mark.parametrize(("source", "work"), [("zero", 0.27), ("mean", 0.23)])
def test_nine_of_the_ten_strongest_are_found_at_a_quarter_of_the_work(source, work):
    """SmolLM2 on WinoGender, 300 sites; over 200 seeds: docs/method.md."""
    columns = pl.read_parquet(calibrate.HERE / f"winogender_ablate_{source}.parquet").columns[2:-1]
    names = [f"winogender_{how}_{source}" for how in ("ablate", "attribution")]
    (y, _, x), (guess, _, _) = map(calibrate.stored, names)
    exact, estimates = races.effects(y, columns), races.effects(guess, columns)
    top, runs = races.strongest(exact, races.design(x), 10), []
    for seed in range(8):
        runs.append(races.run(exact, estimates, races.design(x, seed), {"k": 10, "miss": 0.02}))
    assert min(len(races.found(race) & top) for race in runs) >= 9
    assert np.mean([race.work for race in runs]) < work


def test_of_mostly_null_sites_an_eighth_of_the_work_is_enough():
    rng, effect = np.random.default_rng(0), np.zeros(720)
    effect[rng.permutation(720)[:24]] = np.linspace(0.2, 1.5, 24)
    z = (X - X.mean()) / X.std()
    y = np.outer(z, effect) + rng.normal(0, 0.15, (K, 720))
    exact, guess = races.effects(y), races.effects(0.8 * y + rng.normal(0, 0.05, y.shape))
    for seed in range(3):
        race = races.run(exact, guess, races.design(X, seed), {"k": 10, "miss": 0.02})
        assert race.work < 0.125
        assert len(races.found(race) & races.strongest(exact, races.design(X), 10)) >= 9


@pytest.mark.parametrize("graded", [True, False], ids=["slope", "mean"])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "skewed"])
def test_a_bound_holds_at_all_looks_together(kind, graded):
    """The share of 300 null sites whose full-scan value was outside at any look; none is given up."""
    rng, outside = np.random.default_rng(1), []
    for seed in range(4):
        size = (K, 300)
        noise = {"normal": rng.normal(size=size), "heavy tails": rng.standard_t(2.5, size),
                 "skewed": rng.lognormal(0, 1, size)}[kind]  # fmt: skip
        exact = races.effects(noise)
        groups = races.design(X if graded else None, seed)
        race = Race.of(races.effects(np.zeros(size)), groups, 10, 0.05)
        whole = Race.of(exact, groups, 10, 0.05)
        whole.look(exact)
        bad = np.zeros(300, bool)
        for seen in race.looks:
            race.look(exact.filter(pl.col("group").is_in(list(race.groups(0, seen)))))
            bad |= np.abs(race.estimate - whole.estimate) > race.half + 1e-9
        outside.append(bad.mean())
    assert np.mean(outside) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1200)


def test_the_interval_of_a_site_that_was_given_up_covers_what_other_groups_have():
    """True slopes 0.5, seen in 12 of 60 groups with estimates of all."""
    rng, z, held = np.random.default_rng(2), (X - X.mean()) / X.std(), []
    for seed in range(8):
        y = 0.5 * z[:, None] + rng.standard_t(4, (K, 200))
        guess = races.effects(0.7 * y + rng.normal(0, 0.5, y.shape))
        race, exact = Race.of(guess, races.design(X, seed), 10, 0.02), races.effects(y)
        race.look(exact.filter(pl.col("group").is_in(list(race.groups(0, 12)))))
        rows = race.table(np.ones(200, bool), {"model": "m", "dataset": "d", "source": "zero"})
        assert (rows["clusters"] == 12).all() and rows["p_family"].is_null().all()
        held.append(((rows["ci_low"] < 0.5) & (rows["ci_high"] > 0.5)).mean())
    assert 0.92 < np.mean(held) < 0.985


def test_a_site_seen_in_all_groups_has_the_number_of_a_full_scan():
    rng = np.random.default_rng(3)
    y, guess = rng.normal(size=(2, K, 5))
    race = Race.of(races.effects(guess), races.design(X), 2, 0.02)
    race.look(races.effects(y))
    d = (X - X.mean()) / X.std()
    assert race.estimate == pytest.approx(d @ y / K) and (race.half == 0).all()
    assert race.work == 1


def test_each_beginning_of_the_order_is_balanced_and_groups_without_a_covariate_come_last():
    x = np.append(X, [np.nan, np.nan])
    orders = [racing.dealt(x, seed) for seed in range(40)]
    assert all(sorted(order) == list(range(62)) and set(order[-2:]) == {60, 61} for order in orders)
    first = np.array([X[order[:6]].mean() for order in orders])
    assert first.std() < X.std() / np.sqrt(6) / 3  # of six drawn at random: X.std() / √6
    assert len({tuple(order) for order in orders}) == 40


def test_sites_of_which_nothing_is_known_make_no_other_surer():
    """Of ten sites six have no finite value; one of the others happens to be the same in all groups seen."""
    values = np.random.default_rng(0).normal(size=(24, 10))
    values[:, 9] = 0.5
    exact = races.effects(values)
    race = Race.of(races.effects(0 * values), races.design(None), 3, 0.05)
    race.look(exact.filter(pl.col("head") >= 6, pl.col("group").is_in(list(race.groups(0, 6)))))
    assert race.half[9] > 0.5 * np.median(race.half[6:9]) > 0.1


def test_few_groups_are_seen_at_once():
    assert racing.looks(60)[0] == racing.FIRST and racing.looks(60)[-1] == 60
    assert racing.looks(2 * racing.FIRST - 1) == [2 * racing.FIRST - 1]


def test_a_star_is_rare_at_the_sites_that_a_race_chose_from_nothing(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 499)
    passed, _ = calibrate.share(calibrate.ALARMS["slope, random signs, --adaptive, WinoGender"], 16)
    assert passed <= 0.125
