"""Intervals and p values against naive loops, brute force and simulation."""

import itertools

import numpy as np
import pytest

from biasscope.engine.statistics.inference import resampling, slopes

RNG = np.random.default_rng


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 2000)


def test_mean_interval_equals_a_naive_loop_over_draws():
    total, n = RNG(0).normal(5, 2, (9, 3)), RNG(1).integers(3, 9, (9, 3)).astype(float)

    def theta_and_error(rows):
        t, m = total[rows], n[rows]
        theta = t.sum(0) / m.sum(0)
        return theta, np.sqrt(9 / 8 * ((t - theta * m) ** 2).sum(0)) / m.sum(0)

    theta, error = theta_and_error(np.arange(9))
    draws = [theta_and_error(np.repeat(np.arange(9), w.astype(int))) for w in resampling.weights(9, 4)]
    t = np.sort([(drawn - theta) / drawn_error for drawn, drawn_error in draws], axis=0)
    np.testing.assert_allclose(
        resampling.mean_interval(total, n, 4), (theta - error * t[-50], theta - error * t[49]), rtol=1e-9
    )


def test_slope_interval_equals_a_naive_loop_with_hc3_errors():
    x, y = RNG(0).normal(size=12), RNG(1).normal(100, 2, (12, 2))

    def slope_and_error(rows):
        design = np.column_stack([np.ones(12), x[rows]])
        inverse = np.linalg.inv(design.T @ design)
        beta = inverse @ design.T @ y[rows]
        residual = (y[rows] - design @ beta) / (1 - np.einsum("ij,jk,ik->i", design, inverse, design))[
            :, None
        ]
        return beta[1], np.sqrt(((inverse @ design.T)[1][:, None] ** 2 * residual**2).sum(0))

    slope, error = slope_and_error(np.arange(12))
    draws = [slope_and_error(np.repeat(np.arange(12), w.astype(int))) for w in resampling.weights(12, 4)]
    t = np.sort([np.abs(drawn - slope) / drawn_error for drawn, drawn_error in draws], axis=0)[-100]
    np.testing.assert_allclose(
        slopes.line(x).interval(y, 4), (slope - error * t, slope + error * t), rtol=1e-6
    )


def test_up_to_14_clusters_sign_flip_p_is_the_share_of_all_patterns():
    total = RNG(2).normal(1, 1, (8, 4))
    unit = total / np.sqrt((total**2).sum(0))
    patterns = np.abs(np.array(list(itertools.product([1, -1], repeat=8))) @ unit)
    found = resampling.judged([resampling.flip_null(total, 0)])
    p, p_family = found.p, found.p_family
    observed = np.abs(unit.sum(0)) - 1e-12
    np.testing.assert_allclose(p, (patterns >= observed).mean(0))
    np.testing.assert_allclose(p_family, (patterns.max(1)[:, None] >= observed).mean(0))


def test_above_14_clusters_p_is_never_zero_and_counts_the_observed_signs():
    found = resampling.judged([resampling.flip_null(np.ones((40, 2)), 0)])
    assert found.p.tolist() == found.p_family.tolist() == [1 / 2_001] * 2


def test_the_mean_s_p_equals_a_naive_loop_over_the_draws_of_its_interval(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 300)
    total, n = RNG(0).normal(1, 2, (9, 4)), RNG(1).integers(3, 9, (9, 4)).astype(float)
    theta = total.sum(0) / n.sum(0)

    def t(rows):
        one = total[rows].sum(0) / n[rows].sum(0)
        return (one - theta) / (np.sqrt(9 / 8 * ((total[rows] - one * n[rows]) ** 2).sum(0)) / n[rows].sum(0))

    drawn = np.abs([t(np.repeat(np.arange(9), w.astype(int))) for w in resampling.weights(9, 7)])
    observed = np.abs(theta) / resampling.mean_error(total, n)
    found = resampling.judged([resampling.Means(total, n).null(7)])
    np.testing.assert_allclose(found.p, (1 + (drawn >= observed).sum(0)) / 301)
    np.testing.assert_allclose(found.p_family, (1 + (drawn.max(1)[:, None] >= observed).sum(0)) / 301)


def test_the_critical_value_is_where_p_family_crosses_the_level_and_members_beside_raise_it():
    total = RNG(3).normal(size=(30, 5))
    null = resampling.Means(total, np.ones_like(total)).null(0)
    alone = resampling.judged([null.sites(np.arange(5) < 2)])
    beside = resampling.judged([null.sites(np.arange(5) < 2)], [null.sites(np.arange(5) >= 2)])
    assert beside.critical > alone.critical
    drawn = null.sites(np.arange(5) < 2).drawn
    below, above = alone.critical * 0.999, alone.critical
    p_family = resampling.judged([resampling.Null(np.array([below, above]), drawn, null.draws)]).p_family
    assert p_family[1] < 0.05 < p_family[0] + 0.001
    together = resampling.judged([null])
    np.testing.assert_allclose(together.p_family[:2], beside.p_family)


