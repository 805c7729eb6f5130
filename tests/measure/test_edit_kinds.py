"""Kinds of edits: at dose 0 they change nothing, at dose 1 they are what their names say."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from biasscope.engine.errors import DataError
from biasscope.engine.measure import baseline, edits, exact, sources
from biasscope.engine.model import forward, tokens
from biasscope.engine.types import Edit, Site
from tests.support import slow
from tests.support.examples import example

HEADS = [Site(1, "z", 2), Site(2, "z", 0)]


def vectors(lm, kind):
    """What each head needs under a kind: a mean of ones, nothing, or a direction of the model's own."""
    width = lm.bridge.blocks[0].attn.W_O.shape[-2]
    if kind == "project":
        towards = edits.contrast(lm, " he", " she")
        return {site: edits.written(lm, site, towards) for site in HEADS}
    return dict.fromkeys(HEADS, None if kind == "zero" else torch.ones(width))


def named(kind, dose, at):
    return Edit(at, f"{kind}@{dose}", kind, dose)


@pytest.mark.parametrize("kind", ["mean", "zero", "project"])
def test_a_dose_of_0_changes_nothing_and_all_edits_of_a_pass_are_apart(tiny, examples, kind):
    lm = tiny("llama")
    forest = tokens.forest(lm, examples)
    wanted = [named(kind, dose, edits.at_heads(kind, vectors(lm, kind), dose)) for dose in (0.0, 0.5, 1.0)]
    found = pl.concat(u.compute()["effects"] for u in edits.units(lm, forest, wanted, 300))
    assert found.filter(position=f"{kind}@0.0")["effect"].abs().max() == 0
    for edit in wanted[1:]:  # each copy of a pass is the model in which its edit stands alone
        scores = baseline.baseline(replace(lm, edit=edit), forest)[0].filter(metric="target")
        values = dict(scores.select("example_id", "value").iter_rows())
        rows = found.filter(position=edit.name, metric="target")
        by_id = dict(rows.select("example_id", "value").iter_rows())
        assert by_id == pytest.approx(values, abs=3e-4) and rows["effect"].abs().max() > 1e-4


def test_zero_at_dose_1_is_zero_ablation_of_those_heads(tiny, examples):
    lm = tiny("gpt2")
    forest = tokens.forest(lm, examples)
    swept = exact.sweep(lm, forest, sources.Sweep(HEADS[:1], sources.zero(lm)))
    edit = named("zero", 1.0, edits.at_heads("zero", {HEADS[0]: None}, 1.0))
    (unit, *more) = edits.units(lm, forest, [edit])
    found = pl.concat(u.compute()["effects"] for u in (unit, *more))
    key = ["example_id", "metric"]
    assert found.sort(key)["value"].to_list() == pytest.approx(swept.sort(key)["value"].to_list(), abs=1e-5)


