"""Patching with counterfactual twins: node i of the twin's forest is node i of the clean one; TransformerLens
as oracle.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from transformer_lens import patching
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

from biasscope.engine.measure import attribution, sources
from biasscope.engine.measure import exact as exact_sweep
from biasscope.engine.model import forward, tokens
from biasscope.engine.model.packing import Scored, pack
from biasscope.engine.schemas import TOTAL
from biasscope.engine.statistics.summary import summarise
from biasscope.engine.types import Design, Example, Site
from tests.support import slow
from tests.support.examples import PAIRS, paired

FAMILIES = ["gpt2", "gpt-neo", "llama", "mpt"]


def value(frame: pl.DataFrame, example: str, site: Site) -> dict[str, float]:
    """Baseline and value of target at one example and site."""
    found = frame.filter(
        pl.col("metric") == "target",
        pl.col("example_id") == example,
        component=site.component,
        layer=site.layer,
    )
    return found.filter(pl.col("head").eq_missing(site.head)).row(0, named=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", ["all", "example"])
def test_the_swapped_block_is_the_twin_s_own_forest_node_for_node(tiny, family, share):
    lm = tiny(family)
    fits, forest = paired(lm, share)
    for block in forest.blocks:
        scored = sources.forward.clean(lm, block.swapped()).readouts.logp[0]
        for local, same in enumerate(block.examples):
            twin = fits[same[0]]
            by_hand = slow.scores(lm, Example("x", "t", "gender", "g", PAIRS[twin.id][1], " he", " she"))[
                "target"
            ]
            assert float(scored[local, 0] - scored[local, 1]) == pytest.approx(by_hand, abs=2e-5)
        assert block.twin is not None and block.swapped().swapped().ids.equal(block.ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_the_first_residual_gives_the_twin_s_value_and_back(tiny, family):
    lm = tiny(family)
    fits, forest = paired(lm)
    first = Site(0, "resid_pre")
    noised = exact_sweep.sweep(
        lm, forest, sources.Sweep([first], sources.corrupt(lm, [first]), metrics=("target",))
    )
    for e in fits:
        by_hand = slow.scores(lm, Example("x", "t", "gender", "g", PAIRS[e.id][1], " he", " she"))["target"]
        assert value(noised, e.id, first)["value"] == pytest.approx(by_hand, abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "site", [Site(1, "z", 2), Site(2, "mlp_out"), Site(1, "attn_out"), Site(2, "resid_post")], ids=str
)
def test_patching_a_site_equals_putting_the_twin_s_activation_there_by_hand(tiny, family, site):
    lm = tiny(family)
    fits, forest = paired(lm)
    found = exact_sweep.sweep(
        lm, forest, sources.Sweep([site], sources.corrupt(lm, [site]), metrics=("target",))
    )
    for e in fits:
        by_hand = []
        for filler in (e.stereo, e.anti):
            ids, first = slow.span(lm, e.prompt, filler)
            other, _ = slow.span(lm, PAIRS[e.id][1], filler)
            with torch.no_grad():
                cache = lm.bridge.run_with_cache(torch.tensor([other]), names_filter=[site.hook])[1][
                    site.hook
                ]

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
    sites = sources.sites(lm, ("z", "attn_out", "mlp_out", "resid_pre", "resid_post"))
    found = exact_sweep.sweep(
        lm, forest, sources.Sweep(sites, sources.corrupt(lm, sites), metrics=("target",))
    )
    assert float(found["effect"].abs().max()) < 1e-6


def test_a_twin_of_another_length_is_refused_and_never_padded(tiny):
    lm = tiny("gpt2")
    examples = [Example("a", "t", "gender", "g", "The nurse said that", " he", " she")]
    with pytest.raises(ValueError, match="other tokens"):
        tokens.forest(lm, examples, twins={"a": "The strange old nurse of the chess player said that"})


def ids_of(lm, example: Example) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """Tokens of the prompt and of its twin, and the ids of he and she."""
    clean, twin = (lm.tokenizer(p, return_tensors="pt").input_ids for p in PAIRS[example.id])
    he, she = (
        lm.tokenizer(example.prompt + filler).input_ids[-1] for filler in (example.stereo, example.anti)
    )
    return clean, twin, he, she


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_exact_patching_by_position_equals_transformerlens_s_own_sweep(tiny, family):
    """Theirs patches the run called corrupted with what is called clean: with the roles exchanged that is
    ours.
    """
    lm = tiny(family)
    fits, forest = paired(lm)
    example = fits[0]
    clean, twin, he, she = ids_of(lm, example)
    cache = lm.bridge.run_with_cache(twin)[1]
    theirs = {}
    for component, sweep in (
        ("resid_pre", patching.get_act_patch_resid_pre),
        ("mlp_out", patching.get_act_patch_mlp_out),
    ):
        with torch.no_grad():
            theirs[component] = sweep(
                lm.bridge, clean, cache, lambda logits: logits[0, -1, he] - logits[0, -1, she]
            )
    sites = [Site(layer, component) for layer in range(lm.n_layers) for component in theirs]
    prompt = forest.prompts[0]
    found = exact_sweep.sweep(
        lm,
        forest,
        sources.Sweep(sites, sources.corrupt(lm, sites), positions=("readout",), metrics=("target",)),
    )
    assert prompt.length - 1 not in prompt.term
    for site in sites:
        expected = float(theirs[site.component][site.layer, prompt.length - 1])
        assert value(found, example.id, site)["value"] == pytest.approx(expected, abs=2e-5)
    # one token of the term at a time is theirs; all of them at once only where the term is one token: compare
    # the whole prompt instead
    with torch.no_grad():
        whole = lm.bridge(twin)[0, -1]
    total = found.filter(pl.col("component") == TOTAL, pl.col("example_id") == example.id)
    assert total["value"].item() == pytest.approx(float(whole[he] - whole[she]), abs=2e-5)


def gap(logits: torch.Tensor, he: int, she: int) -> torch.Tensor:
    return (logits[..., -1, he] - logits[..., -1, she]).sum()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attribution_equals_transformerlens_s_own_with_the_roles_exchanged(trainable, family):
    """Theirs takes the gradient at `corrupt` and scores (clean − corrupt) · g: ours with `corrupt` as the run
    that is patched.
    """
    lm = trainable(family)
    fits, forest = paired(lm)
    sites = sources.sites(lm, ("z", "mlp_out"))
    found = attribution.estimate(lm, forest, sources.Sweep(sites, sources.corrupt(lm, sites)))
    for example in fits[:2]:
        clean, twin, he, she = ids_of(lm, example)
        theirs = attribution_patch(lm.bridge, twin, clean, partial(gap, he=he, she=she)).node_scores
        for site in sites:
            kind = "attn_head_out" if site.component == "z" else "mlp_out"
            scores = [
                s
                for node, s in theirs.items()
                if (node.kind, node.layer, node.head) == (kind, site.layer, site.head)
            ]
            row = value(found, example.id, site)
            assert row["value"] - row["baseline"] == pytest.approx(
                sum(scores), abs=5e-4 * max(1, abs(sum(scores)))
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_the_first_residual_stands_in_the_term_and_none_after_it(tiny, family):
    lm = tiny(family)
    fits, forest = paired(lm)
    first = Site(0, "resid_pre")
    sweep = sources.Sweep([first], sources.corrupt(lm, [first]), ("term", "between", "readout"), ("target",))
    found = exact_sweep.sweep(lm, forest, sweep)
    total = found.filter(pl.col("component") == TOTAL).sort("example_id")["effect"].to_list()
    by_position = {
        p: found.filter(component="resid_pre", position=p).sort("example_id")["effect"].to_list()
        for p in ("term", "between", "readout")
    }
    assert by_position["term"] == pytest.approx(total, abs=2e-5) and max(map(abs, total)) > 0.01
    assert by_position["between"] == by_position["readout"] == pytest.approx([0.0] * len(fits), abs=2e-5)


def test_positions_are_the_term_and_a_changed_article_what_follows_and_the_last_token(tiny):
    lm = tiny("gpt2")
    words = "A nurse told someone that"
    example = Example("e", "t", "gender", "nurse", words, " he", " she")
    # an article that its twin changes belongs to the term; here the twin is the same text, so it stays
    # outside
    same = tokens.forest(lm, [example], share="example", twins={"e": words}, positions=True)
    ids, text = (
        lm.tokenizer(words).input_ids,
        lambda part: lm.tokenizer.decode([lm.tokenizer(words).input_ids[i] for i in sorted(part)]),
    )
    prompt = same.prompts[0]
    assert [text(prompt.part(p)) for p in ("term", "between", "readout")] == [
        " nurse",
        " told someone",
        " that",
    ]
    changed = tokens.Prompt(prompt.term | {0}, len(ids))
    assert text(changed.part("term")) == "A nurse" and changed.part("between") == prompt.part("between")
    last = tokens.Prompt(frozenset({len(ids) - 1}), len(ids))
    assert last.part("readout") == last.part("between") == frozenset()
    (block,) = same.blocks
    masks = [same.where(block, p) for p in ("term", "between", "readout")]
    assert torch.stack(masks).sum(0).max() == 1 and sum(int(m.sum()) for m in masks) == len(ids) - 1


def test_a_prompt_that_does_not_name_its_term_has_no_positions(tiny):
    examples = [
        Example(str(i), "t", "gender", term, "The nurse said that", " he", " she")
        for i, term in enumerate(("nurse", "plumber"))
    ]
    forest = tokens.forest(tiny("gpt2"), examples, share="example", positions=True)
    assert [e.id for e in forest.examples] == ["0"] and dict(forest.dropped) == {
        "its prompt does not name the term": 1
    }


def test_swapped_twins_give_mirrored_effects(tiny):
    """Denoising (a, twin b) is noising (b, twin a), site for site, exact and estimated, with the opposite
    total.
    """
    lm = tiny("gpt2")
    fits, forest = paired(lm)
    turned = [replace(e, prompt=PAIRS[e.id][1], group="x") for e in fits]
    other = tokens.forest(lm, turned, share="example", twins={e.id: PAIRS[e.id][0] for e in fits})
    denoised = replace(forest, blocks=tuple(block.swapped() for block in forest.blocks))
    sites = [Site(1, "z", 2), Site(2, "mlp_out"), Site(1, "resid_post")]
    for run in (exact_sweep.sweep, attribution.estimate):
        sweep = sources.Sweep(sites, sources.corrupt(lm, sites), metrics=("target",))
        one, two = (run(lm, f, sweep) for f in (denoised, other))
        keys = ["example_id", "component", "layer", "head"]
        both = one.join(two, on=keys, nulls_equal=True)
        assert both.height == one.height == len(fits) * 4
        assert both["effect"].to_list() == pytest.approx(both["effect_right"].to_list(), abs=3e-5)
    noised = exact_sweep.sweep(lm, forest, sweep).filter(pl.col("component") == TOTAL)
    back = one.filter(pl.col("component") == TOTAL)
    assert noised.sort("example_id")["effect"].to_list() == pytest.approx(
        (-back.sort("example_id")["effect"]).to_list(), abs=3e-5
    )


def test_integrated_gradients_of_the_embeddings_sum_to_the_total_as_steps_grow(tiny):
    lm = tiny("gpt2")
    _, forest = paired(lm)
    first = Site(0, "resid_pre")
    errors = {}
    for steps in (None, 4, 64):
        found = attribution.estimate(
            lm, forest, sources.Sweep([first], sources.corrupt(lm, [first])), steps=steps
        ).sort("example_id")
        total, summed = (found.filter(component=c)["effect"].to_numpy() for c in (TOTAL, "resid_pre"))
        errors[steps] = abs(total - summed).max() / abs(total).max()
    assert errors[64] < 0.01 < errors[None] and errors[64] < errors[4] < errors[None]


def test_one_step_is_the_gradient_half_way(tiny):
    lm = tiny("llama")
    _, forest = paired(lm)
    site, first = Site(2, "mlp_out"), Site(0, "resid_pre")
    found = attribution.estimate(lm, forest, sources.Sweep([site], sources.corrupt(lm, [site])), steps=1)
    block = forest.blocks[0]
    here, there = (forward.capture(lm, b, [first, site])[0] for b in (block, block.swapped()))
    middle = (here[first] + there[first]) / 2
    grad = attribution.pulled(lm, block, [site], "target", {first: forward.Put(middle)})[2][site]
    by_hand = ((there[site] - here[site]) * grad).sum(-1)
    for local, same in enumerate(block.examples):
        expected = float(by_hand[block.owner == local].sum())
        row = value(found, forest.examples[same[0]].id, site)
        assert row["value"] - row["baseline"] == pytest.approx(expected, abs=1e-4)


def test_a_small_step_to_the_twin_is_what_attribution_says_and_exact_confirms(tiny):
    lm = tiny("gpt2")
    _, forest = paired(lm)
    sites = [Site(1, "z", 2), Site(2, "mlp_out"), Site(1, "resid_post")]
    twin = sources.corrupt(lm, sites)

    def near(block, site):
        point = sources.whole(site)
        here = forward.capture(lm, block, [point])[0][point]
        here = here if site.head is None else here[:, :, site.head]
        return here + 0.003 * (twin.at(block, site) - here)

    exact = exact_sweep.sweep(
        lm, forest, sources.Sweep(sites, sources.Source("near", near, twin=True), metrics=("target",))
    )
    whole = attribution.estimate(lm, forest, sources.Sweep(sites, twin))
    keys = ["example_id", "component", "layer", "head"]
    both = exact.join(whole, on=keys, nulls_equal=True).filter(pl.col("component") != TOTAL)
    scale = whole["effect"].abs().max()
    assert (both["effect"] / 0.003 - both["effect_right"]).abs().max() < 0.02 * scale


@pytest.mark.parametrize("family", ["gpt2", "mpt"])
@pytest.mark.parametrize("share", ["all", "example"])
def test_resample_takes_a_whole_node_of_the_same_depth_for_all_sites(tiny, examples, family, share):
    lm = tiny(family)
    forest = tokens.forest(lm, examples, share=share)
    points = [Site(1, "z"), Site(2, "mlp_out")]
    source, pool, others = sources.resample(lm, forest, points, 3), sources.pool(forest), 0
    for block in forest.blocks:
        for row, node in (block.owner >= 0).nonzero().tolist():
            prefix = block.prefix(row, node)
            donor = sources.donor_of(pool, prefix, 3)
            others += donor != prefix
            assert len(donor) == len(prefix)
            plain = pack([[Scored((*donor, 0), len(donor), 0)]], [(0,)], "all", packed=False)
            for point, act in forward.capture(lm, plain, points)[0].items():
                torch.testing.assert_close(
                    source.at(block, point)[row, node], act[0, -1], atol=1e-4, rtol=1e-4
                )
    assert others > 5


def test_exact_effects_and_estimates_take_the_same_donors(tiny, examples):
    lm = tiny("gpt2")
    shared, apart = (tokens.forest(lm, examples, share=share) for share in ("all", "example"))
    pools = [sources.pool(forest) for forest in (shared, apart)]
    prefixes = {prefix for same, _ in pools[0].values() for prefix in same}
    assert len(prefixes) > 20 and prefixes == {prefix for same, _ in pools[1].values() for prefix in same}
    assert all(sources.donor_of(pools[0], p, 3) == sources.donor_of(pools[1], p, 3) for p in prefixes)
    assert any(sources.donor_of(pools[0], p, 3) != sources.donor_of(pools[0], p, 4) for p in prefixes)
    site = Site(3, "mlp_out")
    values = {
        name: sources.resample(lm, forest, [site], 3)
        for name, forest in (("all", shared), ("example", apart))
    }
    place = {
        block.prefix(*at): (block, *at)
        for block in shared.blocks
        for at in (block.owner >= 0).nonzero().tolist()
    }
    for block in apart.blocks:
        for at in (block.owner >= 0).nonzero().tolist():
            same, row, node = place[block.prefix(*at)]
            one, other = values["example"].at(block, site)[*at], values["all"].at(same, site)[row, node]
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_donors_are_drawn_as_often_as_examples_use_them(tiny, examples):
    pool = sources.pool(tokens.forest(tiny("gpt2"), examples))
    prefixes, uses = pool[4]
    drawn = [sources.donor_of(pool, prefixes[0], seed) for seed in range(2000)]
    shares = [drawn.count(prefix) / 2000 for prefix in prefixes]
    assert shares == pytest.approx([float(n) / float(uses[-1]) for n in np.diff(uses, prepend=0)], abs=0.04)


def test_a_twin_s_mean_is_not_read_where_there_is_a_slope_and_recovered_is_a_share_of_the_total(tiny):
    lm = tiny("gpt2")
    _, forest = paired(lm)
    sites = [Site(0, "resid_pre"), Site(2, "mlp_out")]
    found = exact_sweep.sweep(
        lm, forest, sources.Sweep(sites, sources.corrupt(lm, sites), metrics=("target",))
    )
    # twelve groups made of copies, so that there are clusters enough; group i has effects scaled by its share
    shares = {f"g{i:02d}": 10.0 + 7 * i for i in range(12)}
    one = found.filter(pl.col("example_id") == found["example_id"][0])
    scaled = [
        one.with_columns(
            example_id=pl.lit(g),
            group=pl.lit(g),
            effect=pl.col("effect") * (s + 3 * (i % 3)) + pl.col("layer").fill_null(0) * (i % 5),
        )
        for i, (g, s) in enumerate(shares.items())
    ]
    summary = summarise(pl.concat(scaled), model="m", method="exact", design=Design(shares))
    assert set(summary["statistic"]) == {"slope", "rms"}
    by_site = {row["component"]: row for row in summary.filter(statistic="slope").iter_rows(named=True)}
    assert by_site["resid_pre"]["recovered"] == pytest.approx(1.0, abs=1e-4)
    assert by_site["mlp_out"]["recovered"] == pytest.approx(
        by_site["mlp_out"]["estimate"] / by_site[TOTAL]["estimate"]
    )
    assert (
        by_site["mlp_out"]["recovered_low"]
        < by_site["mlp_out"]["recovered"]
        < by_site["mlp_out"]["recovered_high"]
    )
    assert summary["component"][summary.filter(statistic="slope").height - 1] == TOTAL