def test_leaving_one_cluster_out_equals_the_t_of_the_others():
    total, n = RNG(0).normal(2, 1, (9, 3)), RNG(1).integers(3, 9, (9, 3)).astype(float)
    others = np.arange(9) != 4
    expected = (total[others].sum(0) / n[others].sum(0)) / resampling.mean_error(total[others], n[others])
    np.testing.assert_allclose(resampling.Means(total, n).without(np.ones(3, bool))[4], expected)


# Skewed noise may cost (or, for the slope, win) one point more.
NOISE = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
}


@pytest.mark.parametrize(("k", "margin"), [(60, 2), (36, 2), (10, 4)])
@pytest.mark.parametrize("noise", NOISE)
def test_mean_interval_covers_the_true_mean_of_clusters_of_unequal_size(k, margin, noise):
    rng = RNG(k)
    n = np.tile(rng.integers(21, 33, (k, 1)), (1, 2000)).astype(float)
    total = n * (0.3 + NOISE[noise](rng, (k, 2000))) + np.sqrt(n) * rng.normal(0, 2, (k, 2000))
    low, high = resampling.mean_interval(total, n, 1)
    assert 100 * ((low <= 0.3) & (high >= 0.3)).mean() == pytest.approx(95, abs=margin + (noise == "skewed"))


@pytest.mark.parametrize(("k", "margin"), [(60, 2), (36, 2), (10, 4)])
@pytest.mark.parametrize("growing", [0.0, 0.6])
@pytest.mark.parametrize("noise", NOISE)
def test_slope_interval_covers_the_true_slope_whether_or_not_noise_grows_with_x(k, margin, growing, noise):
    rng = RNG(k)
    x = rng.uniform(0, 100, k)
    x = (x - x.mean()) / x.std()
    y = 0.5 * x[:, None] + NOISE[noise](rng, (k, 2000)) * (1 + growing * np.abs(x[:, None]))
    low, high = slopes.line(x).interval(y, 1)
    assert 100 * ((low <= 0.5) & (high >= 0.5)).mean() == pytest.approx(95, abs=margin + (noise == "skewed"))


def slope_null(y, seed, x=None, cluster=None):
    x = RNG(seed).uniform(-1, 1, len(y)) if x is None else x
    x, cluster = (x - x.mean()) / x.std(), np.arange(len(y)) if cluster is None else cluster
    return slopes.null(x, y, cluster, (slopes.orders(x, cluster, seed), np.ones(len(x), bool)))


TESTS = {
    "mean": lambda y, seed: resampling.Means(y, np.ones_like(y)).null(seed),
    "slope": slope_null,
    "signs": resampling.flip_null,
}


@pytest.mark.parametrize("k", [10, 36])
@pytest.mark.parametrize("test", TESTS)
def test_family_wise_false_alarms_stay_at_five_per_cent_and_a_planted_site_is_found(test, k, monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 999)
    alarms, found = 0, 0
    for seed in range(300):
        rng = RNG(seed)
        # One shared shock makes sites correlate; scales differ, as those of real sites do.
        y = (rng.standard_t(4, (k, 40)) + rng.normal(size=(k, 1))) * np.exp(rng.normal(size=40))
        alarms += resampling.judged([TESTS[test](y, seed)]).p_family.min() < 0.05
        y[:, 7] += 5 * y[:, 7].std() * (RNG(seed).uniform(-1, 1, k) if test == "slope" else 1)
        found += resampling.judged([TESTS[test](y, seed)]).p_family[7] < 0.05
    assert alarms / 300 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)
    assert found / 300 > (0.5 if k == 10 else 0.8)


@pytest.mark.parametrize("test", TESTS)
def test_p_is_uniform_where_there_is_nothing(test):
    p = resampling.judged([TESTS[test](RNG(4).normal(size=(30, 3000)), 3)]).p
    np.testing.assert_allclose(
        np.quantile(p, [0.05, 0.25, 0.5, 0.75, 0.95]), [0.05, 0.25, 0.5, 0.75, 0.95], atol=0.035
    )


def test_benjamini_hochberg_by_hand_leaves_missing_p_out():
    # p sorted .01 .02 .04 of m = 3: 3/1·.01 = .03, 3/2·.02 = .03, 3/3·.04 = .04
    np.testing.assert_allclose(
        resampling.screened(np.array([0.02, np.nan, 0.04, 0.01])), [0.03, np.nan, 0.04, 0.03]
    )


def test_few_clusters_with_an_effect_give_an_infinite_draw_and_so_no_interval():
    total = np.zeros((20, 1))
    total[0] = 1.0
    assert np.isnan(resampling.mean_interval(total, np.ones((20, 1)), 0)).all()


def test_the_same_seed_gives_the_same_draws_and_another_gives_others():
    assert (resampling.weights(9, 1) == resampling.weights(9, 1)).all()
    assert (resampling.weights(9, 1) != resampling.weights(9, 2)).any()
    assert (resampling.weights(9, 1).sum(1) == 9).all()
