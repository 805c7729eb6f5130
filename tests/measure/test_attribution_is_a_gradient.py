"""Attribution equals the gradient of one example at a time, and the exact effect where the model is
linear.
"""

import polars as pl
import pytest

from biasscope.engine.measure import attribution, exact, sources
from biasscope.engine.model import forward, tokens
from biasscope.engine.types import Site
from tests.support import slow

SITES = [
    Site(0, "z", 1),
    Site(1, "attn_out"),
    Site(2, "mlp_out"),
    Site(2, "resid_pre"),
    Site(3, "resid_post"),
    Site(3, "z", 0),
]


@pytest.mark.parametrize("family", ["gpt2", "gpt-neo", "llama", "mpt"])
@pytest.mark.parametrize("name", ["zero", "mean"])
def test_attribution_equals_one_forward_and_backward_per_example(family, name, tiny, examples):
    lm = tiny(family)
    forest = tokens.forest(lm, examples, share="example")
    effects = attribution.estimate(lm, forest, sources.Sweep(SITES, sources.source(name, lm, forest, SITES)))
    for site, new in slow.sources(name, lm, examples, SITES).items():
        rows = effects.filter((pl.col("layer") == site.layer) & (pl.col("component") == site.component))
        found = dict(rows.select("example_id", "effect").rows())
        for e in (examples[0], examples[4], examples[5]):
            by_hand = slow.attribution(lm, e, site, *new)
            assert found[e.id] == pytest.approx(by_hand, abs=2e-4 * max(1, abs(by_hand)))


def test_a_whole_z_is_the_sum_of_its_heads(tiny, examples):
    lm = tiny("llama")
    forest = tokens.forest(lm, examples, share="example")
    sites = [Site(1, "z"), *sources.sites(lm, ["z"], [1])]
    effects = attribution.estimate(lm, forest, sources.Sweep(sites, sources.zero(lm)))
    whole = effects.filter(pl.col("head").is_null()).sort("example_id")["effect"]
    heads = (
        effects.filter(pl.col("head").is_not_null())
        .group_by("example_id")
        .agg(pl.col("effect").sum())
        .sort("example_id")["effect"]
    )
    assert whole.to_list() == pytest.approx(heads.to_list(), abs=1e-9)


def test_a_small_enough_step_is_what_attribution_says(tiny, examples):
    """In the linear limit attribution is exact: moving 1 % of the way to zero has 1 % of the estimated
    effect.
    """
    lm = tiny("gpt2")
    forest = tokens.forest(lm, examples, share="example")
    site, step = Site(2, "mlp_out"), 0.01
    estimated = (
        attribution.estimate(lm, forest, sources.Sweep([site], sources.zero(lm)))
        .sort("example_id")["effect"]
        .to_numpy()
    )
    nearly = sources.Source("nearly", lambda block, s: (1 - step) * forward.capture(lm, block, [s])[0][s])
    measured = (
        exact.sweep(lm, forest, sources.Sweep([site], nearly, metrics=["target"]))
        .sort("example_id")["effect"]
        .to_numpy()
    )
    assert abs(measured / step - estimated).max() < 0.05 * abs(estimated).max()
