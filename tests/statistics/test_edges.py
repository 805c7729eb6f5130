"""Tens of thousands of edges get the numbers that few sites get, from sums over groups."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from biasscope.engine.statistics import edges
from biasscope.engine.statistics.cells import Family, Measured, clusters, covariate
from biasscope.engine.statistics.inference import estimates, resampling
from biasscope.engine.statistics.summary import statistics
from biasscope.engine.types import Design
from tests.support import draws

K, M = 24, 12
GROUPS = [f"g{i:02}" for i in range(K)]


def made(seed: int = 0) -> edges.Sums:
    """Two true effects among noise whose groups have one to four examples."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 5, K).astype(float)
    means = rng.normal(size=(K, M))
    means[:, 0] += 2.0
    means[:, 1] += 1.5 * np.linspace(-1.7, 1.7, K)
    return edges.Sums(GROUPS, n, means * n[:, None])


def design(*, graded: bool) -> Design:
    return Design({g: float(i) for i, g in enumerate(GROUPS)} if graded else None, seed=3)


@pytest.mark.parametrize("graded", [True, False])
def test_the_columns_are_those_of_few_sites(graded):
    sums, everything = made(), np.ones(M, bool)
    family = [Family(everything, everything)]
    cells, x = sums.cells(), np.arange(K, dtype=float)
    with draws.few():
        statistic, found, _ = edges.judged(sums, design(graded=graded), M)
        wanted = (
            estimates.slope(cells, x, np.arange(K), 3, family) if graded else estimates.mean(cells, 3, family)
        )
    assert statistic == ("slope" if graded else "mean")
    for name in ("n", "clusters", "estimate", "ci_low", "ci_high", "carried_by"):
        assert found[name] == pytest.approx(wanted[name], nan_ok=True, rel=1e-5), name
    for name in ("p", "p_family", "q"):
        assert found[name] == pytest.approx(wanted[name], abs=0.01), name
    assert found["p_family"][1 if graded else 0] < 0.05


@pytest.mark.parametrize("graded", [True, False])
def test_who_carries_a_finding_is_the_group_that_carries_it_among_few_sites(graded):
    """The first groups have no covariate; without one, two groups are a cluster."""
    rng, x = np.random.default_rng(2), np.arange(K, dtype=float)
    x[:5] = np.nan
    effect = 1.1 * np.nan_to_num(x - 14) / 5 if graded else np.full(K, 1.1)
    values = rng.normal(size=(K, 40)) + effect[:, None]
    design = Design({g: v for g, v in zip(GROUPS, x, strict=True) if v >= 0} if graded else None, seed=3)
    pairs = {} if graded else {g: GROUPS[i ^ 1] for i, g in enumerate(GROUPS)}
    sums, own = edges.Sums(GROUPS, np.ones(K), values), replace(design, partners=pairs)
    every = np.ones(40, bool)
    few = Measured(pl.DataFrame({"head": range(40)}), GROUPS, sums.cells(), [Family(every, every)],
                   covariate(GROUPS, own), clusters(GROUPS, pairs))  # fmt: skip
    with draws.few():
        _, found, _ = edges.judged(sums, own, 40)
        _, wanted = next(statistics("target", few, 3))
    known = np.isfinite(wanted["carried_by"]) & np.isfinite(found["carried_by"])
    assert known.sum() > 2 and (found["carried_by"][known] == wanted["carried_by"][known]).all()


def test_only_the_strongest_and_what_passes_have_an_interval():
    with draws.few():
        _, found, _ = edges.judged(made(), design(graded=False), 3)
    strongest = set(np.argsort(-abs(found["estimate"]))[:3])
    assert set(np.flatnonzero(np.isfinite(found["ci_low"]))) == strongest | set(
        np.flatnonzero(found["p_family"] < 0.05)
    )


