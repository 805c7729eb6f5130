"""Models with known effects: every number that can be worked out by hand is found, and where a method must
fail, it fails.
"""

import numpy as np
import polars as pl
import pytest

from biasscope.engine.data import datasets
from biasscope.engine.experiments import verify
from biasscope.engine.measure import attribution, exact, sources
from biasscope.engine.model import planted, tokens
from biasscope.engine.statistics.summary import ranking, summarise
from biasscope.engine.types import Design
from tests.support.tiny_models import graded

KNOWN = planted.words()


def worked(kind, role, source, partners) -> dict[str, float] | None:
    """Occupation → hand-worked effect."""
    found = {
        g: planted.change(kind, role, source, KNOWN.occupations[g], KNOWN.occupations[p])
        for g, p in partners.items()
    }
    return None if None in found.values() else found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", [k for k in planted.KINDS if k != "graded"])
def test_every_hand_worked_effect_is_found_in_every_prompt_with_the_noise_in_place(lab, kind, seed):
    lm, forest, partners = lab(kind, seed)
    assert lm.packed
    checked = 0
    for source in ("zero", "corrupt", "mean"):
        expected = {
            site: effects
            for role, site in planted.SITES.items()
            if role != "factual" or kind == "single"
            if (effects := worked(kind, role, source, partners)) is not None
        }
        sites = sorted(expected)
        measured = sources.source(source, lm, forest, sites)
        whole = exact.sweep(lm, forest, sources.Sweep(sites, measured, metrics=("target",)))
        for site in sites:
            own = whole.filter(layer=site.layer, component=site.component)
            found = own.filter(pl.col("head").eq_missing(pl.lit(site.head)))
            difference = found["effect"].to_numpy() - [expected[site][g] for g in found["group"]]
            # the mean of a forest is one number for all prompts: what is left must be the same everywhere
            assert np.abs(difference - (difference.mean() if source == "mean" else 0)).max() < 1e-5
            checked += 1
    assert checked >= 6


def test_graded_heads_have_their_own_strengths_in_every_prompt(lab):
    lm, forest, _ = lab("graded")
    strengths = planted.strengths()
    assert len(strengths) == 8 and all(s for s, _ in strengths.values())
    found = exact.sweep(lm, forest, sources.Sweep(list(strengths), sources.zero(lm), metrics=("target",)))
    for site, (s, t) in strengths.items():
        rows = found.filter(layer=site.layer, head=site.head)
        expected = [-s * KNOWN.occupations[g]["s"] - t * KNOWN.occupations[g]["t"] for g in rows["group"]]
        np.testing.assert_allclose(rows["effect"], expected, atol=1e-5)


def test_attribution_is_exact_where_the_model_is_linear_and_wrong_as_worked_out_where_it_is_not(lab):
    first = planted.SITES["first"]
    for kind, factor in (
        ("single", 1.0),
        ("cancelling", 1.0),
        ("masked", 0.0),
        ("redundant", 0.0),
        ("backup", 1.0),
    ):
        lm, forest, partners = lab(kind)
        feature = "s" if kind in ("single", "cancelling") else "q"
        for source in ("zero", "corrupt"):
            sweep = sources.Sweep([first], sources.source(source, lm, forest, [first]))
            rows = attribution.estimate(lm, forest, sweep).filter(component="z")
            there = [
                KNOWN.occupations[partners[g]][feature] if source == "corrupt" else 0.0 for g in rows["group"]
            ]
            expected = [
                factor * planted.A * (t - KNOWN.occupations[g][feature])
                for g, t in zip(rows["group"], there, strict=True)
            ]
            np.testing.assert_allclose(rows["effect"], expected, atol=1e-5)


def test_two_steps_of_integrated_gradients_find_what_is_masked_and_none_of_what_is_only_a_backup(lab):
    lm, forest, partners = lab("masked")
    first = planted.SITES["first"]
    rows = attribution.estimate(
        lm, forest, sources.Sweep([first], sources.corrupt(lm, [first])), steps=4
    ).filter(component="z")
    expected = [worked("masked", "first", "corrupt", partners)[g] for g in rows["group"]]
    np.testing.assert_allclose(rows["effect"], expected, atol=1e-5)


