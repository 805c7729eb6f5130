"""Patching with counterfactual twins, exact: node i of the twin's forest is node i of the clean one."""

import polars as pl
import pytest
import slow
import torch

from biasscope.engine import interventions as iv
from biasscope.engine import tokens
from biasscope.engine.types import Example, Site

PAIRS = {
    "a": ("The nurse said that", "The plumber said that"),
    "b": ("The nurse said", "The plumber said"),
    "c": ("The nurse told my father that", "The teacher told my father that"),
    "d": ("My father said that", "My mother said that"),
}
FAMILIES = ["gpt2", "gpt-neo", "llama", "mpt"]


def paired(lm, share: str = "example", names: str = "abcd"):
    """The pairs that have as many tokens with this tokenizer, as a forest with twins and one without."""
    every = [Example(i, "t", "gender", f"g{i}", PAIRS[i][0], " he", " she") for i in names]
    fits = [e for e in every if len(lm.tokenizer(e.prompt).input_ids) == len(lm.tokenizer(PAIRS[e.id][1]).input_ids)]
    assert len(fits) >= 2
    return fits, tokens.forest(lm, fits, share=share, twins={e.id: PAIRS[e.id][1] for e in fits})


def value(frame: pl.DataFrame, example: str, site: Site) -> dict[str, float]:
    """Baseline and value of target at one example and site."""
    found = frame.filter(pl.col("metric") == "target", pl.col("example_id") == example, component=site.component, layer=site.layer)
    return found.filter(pl.col("head").eq_missing(site.head)).row(0, named=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", ["all", "example"])
def test_the_swapped_block_is_the_twin_s_own_forest_node_for_node(tiny, family, share):
    lm = tiny(family)
    fits, forest = paired(lm, share)
    for block in forest.blocks:
        scored = iv.forward.clean(lm, block.swapped()).readouts.logp[0]
        for local, same in enumerate(block.examples):
            twin = fits[same[0]]
            by_hand = slow.scores(lm, Example("x", "t", "gender", "g", PAIRS[twin.id][1], " he", " she"))["target"]
            assert float(scored[local, 0] - scored[local, 1]) == pytest.approx(by_hand, abs=2e-5)
        assert block.twin is not None and block.swapped().swapped().ids.equal(block.ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_the_first_residual_gives_the_twin_s_value_and_back(tiny, family):
    lm = tiny(family)
    fits, forest = paired(lm)
    first = Site(0, "resid_pre")
    noised = iv.sweep(lm, forest, [first], iv.corrupt(lm, [first]), metrics=("target",))
    for e in fits:
        by_hand = slow.scores(lm, Example("x", "t", "gender", "g", PAIRS[e.id][1], " he", " she"))["target"]
        assert value(noised, e.id, first)["value"] == pytest.approx(by_hand, abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", [Site(1, "z", 2), Site(2, "mlp_out"), Site(1, "attn_out"), Site(2, "resid_post")], ids=str)
def test_patching_a_site_equals_putting_the_twin_s_activation_there_by_hand(tiny, family, site):
    lm = tiny(family)
    fits, forest = paired(lm)
    found = iv.sweep(lm, forest, [site], iv.corrupt(lm, [site]), metrics=("target",))
    for e in fits:
        by_hand = []
        for filler in (e.stereo, e.anti):
            ids, first = slow.span(lm, e.prompt, filler)
            other, _ = slow.span(lm, PAIRS[e.id][1], filler)
            with torch.no_grad():
                cache = lm.bridge.run_with_cache(torch.tensor([other]), names_filter=[site.hook])[1][site.hook]

                def put(act, hook, cache=cache):
                    act = act.clone()
                    part = act if site.head is None else act[:, :, site.head]
                    part[:] = cache if site.head is None else cache[:, :, site.head]
                    return act

                by_hand.append(float(slow.logp(lm, ids, first, [(site.hook, put)])))
        assert value(found, e.id, site)["value"] == pytest.approx(by_hand[0] - by_hand[1], abs=2e-5)


def test_a_run_patched_with_itself_does_not_change(tiny):
    lm = tiny("gpt2")
    examples = [Example("a", "t", "gender", "g", PAIRS["a"][0], " he", " she")]
    forest = tokens.forest(lm, examples, twins={"a": PAIRS["a"][0]})
    sites = iv.sites(lm, ("z", "attn_out", "mlp_out", "resid_pre", "resid_post"))
    found = iv.sweep(lm, forest, sites, iv.corrupt(lm, sites), metrics=("target",))
    assert float(found["effect"].abs().max()) < 1e-6


def test_a_twin_of_another_length_is_refused_and_never_padded(tiny):
    lm = tiny("gpt2")
    examples = [Example("a", "t", "gender", "g", "The nurse said that", " he", " she")]
    with pytest.raises(ValueError, match="other tokens"):
        tokens.forest(lm, examples, twins={"a": "The strange old nurse of the chess player said that"})
