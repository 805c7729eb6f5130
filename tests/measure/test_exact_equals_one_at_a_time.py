"""The exact sweep equals running the model once per example and site."""

import polars as pl
import pytest
import torch

from biasscope.engine.errors import UsageError
from biasscope.engine.measure import baseline, exact, sources
from biasscope.engine.model import forward, tokens
from biasscope.engine.schemas import EFFECTS, SCORES, TRIPLES
from biasscope.engine.types import Site
from tests.support import slow
from tests.support.tiny_models import EXACT


def only(effects: pl.DataFrame, metric: str, site: Site, example: str) -> dict:
    where = (
        (pl.col("metric") == metric)
        & (pl.col("layer") == site.layer)
        & (pl.col("component") == site.component)
    )
    return effects.filter(
        where & pl.col("head").eq_missing(site.head) & (pl.col("example_id") == example)
    ).row(0, named=True)


@pytest.mark.parametrize("family", [*EXACT, "mpt"])
@pytest.mark.parametrize("name", ["zero", "mean"])
def test_the_sweep_equals_one_example_and_one_site_at_a_time(family, name, tiny, examples):
    lm = tiny(family)
    forest = tokens.forest(lm, examples)
    middle = lm.n_layers // 2
    sites = [Site(0, "z", 1), Site(middle, "z", lm.n_heads - 1), Site(middle, "mlp_out")]
    effects = exact.sweep(lm, forest, sources.Sweep(sites, sources.source(name, lm, forest, sites)), batch=64)
    for site, new in slow.sources(name, lm, examples, sites).items():
        hooks = [slow.replaced(site, *new)]
        for e in examples:
            after, before = slow.scores(lm, e, hooks), slow.scores(lm, e)
            for metric in after:
                row = only(effects, metric, site, e.id)
                assert row["value"] == pytest.approx(after[metric], abs=5e-4)
                assert row["effect"] == pytest.approx(after[metric] - before[metric], abs=5e-4)
            assert only(effects, "kl", site, e.id)["effect"] == pytest.approx(slow.kl(lm, e, hooks), abs=5e-4)


def test_zero_ablating_a_head_equals_zeroing_its_rows_of_w_o(tiny, examples):
    lm = tiny("gpt2")
    forest = tokens.forest(lm, examples)
    sweep = sources.Sweep([Site(1, "z", 2)], sources.zero(lm), metrics=("target",))
    swept = exact.sweep(lm, forest, sweep).sort("example_id")
    weight = lm.bridge.original_model.state_dict()
    (name,) = [k for k in weight if "h.1.attn" in k and "c_proj" in k and k.endswith("weight")]
    rows, kept = slice(2 * 12, 3 * 12), weight[name].clone()
    with torch.no_grad():
        weight[name][rows] = 0
        by_hand = baseline.baseline(lm, forest)[0].filter(pl.col("metric") == "target").sort("example_id")
        weight[name].copy_(kept)
    assert swept["value"].to_list() == pytest.approx(by_hand["value"].to_list(), abs=1e-4)
    assert swept["effect"].abs().max() > 0.01


def test_replacing_a_run_with_itself_changes_nothing(tiny, examples):
    lm = tiny("gpt-neo")
    forest = tokens.forest(lm, examples)
    itself = sources.Source(
        "itself",
        lambda block, site: forward.capture(lm, block, [sources.whole(site)])[0][sources.whole(site)][
            :, :, site.head
        ],
    )
    effects = exact.sweep(lm, forest, sources.Sweep([Site(3, "z", 0)], itself))
    assert effects["effect"].abs().max() < 1e-5


def test_the_batch_size_does_not_change_the_effects(tiny, examples):
    lm = tiny("llama")
    forest = tokens.forest(lm, examples)
    sites = sources.sites(lm, ["z", "mlp_out"], [1])
    one, many = (
        exact.sweep(lm, forest, sources.Sweep(sites, sources.zero(lm)), batch=b) for b in (1, 10_000)
    )
    assert (one["effect"] - many["effect"]).abs().max() < 1e-5


def test_effects_keep_their_schema_and_one_row_per_example_site_and_metric(tiny, examples):
    lm = tiny("qwen2")
    effects = exact.sweep(
        lm, tokens.forest(lm, examples), sources.Sweep(sources.sites(lm, ["z", "mlp_out"]), sources.zero(lm))
    )
    assert effects.schema == EFFECTS
    rows = 3 * len(examples) - 2  # two have no competence: a mean without mass, a text that begins the other
    assert len(effects) == rows * (4 * 4 + 4)
    assert effects.select("example_id", "component", "layer", "head", "metric").is_unique().all()