def test_a_rescan_without_the_first_head_reveals_its_backup(lab):
    lm, forest, _ = lab("backup")
    first, second = planted.SITES["first"], planted.SITES["second"]
    zero = sources.zero(lm)
    edits = (sources.removed(given, zero) for given in ([], [first]))
    alone, beside = (
        exact.sweep(lm, forest, sources.Sweep([second], zero, metrics=("target",), edit=edit))
        for edit in edits
    )
    assert alone["effect"].abs().max() < 1e-5
    np.testing.assert_allclose(
        beside["effect"], [-planted.A * KNOWN.occupations[g]["q"] for g in beside["group"]], atol=1e-5
    )


def test_nulls_alarm_at_most_as_often_as_they_may_and_every_strength_is_found():
    data = datasets.load("occupations", None, limit=60)
    strengths, alarms, seeds = planted.strengths(), 0, 24
    for seed in range(seeds):
        lm = graded(seed)
        every = sources.sites(lm, ["z"])
        sites = every if seed < 3 else [s for s in every if s not in strengths]
        sweep = sources.Sweep(sites, sources.zero(lm), metrics=("target",))
        effects = exact.sweep(lm, tokens.forest(lm, data.examples), sweep)
        rows = effects.filter(
            ~pl.concat_str("layer", "head").is_in([f"{s.layer}{s.head}" for s in strengths])
        )
        design = Design(data.covariate)
        summary = summarise(rows, model="m", method="exact", design=design).filter(statistic="slope")
        alarms += summary["p_family"].min() < 0.05
        if seed < 3:
            whole = summarise(effects, model="m", method="exact", design=design)
            assert verify.auroc(whole, list(strengths)) == 1.0
    assert alarms <= 3  # 5 % of 24 is 1.2; more than 3 has a chance of 3 %


def test_t_is_no_stereotype_and_as_large(lab):
    table = np.array([[values[f] for f in "sqtc"] for values in KNOWN.occupations.values()])
    s, q, t, _ = table.T
    assert (
        abs(t.mean()) < 1e-12
        and abs(t @ s) < 1e-9
        and abs(t @ q) < 1e-9
        and np.abs(t).max() == np.abs(s).max() == 1
    )


# Factual gender


@pytest.fixture(scope="module")
def facts(lab):
    """EFFECTS of the factual head and of the MLP that shifts the base rate on `definitional`, zero source."""
    lm, _, _ = lab("single")
    forest, sites = (
        tokens.forest(lm, datasets.load("definitional", None).examples),
        [planted.SITES[r] for r in ("factual", "base")],
    )
    return exact.sweep(
        lm, forest, sources.Sweep(sites, sources.source("zero", lm, forest, sites), metrics=("target",))
    )


def test_definitional_ranks_by_factual_gender_from_which_the_base_rate_of_he_cancels(facts):
    found = ranking(summarise(facts, model="m", method="exact"))
    first, second = found.sort("layer", "component", descending=True).iter_rows(named=True)
    assert (first["component"], first["head"]) == ("z", 3) and (second["component"], second["layer"]) == (
        "mlp_out",
        2,
    )
    assert first["estimate"] == pytest.approx(-planted.A, abs=1e-5)
    assert second["estimate"] == pytest.approx(0, abs=1e-5)  # each prompt's effect is ±C
    assert np.abs(facts.filter(component="mlp_out")["effect"].to_numpy()) == pytest.approx(
        planted.C, abs=1e-5
    )


def test_specificity_does_not_depend_on_which_pronoun_is_called_the_stereotype_s(facts):
    nouns = {
        e.id: (e.word, -1.0 if e.meta["gender"] == "female" else 1.0)
        for e in datasets.load("definitional", None).examples
    }
    word, side = (
        pl.col("example_id").replace_strict({id_: both[i] for id_, both in nouns.items()}) for i in (0, 1)
    )
    he_minus_she = facts.with_columns(group=word, effect=pl.col("effect") * side)

    def rms(effects):
        rows = summarise(effects, model="m", method="exact").filter(statistic="rms")
        return dict(zip(rows["component"], rows["estimate"], strict=True))

    assert rms(facts) == pytest.approx(rms(he_minus_she), rel=1e-12)