def test_the_mean_of_one_node_leaves_that_node_as_it_is(tiny):
    lm, site = tiny("gpt2"), HEADS[0]
    with torch.no_grad():
        ids = torch.tensor([[5, 7, 11]])
        _, cache = lm.bridge.run_with_cache(ids, names_filter=lambda name: name == site.hook)
    own = cache[site.hook][0, -1, site.head]
    affine = edits.at_heads("mean", {site: own}, 1.0)[site]
    assert torch.equal(affine(own[None]), own[None])
    half = edits.at_heads("mean", {site: own}, 0.5)[site]
    other = cache[site.hook][0, 0, site.head]
    assert torch.allclose(half(other[None])[0], (own + other) / 2, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3-narrow"])
def test_a_projected_head_no_longer_writes_towards_one_of_two_words(tiny, family):
    """γ and W_U are the model's own: what a head adds to the two logits is found by hand."""
    lm, site = tiny(family), Site(1, "z", 1)
    towards = edits.contrast(lm, " he", " she")
    x = torch.randn(40, lm.d_model, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = x - x.mean(1, keepdim=True)
    words = lm.bridge.original_model.get_output_embeddings().weight
    ids = [tokens.encode(lm, word)[-1] for word in (" he", " she")]
    with torch.no_grad():
        normed = lm.bridge.ln_final(x.float()[None])[0] - lm.bridge.ln_final(torch.zeros(1, 1, lm.d_model))[0]
        logits = (normed @ words[ids].T).double()
    size = (x**2).mean(1).sqrt()
    np.testing.assert_allclose((x @ towards) / size, logits[:, 0] - logits[:, 1], rtol=1e-3, atol=1e-3)
    affine = edits.at_heads("project", {site: edits.written(lm, site, towards)}, 1.0)[site]
    z = torch.randn(5, affine.right.shape[0], generator=torch.Generator().manual_seed(3))
    out = lm.bridge.blocks[1].attn.W_O[1].detach()
    before, after = ((t @ out).double() @ towards for t in (z, affine(z)))
    assert after.abs().max() < 1e-4 * before.abs().max()


def test_words_of_several_tokens_part_where_they_first_differ(tiny):
    lm = tiny("llama")
    plain, longer = (edits.contrast(lm, f" he{end}", f" she{end}") for end in ("", " is kind"))
    assert torch.equal(plain, longer) and plain.norm() > 0
    with pytest.raises(DataError, match="' he' and ' he is' are the same as far as both go"):
        edits.contrast(lm, " he", " he is")


def texts(n=60, d=12, seed=4):
    """Activations in which a label stands, as strong as the rest, and the label."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + np.outer(y, rng.normal(size=d)) + 3, y


@pytest.mark.parametrize("shrink", [True, False])
def test_after_erasure_no_coordinate_covaries_with_the_label(shrink):
    x, y = texts()
    found = edits.erasure(x, y, shrink=shrink)
    after = x - np.outer((x - found.centre) @ found.right, found.left)
    before = np.abs((x - x.mean(0)).T @ (y - y.mean())).max()
    assert np.abs((after - after.mean(0)).T @ (y - y.mean())).max() < 1e-12 * before * len(x)
    np.testing.assert_allclose(after.mean(0), x.mean(0))  # the mean stays
    (affine,) = found.at(3, 1.0).values()
    np.testing.assert_allclose(affine(torch.from_numpy(x).float()), after, atol=1e-4)
    assert not affine.first


def test_erasure_without_shrinkage_is_the_least_change_that_does_it():
    """In the norm that whitens x, as LEACE is defined: any other affine map that erases moves x farther."""
    x, y = texts()
    c = x - x.mean(0)
    white = np.linalg.inv(np.linalg.cholesky(c.T @ c / len(x)))
    found = edits.erasure(x, y, shrink=False)
    moved = np.outer(c @ found.right, found.left) @ white.T
    sigma = white @ (c.T @ (y - y.mean()))
    by_hand = (c @ white.T) @ np.outer(sigma, sigma) / (sigma @ sigma)  # the projection in whitened space
    np.testing.assert_allclose(moved, by_hand, atol=1e-10)


def test_the_difference_of_two_means_is_added_everywhere():
    x, y = texts()
    found = edits.difference(x, y, 0.0)
    np.testing.assert_allclose(found.left, x[y > 0].mean(0) - x[y <= 0].mean(0))
    (affine,) = found.at(3, -0.5).values()
    assert (
        affine.first
        and affine.scale == 1
        and torch.allclose(affine.bias, torch.tensor(-0.5 * found.left).float())
    )


def test_the_loss_on_text_is_that_of_plain_passes(tiny):
    lm = tiny("llama")
    paragraphs = ["The nurse said that he is very kind", "My father had told someone that she was late."]
    edit = named("zero", 1.0, edits.at_heads("zero", dict.fromkeys(HEADS), 1.0))
    forest = edits.text(lm, paragraphs, 1000)
    found = pl.concat(u.compute()["effects"] for u in edits.loss_units(lm, forest, [edit]))
    hooks = [slow.replaced(site, torch.tensor(0.0), torch.tensor(0.0)) for site in HEADS]
    for number, paragraph in enumerate(paragraphs):
        ids = lm.tokenizer(paragraph).input_ids
        rows = found.filter(group=f"p{number:05}")
        assert len(rows) == len(ids) - 1 and rows["metric"].unique().to_list() == ["nll"]
        for column, own in (("baseline", ()), ("value", hooks)):
            with torch.no_grad():
                total = -float(slow.logp(lm, ids, 1, own))
            assert rows[column].sum() == pytest.approx(total, abs=2e-3)


def test_an_edit_of_the_stream_spares_the_first_position_where_it_says_so(tiny):
    lm, site = tiny("gpt2"), Site(2, "resid_pre")
    block = tokens.forest(lm, [example(0, "The nurse said that")]).blocks[0]
    seen = []
    for first in (True, False):
        (affine,) = edits.Direction(np.ones(48)).at(2, 1.0).values()
        puts = {site: replace(affine, first=first).put(block, site)}
        seen.append(forward.capture(lm, block, [site], puts)[0][site])
    plain = forward.capture(lm, block, [site])[0][site]
    assert torch.allclose(seen[0], plain + 1, atol=1e-6)
    sink = block.depth == 0
    assert torch.equal(seen[1][sink], plain[sink]) and torch.allclose(
        seen[1][~sink], plain[~sink] + 1, atol=1e-6
    )
