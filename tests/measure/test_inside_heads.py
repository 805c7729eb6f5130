"""Queries, keys, values, patterns and neurons: replaced as they say, in every family, and estimated well."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.measure import attribution, exact, sources
from biasscope.engine.measure.between import attention
from biasscope.engine.model import tokens
from biasscope.engine.types import INSIDE, Site
from tests.support import slow
from tests.support.tiny_models import EXACT

FAMILIES = ["gpt2", "gpt-neo", "llama", "gemma3"]


def effects(table: pl.DataFrame, site: Site) -> dict[str, float]:
    rows = table.filter(pl.col("head").eq_missing(site.head), component=site.component, layer=site.layer)
    return dict(rows.select("example_id", "effect").rows())


@pytest.mark.parametrize("family", [*EXACT, "mpt"])
def test_an_edit_inside_a_head_has_its_effect_in_every_family(family, tiny):
    attention.check(tiny(family), list(INSIDE))


def test_a_component_whose_edit_does_nothing_is_refused_by_the_familys_name(tiny):
    lm = tiny("gpt2")
    with pytest.raises(DataError, match=r"k cannot be replaced in gpt2 \(gpt2\): it has 4 parts.* says 2"):
        attention.check(replace(lm, n_kv=2), ["k"])
    dead = type("Dead", (), {"__getattr__": lambda self, name: getattr(lm.bridge, name)})()
    dead.run_with_hooks = lambda ids, fwd_hooks, **k: lm.bridge.run_with_hooks(
        ids, fwd_hooks=[(n, lambda a, hook, f=f: f(a, hook=hook) * 0 + a) for n, f in fwd_hooks], **k
    )
    with pytest.raises(DataError, match="q cannot be replaced.*an edit changes no pattern"):
        attention.check(replace(lm, bridge=dead), ["q"])


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_effects_inside_heads_equal_one_example_at_a_time(family, tiny, examples):
    lm = tiny(family)
    sites = [Site(1, c, (lm.parts(c) or 1) - 1) for c in ("q", "k", "v", "neuron")]
    forest = tokens.forest(lm, examples)
    table = exact.sweep(lm, forest, sources.Sweep(sites, sources.zero(lm), metrics=["target"]))
    zero = torch.tensor(0.0)
    for site in sites:
        found = effects(table, site)
        for e in (examples[0], examples[4], examples[6]):
            change = slow.scores(lm, e, [slow.replaced(site, zero, zero)])["target"]
            assert found[e.id] == pytest.approx(change - slow.scores(lm, e)["target"], abs=3e-4)


def twin_forest(lm, examples, **how):
    some = [examples[0], examples[1]]
    twins = {e.id: e.prompt.replace("nurse", "plumber") for e in some}
    return tokens.forest(lm, some, twins=twins, **how), some, twins


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twins_pattern_is_its_weights_on_the_prompts_own_values(family, tiny, examples):
    lm = tiny(family)
    site = Site(2, "pattern", 1)
    forest, some, twins = twin_forest(lm, examples)
    table = exact.sweep(lm, forest, sources.Sweep([site], sources.corrupt(lm, [site]), metrics=["target"]))
    for e in some:
        total = 0.0
        for (prompt, filler), sign in zip(e.sides, (1, -1), strict=False):
            ids, first = slow.span(lm, prompt, filler)
            there, _ = slow.span(lm, twins[e.id], filler)
            names = ["blocks.2.attn.hook_pattern", "blocks.2.attn.hook_v"]
            with torch.no_grad():
                weights = lm.bridge.run_with_cache(torch.tensor([there]), names_filter=names)[1][names[0]]
                v = lm.bridge.run_with_cache(torch.tensor([ids]), names_filter=names)[1][names[1]]
            new = weights[0, 1] @ v[0, :, 1 * lm.n_kv // lm.n_heads]

            def put(act, hook, new=new):
                act = act.clone()
                act[0, :, 1] = new
                return act

            hooks = [("blocks.2.attn.hook_z", put)]
            with torch.no_grad():
                total += sign * float(slow.logp(lm, ids, first, hooks) - slow.logp(lm, ids, first))
        assert effects(table, site)[e.id] == pytest.approx(total, abs=3e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_softmax_is_exact_where_the_model_above_is_linear(family, tiny, examples):
    """A query or key of the last layer acts through its pattern alone: a hundredth of the way in the output
    the estimate is what the edit does, however far the softmax has moved."""
    lm = tiny(family)
    forest, _, _ = twin_forest(lm, examples, share="example")
    layer = lm.n_layers - 1
    block = forest.blocks[0]
    for component in ("q", "k"):
        point = Site(layer, component)
        z = Site(layer, "z")
        source = sources.corrupt(lm, [point])
        sweep = sources.Sweep([point], source, metrics=["target"])
        _, _, grads = attribution.gradients(lm, block, [z], sweep)
        new = {point: attention.forward.Put(source.at(block, point))}
        found = attention.moved(lm, block, {}, new, grads)[point].sum()
        after = attention.forward.capture(lm, block, [z], new)[0][z]
        before = attention.forward.capture(lm, block, [z])[0][z]
        assert float(found) == pytest.approx(float(((after - before) * grads[z]).sum()), rel=1e-3, abs=1e-5)


def test_a_key_moved_at_the_term_alone_acts_where_it_is_attended_to(tiny, examples):
    lm = tiny("llama")
    named = [replace(e, term="nurse") for e in examples]
    forest, _, _ = twin_forest(lm, named, share="example", positions=True)
    site = Site(3, "k", 0)
    wanted = sources.Sweep([site], sources.corrupt(lm, [site]), ("term", "between"), ("target",))
    rows = attribution.estimate(lm, forest, wanted).filter(component="k")
    # what stands after the term has keys of its own, changed by the layers below alone
    assert (rows.filter(position="term")["effect"].abs() > 1e-4).all()
    both = exact.sweep(lm, forest, wanted).filter(component="k").sort("position", "example_id")
    found = rows.sort("position", "example_id")
    assert found["effect"].to_list() == pytest.approx(both["effect"].to_list(), rel=0.6, abs=0.05)


def test_a_pattern_has_no_mean(tiny, examples):
    lm = tiny("gpt2")
    with pytest.raises(UsageError, match="an attention pattern has no mean"):
        sources.source("mean", lm, tokens.forest(lm, examples), [Site(0, "pattern", 0)])
    with pytest.raises(UsageError, match="an attention pattern has no mean"):  # as a scan stores them
        sources.means(lm, tokens.forest(lm, examples), [Site(0, "pattern", 0)])


def test_keys_of_heads_that_are_replaced_all_the_while_do_nothing(tiny, examples):
    lm = tiny("llama")
    forest, _, _ = twin_forest(lm, examples, share="example")
    sites = [Site(1, "k", n) for n in range(lm.n_kv)]
    gone = [
        Site(1, "z", head) for head in range(lm.n_heads // lm.n_kv)
    ]  # all that read the first of the keys
    edit = sources.removed(gone, sources.zero(lm))
    sweep = sources.Sweep(sites, sources.corrupt(lm, sites), metrics=("target",), edit=edit)
    for table in (attribution.estimate(lm, forest, sweep), exact.sweep(lm, forest, sweep)):
        sizes = [max(map(abs, effects(table, site).values())) for site in sites]
        assert sizes[0] == pytest.approx(0, abs=1e-6) and max(sizes[1:], default=1) > 1e-5
