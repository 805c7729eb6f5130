"""A model in which an edit stands: clean scores, totals, estimates and activations are those of a model that
is hooked by hand.
"""

import json

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from biasscope import cli
from biasscope.engine.measure import activations, attribution, baseline, exact, sources
from biasscope.engine.model import forward, tokens
from biasscope.engine.schemas import TOTAL
from biasscope.engine.types import UNEDITED, Example, Site
from tests.support import slow
from tests.support.examples import PAIRS, paired
from tests.support.tiny_models import EXACT

GONE = [Site(1, "z", 2), Site(2, "mlp_out")]
ZERO = torch.tensor(0.0)
HOOKS = [slow.replaced(site, ZERO, ZERO) for site in GONE]


@pytest.mark.parametrize("family", EXACT)
def test_scores_with_an_edit_equal_those_of_a_model_hooked_by_hand(tiny, examples, family):
    lm = tiny(family)
    if lm.n_layers < 3:
        pytest.skip("two layers")
    edited, _ = baseline.baseline(lm, tokens.forest(lm, examples), sources.removed(GONE, sources.zero(lm)))
    by_id = dict(edited.filter(metric="target").select("example_id", "value").iter_rows())
    for e in examples:
        assert by_id[e.id] == pytest.approx(slow.scores(lm, e, HOOKS)["target"], abs=3e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_total_with_an_edit_is_between_two_edited_prompts(tiny, family):
    lm = tiny(family)
    fits, forest = paired(lm)
    sweep = sources.Sweep(
        [Site(3, "z", 0)],
        sources.corrupt(lm, [Site(3, "z", 0)]),
        edit=sources.removed(GONE, sources.zero(lm)),
    )
    for found in (attribution.estimate(lm, forest, sweep), exact.sweep(lm, forest, sweep)):
        totals = found.filter(component=TOTAL, metric="target")
        for e in fits:
            twin = Example("x", "t", "gender", "g", PAIRS[e.id][1], " he", " she")
            row = totals.row(by_predicate=pl.col("example_id") == e.id, named=True)
            assert row["baseline"] == pytest.approx(slow.scores(lm, e, HOOKS)["target"], abs=3e-5)
            assert row["value"] == pytest.approx(slow.scores(lm, twin, HOOKS)["target"], abs=3e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_estimates_with_an_edit_are_gradients_of_the_edited_model(tiny, examples, family):
    lm, site = tiny(family), Site(3, "z", 1)
    forest, edit = tokens.forest(lm, examples, share="example"), sources.removed(GONE, sources.zero(lm))
    estimated = attribution.estimate(lm, forest, sources.Sweep([site], sources.zero(lm), edit=edit)).sort(
        "example_id"
    )
    # a small step towards zero, exact, in the same edited model
    share = 1e-2
    clean = {
        block: forward.capture(lm, block, [sources.whole(site)], edit.puts(block))[0][sources.whole(site)]
        for block in forest.blocks
    }
    nearly = sources.Source("nearly", lambda block, s: (1 - share) * clean[block][:, :, s.head])
    measured = exact.sweep(lm, forest, sources.Sweep([site], nearly, metrics=("target",), edit=edit)).sort(
        "example_id"
    )
    assert measured["baseline"].to_list() == pytest.approx(estimated["baseline"].to_list(), abs=1e-5)
    np.testing.assert_allclose(measured["effect"] / share, estimated["effect"], rtol=0.1, atol=2e-3)
    unedited = attribution.estimate(lm, forest, sources.Sweep([site], sources.zero(lm))).sort("example_id")
    assert np.abs(unedited["effect"] - estimated["effect"]).max() > 1e-3


def test_activations_with_an_edit_are_what_a_hooked_model_has(tiny):
    lm = tiny("gpt2")
    text = activations.text(lm, "a", "The nurse said that", "nurse")
    (unit,) = activations.units(lm, [text], "resid", "last", sources.removed(GONE, sources.zero(lm)))
    (plain,) = activations.units(lm, [text], "resid", "last", UNEDITED)
    with torch.no_grad(), lm.bridge.hooks(fwd_hooks=HOOKS):
        _, cache = lm.bridge.run_with_cache(torch.tensor([list(text.ids)]))
    found, before = unit.compute()["activations"], plain.compute()["activations"]
    for row, old in zip(found.iter_rows(named=True), before.iter_rows(named=True), strict=True):
        by_hand = cache[Site(row["layer"], row["component"]).hook][0, -1]
        assert row["values"] == pytest.approx(by_hand.tolist(), abs=1e-4)
        touched = row["layer"] > 1 or row["component"] == "resid_post"
        assert (row["values"] != old["values"]) == touched


@pytest.mark.parametrize(
    "command",
    [
        "baseline",
        "patch --layers 2,3",
        "probe --split holdout",
        "encode --site z",
        "probe --causal --split holdout",
    ],
)
@pytest.mark.usefixtures("few_draws")
def test_given_takes_another_run_key_and_gives_other_numbers(tmp_path, command):
    name, *options = command.split()
    what = [*options, "-m", "planted:single", "-d", "occupations", "--limit", "24", "--json", "-q", "--rows"]
    where = ["--cache-dir", str(tmp_path / "cache"), "--output-dir", str(tmp_path / "results")]
    plain, edited = (
        CliRunner().invoke(cli.app, [name, *what, *where, *more]) for more in ([], ["--given", "1.2"])
    )
    assert edited.exit_code == 0, edited.stderr
    plain, edited = json.loads(plain.stdout), json.loads(edited.stdout)
    assert plain["run"]["datasets"][0]["run_key"] != edited["run"]["datasets"][0]["run_key"]
    assert "--given 1.2" in edited["run"]["reproduce"] and plain["rows"] != edited["rows"]
    if name == "baseline":  # the head that carries the stereotype is gone: no slope is left
        slope = {
            document["run"]["datasets"][0]["run_key"]: document["summary"][0] for document in (plain, edited)
        }
        first, second = slope.values()
        assert (
            first["statistic"] == "slope" and abs(first["estimate"]) > 0.5 and abs(second["estimate"]) < 1e-3
        )
