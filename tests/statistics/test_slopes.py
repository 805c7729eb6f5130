"""Slopes over groups that share clusters, and in units of another slope: a naive loop, simulation,
permutations within sizes.
"""

import numpy as np
import pytest

from biasscope.engine.statistics.inference import resampling, slopes

RNG = np.random.default_rng


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 2000)


def pairs(k: int) -> np.ndarray:
    """2 k groups in k clusters of two."""
    return np.repeat(np.arange(k), 2)


@pytest.mark.parametrize("with_total", [False, True])
@pytest.mark.parametrize(
    "cluster", [np.arange(14), np.array([0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 9])], ids=["single", "pairs"]
)
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
    """x and effects of k pairs of occupations on opposite sides that are each other's twin: what one gains
    the other loses.
    """
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
    rows = slopes.orders(x, cluster, 0)
    assert (np.sort(rows, axis=1) == x).all()
    for c in (1, 3, 5):  # a pair's x are those of a pair, in either order
        drawn = {tuple(sorted(pair)) for pair in rows[:, cluster == c].tolist()}
        assert drawn == {(1, 2), (4, 5), (7, 8)}
    assert {tuple(pair) for pair in rows[:, 1:3].tolist()} == {(1, 2), (2, 1), (4, 5), (5, 4), (7, 8), (8, 7)}


@pytest.mark.parametrize(
    "cluster", [np.arange(14), np.array([0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 9])], ids=["single", "pairs"]
)
def test_the_permutation_p_equals_a_naive_loop_of_slopes_over_their_hc3_errors(cluster, monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 200)
    x, y = RNG(0).normal(size=14), RNG(1).normal(3, 2, (14, 4))
    x = (x - x.mean()) / x.std()
    y[:, 2] += x
    every = slopes.orders(x, cluster, 5)
    drawn = np.array(
        [
            np.abs(slopes.line(order, cluster).slope(y) / slopes.line(order, cluster).error(y))
            for order in every
        ]
    )
    line = slopes.line(x, cluster)
    observed = np.abs(line.slope(y) / line.error(y))
    found = resampling.judged([slopes.null(x, y, cluster, (every, np.ones(14, bool)))])
    np.testing.assert_allclose(found.p, (1 + (drawn >= observed * (1 - 1e-9)).sum(0)) / 201)
    np.testing.assert_allclose(
        found.p_family, (1 + (drawn.max(1)[:, None] >= observed * (1 - 1e-9)).sum(0)) / 201
    )


def test_leaving_one_cluster_out_equals_the_line_through_the_others():
    cluster = np.array([0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 9])
    x, y = RNG(0).normal(size=14), RNG(1).normal(3, 2, (14, 2))
    rest = cluster != 2
    other = slopes.line(x[rest], np.unique(cluster[rest], return_inverse=True)[1])
    np.testing.assert_allclose(
        slopes.line(x, cluster).without(y)[2], other.slope(y[rest]) / other.error(y[rest]), rtol=1e-6
    )


def test_spread_that_depends_on_x_is_hardly_taken_for_a_slope(monkeypatch):
    # a permutation of r tests independence, and finds a slope where there is only spread
    monkeypatch.setattr(resampling, "DRAWS", 499)
    alarms, by_r = 0, 0
    for seed in range(200):
        rng = RNG(seed)
        x = rng.normal(size=60)
        x = (x - x.mean()) / x.std()
        y = rng.normal(size=(60, 40)) * np.sqrt(1 + x**2)[:, None]
        every = slopes.orders(x, np.arange(60), seed)
        alarms += (
            resampling.judged([slopes.null(x, y, np.arange(60), (every, np.ones(60, bool)))]).p_family.min()
            < 0.05
        )
        r = np.abs(every @ ((y - y.mean(0)) / y.std(0)))
        by_r += (1 + (r.max(1) >= np.abs(x @ ((y - y.mean(0)) / y.std(0))).max()).sum()) / 500 < 0.05
    assert alarms / 200 <= 0.14
    assert by_r > 2 * alarms


def test_pairs_that_mirror_each_other_give_no_false_alarm_and_a_planted_slope_is_found(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 999)

    def p_family(x, y, seed):
        every = slopes.orders(x, pairs(20), seed), np.ones(40, bool)
        return resampling.judged([slopes.null(x, y, pairs(20), every)]).p_family

    alarms = found = 0
    for seed in range(300):
        x, y = swapped(RNG(seed), 20, 15)
        alarms += p_family(x, y, seed).min() < 0.05
        y[:, 3] += 1.2 * x
        found += p_family(x, y, seed)[3] < 0.05
    assert alarms / 300 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)
    assert found / 300 > 0.8
