"""Stars of sites when groups are drawn again, and when one of the templates that groups share is left out."""

import numpy as np
import polars as pl
import pytest

from biasscope.engine import schemas
from biasscope.engine.statistics import cells, reliability, stability
from biasscope.engine.statistics.summary import ranking, summarise
from biasscope.engine.types import Design
from biasscope.report.reliability import stable
from tests.support import draws
from tests.support.tables import shares, table

K, FRAMES = 24, ("t0", "t1", "t2")
X = np.array([shares(K)[f"g{j:02d}"] for j in range(K)])
LINE = (X - X.mean()) / X.std()
TEMPLATES = {f"e{j:04d}": FRAMES[j % 3] for j in range(3 * K)}


def effects(graded: bool) -> pl.DataFrame:
    """20 sites, 24 groups of one prompt a template: site 0 acts in all of them, site 1 in t2 alone."""
    values = np.random.default_rng(1).normal(size=(20, 3 * K))
    signal = np.repeat(LINE if graded else np.ones(K), 3)
    values[0] += 3 * signal
    values[1] += np.where(np.arange(3 * K) % 3 == 2, 12 * signal, 0)
    return table(values, groups=[f"g{j // 3:02d}" for j in range(3 * K)])


def design(graded: bool, templates=TEMPLATES) -> Design:
    return Design(shares(K) if graded else None, templates=templates)


@pytest.mark.parametrize("graded", [True, False])
def test_as_the_groups_are_what_reaches_the_critical_value_is_what_passes_the_test(graded):
    whole = effects(graded)
    with draws.few():
        summary = summarise(whole, model="m", method="exact", design=design(graded))
        here = cells.measured(whole.lazy(), "target", design(graded))
        passed = ranking(summary).sort("head")["p_family"].to_numpy() < schemas.LEVEL
        ((family, stars),) = stability.of_sites(here, passed, 0)
    t = stability.drawn(*here.over(here.statistic), np.ones((1, K)))
    assert family == "single" and 2 <= passed.sum() < 20
    assert stars.shared(t).tolist() == [1] and not stars.lost(t[0]).any()


@pytest.mark.parametrize("graded", [True, False])
def test_a_star_that_hangs_on_one_template_is_named_with_it(graded):
    whole = effects(graded)
    with draws.few():
        summary = summarise(whole, model="m", method="exact", design=design(graded))
        trusted = reliability.assess(whole, summary, design=design(graded))
    assert set(ranking(summary).filter(schemas.starred())["head"]) == {0, 1}
    (lost,) = trusted.filter(quantity="template_lost").to_dicts()
    assert (lost["component"], lost["against"]) == ("L0H1", "t2") and lost["estimate"] < lost["high"]
    (shared,) = trusted.filter(quantity="template_jaccard").to_dicts()
    assert (shared["n"], shared["low"], shared["high"]) == (3, 0.5, 1) and shared["estimate"] > 0.6
    assert stable(trusted)[1] == "no star without one of the 3 templates: L0H1 without t2"
    (again,) = trusted.filter(quantity="bootstrap_jaccard").to_dicts()
    assert again["estimate"] > 0.6 and again["high"] == 1


def test_without_stars_or_shared_templates_nothing_is_said_of_them():
    noise = table(
        np.random.default_rng(0).normal(size=(20, 3 * K)), groups=[f"g{j // 3:02d}" for j in range(3 * K)]
    )
    nested = {id_: f"g{j // 3}" for j, id_ in enumerate(TEMPLATES)}
    for whole, templates in ((noise, TEMPLATES), (effects(True), nested)):
        with draws.few():
            summary = summarise(whole, model="m", method="exact", design=design(True))
            trusted = reliability.assess(whole, summary, design=design(True, templates))
        assert not trusted["quantity"].str.starts_with("template").any()
    with draws.few():
        summary = summarise(noise, model="m", method="exact", design=design(True))
        assert stable(reliability.assess(noise, summary, design=design(True))) == []


def test_more_sites_than_fit_a_sentence_are_counted():
    columns = {"quantity": "template_lost", "component": "L0H0", "against": [f"t{i}" for i in range(6)]}
    lost = pl.DataFrame(columns | {"estimate": 1.0})
    others = [lost.head(1).with_columns(component=pl.lit(f"L0H{i}")) for i in range(1, 6)]
    row = pl.DataFrame({"quantity": ["template_jaccard"], "estimate": [0.5], "n": [7]})
    (line,) = stable(pl.concat([lost, *others, row], how="diagonal"))
    assert line == (
        "no star without one of the 7 templates: L0H0 without t0 or t1 or t2 or t3 or 2 more; "
        "L0H1 without t0; L0H2 without t0; L0H3 without t0; 2 more"
    )
