"""Slopes over groups that share clusters, and in units of another slope: a naive loop, simulation, permutations within sizes."""

import numpy as np
import pytest

from biasscope.engine import resampling, slopes

RNG = np.random.default_rng


def pairs(k: int) -> np.ndarray:
    """2 k groups in k clusters of two."""
    return np.repeat(np.arange(k), 2)


@pytest.mark.parametrize("with_total", [False, True])
@pytest.mark.parametrize("cluster", [np.arange(14), np.array([0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 9])], ids=["single", "pairs"])
def test_the_interval_equals_a_naive_loop_over_whole_clusters(cluster, with_total):
    n, k = len(cluster), cluster.max() + 1
    x, y, per = RNG(0).normal(size=n), RNG(1).normal(3, 2, (n, 2)), RNG(2).normal(size=n)
    per = per + 2 * x if with_total else x

    def slope_and_error(drawn):
        # rows of the drawn clusters, each draw a cluster of its own
        rows = [np.flatnonzero(cluster == c) for c in drawn]
        flat = np.concatenate(rows)
        d = x[flat] - x[flat].mean()
        theta = (d @ y[flat]) / (d @ per[flat])
        error = np.zeros(2)
        residual = y[flat] - np.outer(per[flat], theta)
        residual -= residual.mean(0)
        start = 0
        for some in rows:
            here = slice(start, start + len(some))
            leverage = len(some) / len(flat) + (d[here] ** 2).sum() / (d @ d)
            error += ((d[here] @ residual[here]) / (d @ per[flat]) / (1 - leverage)) ** 2
            start += len(some)
        return theta, np.sqrt(error)

    theta, error = slope_and_error(np.arange(k))
    draws = [slope_and_error(np.repeat(np.arange(k), w.astype(int))) for w in resampling.weights(k, 4)]
    t = np.sort([np.abs(drawn - theta) / drawn_error for drawn, drawn_error in draws], axis=0)[-100]
    line = slopes.line(x, cluster, per)
    np.testing.assert_allclose(line.slope(y), theta)
    np.testing.assert_allclose(line.error(y), error)
    np.testing.assert_allclose(line.interval(y, 4), (theta - error * t, theta + error * t), rtol=1e-6)


def swapped(rng, k: int, sites: int) -> tuple[np.ndarray, np.ndarray]:
    """x and effects of k pairs of occupations on opposite sides that are each other's twin: what one gains the other loses."""
    x = np.stack([rng.uniform(0, 50, k), rng.uniform(50, 100, k)], 1).ravel()
    half = rng.normal(size=(k, sites)) + 0.3 * rng.standard_t(5, (k, sites))
    return (x - x.mean()) / x.std(), np.repeat(half, 2, axis=0) * np.tile([1, -1], k)[:, None]


@pytest.mark.parametrize("k", [30, 18])
def test_the_interval_of_pairs_that_mirror_each_other_covers_the_truth(k):
    rng = RNG(k)
    x, noise = swapped(rng, k, 2000)
    y = 0.5 * x[:, None] + noise + rng.normal(0, 0.3, noise.shape)
    low, high = slopes.line(x, pairs(k)).interval(y, 1)
    assert 100 * ((low <= 0.5) & (high >= 0.5)).mean() == pytest.approx(95, abs=2.5)


@pytest.mark.parametrize(("k", "margin"), [(60, 2), (36, 2), (10, 4)])
@pytest.mark.parametrize("varies", [0.7, 2.0])
def test_the_interval_of_a_recovered_share_covers_the_truth_where_there_is_a_total(k, margin, varies):
    rng = RNG(k)
    total = 1.0 + varies * rng.normal(size=(k, 1500))
    effect = 0.3 + 0.4 * (total - 1) + 0.5 * varies * rng.normal(size=(k, 1500))
    ends = np.multiply(*resampling.mean_interval(total, np.ones_like(total), 1))
    low, high = resampling.mean_interval(effect, total, 1, symmetric=True)
    assert 100 * ((low <= 0.3) & (high >= 0.3))[ends > 0].mean() == pytest.approx(95, abs=margin)


@pytest.mark.parametrize(("k", "margin"), [(60, 2), (36, 2.5), (10, 4)])
def test_the_interval_of_a_recovered_slope_covers_the_truth(k, margin):
    rng, covered = RNG(k), []
    x = rng.uniform(-1.7, 1.7, k)
    for _ in range(500):
        noise = rng.normal(size=(k, 1))
        line = slopes.line(x, per=x + 0.6 * noise[:, 0])
        low, high = line.interval(0.3 * x[:, None] + 0.2 * noise + 0.3 * rng.normal(size=(k, 1)), 1)
        covered.append(low[0] <= 0.3 <= high[0])
    assert 100 * np.mean(covered) == pytest.approx(95, abs=margin + 1.5)


def test_permutations_move_whole_clusters_among_those_of_their_size():
    x, cluster = np.arange(9.0), np.array([0, 1, 1, 2, 3, 3, 4, 5, 5])
    rows = resampling._permuted(x, cluster, 0)
    assert (np.sort(rows, axis=1) == x).all()
    for c in (1, 3, 5):  # a pair's x are those of a pair, in either order
        drawn = {tuple(sorted(pair)) for pair in rows[:, cluster == c].tolist()}
        assert drawn == {(1, 2), (4, 5), (7, 8)}
    assert {tuple(pair) for pair in rows[:, 1:3].tolist()} == {(1, 2), (2, 1), (4, 5), (5, 4), (7, 8), (8, 7)}


def test_pairs_that_mirror_each_other_give_no_false_alarm_and_a_planted_slope_is_found(monkeypatch):
    monkeypatch.setattr(resampling, "FLIPS", 999)
    alarms = found = 0
    for seed in range(300):
        x, y = swapped(RNG(seed), 20, 15)
        alarms += resampling.permute_p(x, y, seed, pairs(20))[1].min() < 0.05
        y[:, 3] += 1.2 * x
        found += resampling.permute_p(x, y, seed, pairs(20))[1][3] < 0.05
    assert alarms / 300 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)
    assert found / 300 > 0.8