def test_sites_outside_the_model_are_refused_with_the_range(tiny):
    with pytest.raises(UsageError, match="layers 0-3"):
        sources.sites(tiny("gpt2"), ["z"], [4])


def test_baseline_scores_every_metric_and_the_published_sentence_score(tiny, examples):
    lm = tiny("gpt2")
    scores, triples = baseline.baseline(lm, tokens.forest(lm, examples, sentences=True))
    assert (scores.schema, triples.schema) == (SCORES, TRIPLES)
    assert scores["metric"].value_counts(sort=True).rows() == [
        ("target", 12),
        ("competence", 10),
        ("sentence", 1),
    ]
    rich = examples[4]
    for column, text in zip(("stereo", "anti", "unrelated"), rich.sentences, strict=True):
        ids = lm.tokenizer(text).input_ids
        # the published code: the first token after the start token,
        first = slow.logp(lm, [lm.start, ids[0]], 1)
        # the others after the sentence so far, without it
        per_token = (first + slow.logp(lm, ids, 1)) / len(ids)
        assert triples.filter(example_id=rich.id)[column].item() == pytest.approx(
            float(per_token.exp()), rel=1e-4
        )


def test_a_nan_of_the_model_stays_in_the_table_to_be_counted(tiny, examples):
    lm = tiny("gpt2")
    forest = tokens.forest(lm, examples)
    broken = sources.Source("broken", lambda block, site: torch.tensor(float("nan")))
    effects = exact.sweep(lm, forest, sources.Sweep([Site(1, "z", 0)], broken, metrics=["target"]))
    assert (len(effects), effects["effect"].is_nan().sum()) == (len(examples), len(examples))


@pytest.mark.parametrize("name", ["zero", "mean"])
@pytest.mark.parametrize("site", [Site(0, "resid_pre"), Site(2, "resid_pre"), Site(1, "resid_post")], ids=str)
def test_of_a_residual_site_the_first_position_stays(tiny, examples, name, site):
    lm = tiny("gpt2")
    plain = [e for e in examples if e.sentences is None and e.prompt]
    forest = tokens.forest(lm, plain)
    found = exact.sweep(
        lm, forest, sources.Sweep([site], sources.source(name, lm, forest, [site]), metrics=("target",))
    )
    _, rest = slow.sources(name, lm, plain, [site])[site]

    def hook(act, hook):
        act = act.clone()
        act[:, 1:] = rest
        return act

    by_hand = {e.id: slow.scores(lm, e, [(site.hook, hook)])["target"] for e in plain}
    values = dict(zip(found["example_id"], found["value"], strict=True))
    assert values == pytest.approx(by_hand, abs=2e-5)


@pytest.mark.parametrize("family", ["gpt2", "gpt-neo", "llama", "mpt"])
@pytest.mark.parametrize("name", ["zero", "mean"])
def test_a_scan_beside_given_sites_equals_replacing_all_of_them_by_hand(family, name, tiny, examples):
    lm = tiny(family)
    forest = tokens.forest(lm, examples)
    given, sites = (
        [Site(1, "z", 2), Site(2, "mlp_out")],
        [Site(0, "z", 1), Site(1, "z", 0), Site(2, "z", 3), Site(3, "mlp_out")],
    )
    source = sources.source(name, lm, forest, [*sites, *given])
    effects = exact.sweep(
        lm, forest, sources.Sweep(sites, source, edit=sources.removed(given, source)), batch=64
    )
    new = slow.sources(name, lm, examples, [*sites, *given])
    gone = [slow.replaced(site, *new[site]) for site in given]
    for site in sites:
        hooks = [*gone, slow.replaced(site, *new[site])]
        for e in examples[:5]:
            before, after = slow.scores(lm, e, gone), slow.scores(lm, e, hooks)
            row = only(effects, "target", site, e.id)
            assert (row["baseline"], row["value"]) == (
                pytest.approx(before["target"], abs=5e-4),
                pytest.approx(after["target"], abs=5e-4),
            )
            by_hand = slow.kl(lm, e, hooks, gone)
            assert only(effects, "kl", site, e.id)["effect"] == pytest.approx(by_hand, abs=5e-4)