def test_what_is_rounding_beside_the_largest_is_not_tested():
    """A thousand-millionth of the largest effect, though it grows with the covariate without exception."""
    sums = made()
    sums.total[:, 5] = 1e-9 * np.arange(K) * sums.n
    with draws.few():
        for graded in (True, False):
            _, found, _ = edges.judged(sums, design(graded=graded), M)
            assert np.isnan(found["p_family"][5]) and np.isnan(found["p"][5])
            assert np.isfinite(found["p_family"][4])


def test_sums_of_blocks_add_up_over_groups():
    rows = [("b", "zero", "all", 2, 0, [1.0, 2.0]), ("a", "zero", "all", 1, 0, [5.0, 0.0])]
    more = [("b", "zero", "all", 1, 0, [2.0, 2.0]), ("b", "zero", "term", 1, 0, [9.0, 9.0])]
    from biasscope.engine.schemas import GROUPS as SCHEMA

    tables = [pl.DataFrame(part, schema=SCHEMA, orient="row") for part in (rows, more)]
    sums = edges.Sums.of(tables, "all")
    assert (sums.groups, sums.n.tolist(), sums.total.tolist()) == (["a", "b"], [1, 3], [[5, 0], [3, 4]])
    assert sums.means.tolist() == [[5, 0], [1, 4 / 3]]


def again(values: np.ndarray, *, graded: bool) -> tuple[float, float, float]:
    sums, how = edges.Sums(GROUPS, np.ones(K), values), design(graded=graded)
    with draws.few():
        _, found, critical = edges.judged(sums, how, M)
        assert (found["p_family"] < 0.05).any()
        return edges.again(sums, how, found, critical)


@pytest.mark.parametrize("graded", [True, False])
def test_a_sure_star_is_the_same_when_groups_are_drawn_again_and_one_at_the_edge_is_not(graded):
    """Sure: beyond the critical value in every draw, though half of them give less than this run."""
    rng = np.random.default_rng(0)
    sure, edge = rng.normal(size=(K, M)), rng.normal(size=(K, M))
    signal = 20 * np.linspace(-1.7, 1.7, K) if graded else 20
    sure[:, 0] += signal
    sure[:, 1] += signal
    edge[:, :8] += 0.9 * np.linspace(-1.7, 1.7, K)[:, None] if graded else 0.95
    low, middle, _ = again(sure, graded=graded)
    assert low > 0.3 and middle > 0.6
    assert again(edge, graded=graded)[1] <= 0.9


@pytest.mark.parametrize("graded", [True, False])
def test_what_is_rounding_never_counts_when_groups_are_drawn_again(graded):
    values = np.random.default_rng(0).normal(size=(K, M))
    values[:, 0] += 20 * np.linspace(-1.7, 1.7, K) if graded else 20
    alone = again(values, graded=graded)
    tiny = 1e-9 * values[:, :1].repeat(40, 1)
    assert again(np.hstack([values, tiny]), graded=graded) == alone


def test_below_six_clusters_there_is_no_interval_and_no_p():
    few = made().rows(np.arange(K) < 5)
    _, found, _ = edges.judged(few, design(graded=False), M)
    assert np.isnan(found["p_family"]).all() and np.isnan(found["ci_low"]).all()
    assert np.isfinite(found["estimate"]).all()


def test_nulls_rarely_have_a_star_however_many_they_are():
    """700 nulls that share factors: a level of 5 % over the family."""
    rng = np.random.default_rng(1)
    alarms = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "DRAWS", 999)
        for _ in range(20):
            values = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 700)) + rng.normal(size=(60, 700))
            sums = edges.Sums([f"g{i:02}" for i in range(60)], np.ones(60), values)
            x = {f"g{i:02}": float(v) for i, v in enumerate(rng.normal(size=60))}
            _, found, _ = edges.judged(sums, Design(x, seed=0), 5)
            alarms += bool((found["p_family"] < 0.05).any())
    assert alarms <= 4
