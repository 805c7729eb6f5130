"""Probes on arrays: what leaks is kept apart, shuffled labels are at chance, planted ones are found,
scikit-learn is the oracle.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biasscope.engine.data import datasets
from biasscope.engine.errors import DataError
from biasscope.engine.measure import directions, exact, linear, probes, sources
from biasscope.engine.model import exactness, planted, tokens, weights
from biasscope.engine.model.loading import boot
from biasscope.engine.statistics import probes as probe_statistics
from biasscope.engine.types import Dataset, Example, Site, Split
from tests.support import slow

RNG = np.random.default_rng


def pairs(groups: int = 20, each: int = 6) -> linear.Items:
    """Two inputs an example, one of either label; every example has a filler of its own for each label."""
    n = groups * each
    label, pair = np.tile([1, 0], n), np.repeat(np.arange(n), 2)
    return linear.Items(
        label, np.repeat(np.arange(groups), 2 * each), pair, np.arange(2 * n), np.arange(2 * n) % 30
    )


def accuracy(held: linear.Held, label) -> float:
    known = np.isfinite(held.probability)
    return float(((held.probability[known] > 0.5) == label[known]).mean())


def test_no_group_is_on_both_sides_and_every_input_is_held_out_once():
    items = pairs()
    found = linear.folds(items, Split("kfold"))
    assert sorted(np.concatenate([test for _, test in found])) == list(range(len(items.label)))
    for train, test in [*found, *linear.folds(items, Split("holdout"))]:
        assert not set(items.group[train]) & set(items.group[test])
    ((train, test),) = linear.folds(items, Split("holdout"))
    assert len(test) == pytest.approx(0.2 * len(items.label), abs=12)
    assert [t.tolist() for _, t in found] != [
        t.tolist() for _, t in linear.folds(items, Split("kfold", seed=1))
    ]


def test_held_out_predictions_equal_scikit_learn_s_on_raw_arrays():
    items, x = pairs(), RNG(0).normal(size=(240, 12))
    x[:, 0] += items.label
    splits = linear.folds(items, Split("kfold"))
    held = linear.held_out(x, items.label, items.group, splits)
    for i, (train, test) in enumerate(splits):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=held.c[i], class_weight="balanced", max_iter=1000)
        )
        np.testing.assert_allclose(
            held.probability[test],
            model.fit(x[train], items.label[train]).predict_proba(x[test])[:, 1],
            atol=1e-6,
        )
    values = list(probe_statistics.values_of(items.label, held.probability))
    guess = held.probability > 0.5
    expected = [
        (guess == items.label).mean(),
        balanced_accuracy_score(items.label, guess),
        roc_auc_score(items.label, held.probability),
    ]
    expected.append(log_loss(items.label, held.probability))
    assert [v.mean() for v in values] == pytest.approx(expected)


def test_auc_with_ties_and_unequal_classes_equals_scikit_learn_s_and_its_error_the_simulated_one():
    rng = RNG(0)
    label = (rng.random(90) < 0.2).astype(int)
    p = np.round(rng.random(90) * 0.6 + 0.3 * label, 1)
    assert list(probe_statistics.values_of(label, p))[2].mean() == pytest.approx(roc_auc_score(label, p))
    areas, errors = [], []
    for _ in range(400):
        label = np.repeat([0, 1], [60, 30])
        scores = rng.normal(size=90) + label
        values = list(probe_statistics.values_of(label, scores))[2]
        areas.append(values.mean())
        errors.append(values.std() / np.sqrt(90))
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)


def test_c_is_chosen_without_a_look_at_the_held_out_group():
    items, x = pairs(), RNG(0).normal(size=(240, 30))
    splits = linear.folds(items, Split("kfold"))
    train, test = splits[0]
    spoiled = x.copy()
    spoiled[test] = 1e3 * RNG(1).normal(size=(len(test), 30))
    assert linear.choose(x, items.label, items.group, train) == linear.choose(
        spoiled, items.label, items.group, train
    )
    assert (
        linear.held_out(x, items.label, items.group, splits[:1]).c
        == linear.held_out(spoiled, items.label, items.group, splits[:1]).c
    )


def test_twins_on_both_sides_leak_without_groups_and_not_with_them():
    """A label that is a coin per group, and inputs that name the group: only groups on both sides can be
    predicted.
    """
    rng = RNG(0)
    group = np.repeat(np.arange(40), 6)
    label = (rng.permutation(40) % 2)[group]
    x = rng.normal(size=(40, 60))[group] + 0.3 * rng.normal(size=(240, 60))
    items = linear.Items(label, group, np.arange(240), np.arange(240), group)
    found, band, _ = linear.layer(x, items, Split("kfold", "group"))
    assert abs(accuracy(found["within"], label) - 0.5) >= 0.1
    frame = _frame(found["grouped"], items)
    summary = probe_statistics.summarise(
        frame, pl.DataFrame({"layer": [0], "shuffle": [0], "accuracy": [0.5]}), **LABELS
    )
    row = summary.filter(method="probe", statistic="accuracy").row(0, named=True)
    assert row["ci_low"] <= 0.5 <= row["ci_high"]
    assert band.min() < 0.5 < band.max()


LABELS = {
    "labels": {"model": "m", "dataset": "d", "metric": "occupation"},
    "place": {"component": "resid", "position": "last"},
}


def _frame(held, items, probe="grouped", label=None, layer=0) -> pl.DataFrame:
    n = len(items.label)
    columns = {
        "item_id": [f"i{i:04d}" for i in range(n)],
        "example_id": [f"e{i}" for i in items.pair],
        "layer": [layer] * n,
    }
    columns |= {
        "group": [f"g{g:02d}" for g in items.group],
        "probe": [probe] * n,
        "fold": held.fold,
        "probability": held.probability,
    }
    return pl.DataFrame({**columns, "label": items.label if label is None else label})


@pytest.mark.parametrize("level", ["pair", "group"])
def test_shuffled_labels_are_at_chance_and_true_ones_above_them(level):
    rng, items = RNG(0), pairs()
    if level == "group":
        label = (rng.permutation(20) % 2)[items.group]
        items = linear.Items(label, items.group, items.pair, items.text, items.group)
    x = rng.normal(size=(240, 20))
    x[:, 3] += 2.5 * items.label
    found, band, fitted = linear.layer(x, items, Split("kfold", level))
    assert np.median(band) == pytest.approx(0.5, abs=0.06)
    assert accuracy(found["grouped"], items.label) > max(0.85, band.max())
    assert abs(linear.direction(fitted.weight, fitted.scale)[3]) > 0.8


def test_labels_are_shuffled_where_they_live():
    items = pairs()
    for moved in linear.shuffled(items, Split(level="pair")):
        assert (np.bincount(items.pair, moved) == 1).all()  # each example still has one of either
    label = (items.group % 2).astype(int)
    one = linear.Items(label, items.group, items.pair, items.text, items.kind)
    for moved in linear.shuffled(one, Split(level="group")):
        assert all(len(set(moved[items.group == g])) == 1 for g in range(20)) and moved.sum() == label.sum()


def test_the_control_gives_each_kind_one_coin_as_often_heads_as_tails():
    items = pairs()
    coins = linear.coins(items, 0)
    assert all(len(set(coins[items.kind == k])) == 1 for k in range(30))
    assert sum(coins[items.kind == k][0] for k in range(30)) == 15
    assert (coins != linear.coins(items, 1)).any()


def test_within_groups_no_text_is_on_both_sides_and_every_group_is():
    text = np.arange(240) // 2  # every text twice
    items = linear.Items(np.tile([0, 1], 120), np.repeat(np.arange(10), 24), np.arange(240), text, text)
    for train, test in linear.within(items, 0):
        assert not set(text[train]) & set(text[test])
        assert set(items.group[train]) == set(items.group[test]) == set(range(10))


def test_selectivity_by_hand_is_high_for_a_real_property_and_low_for_a_word_list():
    # 3 inputs: right on the labels 1, 1, 0; right on the coins 1, 0, 0: mean difference 1/3
    held = linear.Held(np.array([0.9, 0.2, 0.3]), np.zeros(3, int), (1.0,))
    items = linear.Items(np.array([1, 0, 1]), np.arange(3), np.arange(3), np.arange(3), np.arange(3))
    control = linear.Held(np.array([0.9, 0.2, 0.3]), np.zeros(3, int), (1.0,))
    both = pl.concat(
        [
            _frame(held, items, "grouped"),
            _frame(held, items, "within"),
            _frame(control, items, "control", np.array([1, 1, 1])),
        ]
    )
    bands = pl.DataFrame({"layer": [0], "shuffle": [0], "accuracy": [0.5]})
    found = probe_statistics.summarise(both, bands, **LABELS)
    assert found.filter(statistic="selectivity")["estimate"].item() == pytest.approx(2 / 3 - 1 / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": np.repeat([0, 1, 2, 3], 60)}, "4 groups are too few for 5 folds"),
        ({"label": np.ones(240, int)}, "all 240 inputs have label 1"),
    ],
)
def test_what_cannot_be_split_is_refused(change, message):
    items = pairs()
    with pytest.raises(DataError, match=message):
        linear.folds(linear.Items(**{**items.__dict__, **change}), Split("kfold"))


def test_activations_that_are_not_finite_are_refused_with_their_number():
    x = RNG(0).normal(size=(240, 4))
    x[[3, 7], 1] = np.nan
    with pytest.raises(DataError, match="2 of 240 activations are not finite"):
        linear.layer(x, pairs(), Split("kfold", "pair"))


# Tasks


def stereoset(*rows) -> Dataset:
    examples = tuple(
        Example(f"e{i}", "s", "race", g, p, s, a, unrelated=u) for i, (g, p, s, a, u) in enumerate(rows)
    )
    return Dataset("stereoset_x", examples, "0", len(rows))


def test_identical_inputs_with_different_labels_drop_both_examples_and_are_counted():
    data = stereoset(
        ("a", "They are", " kind", " cruel", " blue"),
        ("b", "They are", " cruel", " kind", " red"),
        ("c", "He is", " x", " y", " z"),
    )
    found, lost = probes.inputs("stereotype", data, "anti")
    assert [i.example_id for i in found] == ["e2", "e2"] and set(lost) == {"e0", "e1"}
    assert {i.words: i.label for i in found} == {"He is x": 1, "He is y": 0}
    neutral, lost = probes.inputs("stereotype", data, "unrelated")
    assert {i.words for i in neutral if i.label == 0} == {
        "They are blue",
        "They are red",
        "He is z",
    } and not lost


def test_occupation_is_the_majority_and_lean_is_the_model_s_own_preference():
    data = datasets.load("occupations", Path(), limit=60)
    found, _ = probes.inputs("occupation", data, "anti")
    labels = {i.group: i.label for i in found}
    assert (labels["nurse"], labels["carpenter"]) == (0, 1)
    target = {e.id: (-1.0 if i % 2 else 2.0) for i, e in enumerate(data.examples)}
    leans, lost = probes.inputs("lean", data, "anti", target | {data.examples[0].id: float("nan")})
    assert [i.label for i in leans[:3]] == [0, 1, 0] and set(lost) == {data.examples[0].id}


# What removing a direction does


def test_removing_the_planted_direction_takes_away_exactly_the_planted_slope(tmp_path, monkeypatch):
    monkeypatch.setattr(planted, "NOISE", 0.0)
    model, tokenizer = planted.build("single")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = exactness.check_packing(boot(weights.Weights("single", tmp_path, None, "0" * 64), device="cpu"))
    data = datasets.load("occupations", tmp_path, limit=60)
    forest = tokens.forest(lm, data.examples)
    first = planted.SITES["first"]
    written = (
        model.transformer.h[first.layer].attn.c_proj.weight[first.head * planted.D_HEAD].detach().numpy()
    )
    gender = written / np.linalg.norm(written)
    vectors = np.vstack([gender, directions.drawn(64, 2, 0)])
    removal = directions.Removal("x", Site(2, "resid_pre"), vectors, np.zeros(64))
    found = pl.concat(
        [u.compute()["effects"] for u in directions.units(lm, forest, [removal], batch=300)]
    ).filter(metric="target")
    known = planted.words().occupations
    own = found.filter(source="probe")
    np.testing.assert_allclose(own["effect"], [-planted.A * known[g]["s"] for g in own["group"]], atol=2e-5)
    by_site = exact.sweep(
        lm, forest, sources.Sweep([planted.SITES["first"]], sources.zero(lm), metrics=("target",))
    ).sort("example_id")
    np.testing.assert_allclose(own.sort("example_id")["effect"], by_site["effect"], atol=2e-5)
    assert found.filter(source="random-00")["effect"].abs().max() < 0.5 * own["effect"].abs().max()


@pytest.mark.parametrize("site", [Site(2, "resid_pre"), Site(3, "resid_post")], ids=str)
def test_a_direction_is_removed_about_the_centre_and_not_at_the_first_position(tiny, examples, site):
    lm = tiny("llama")
    forest = tokens.forest(lm, examples[:3])
    vectors, centre = directions.drawn(48, 0, 0), RNG(0).normal(size=48)
    removal = directions.Removal("x", site, np.vstack([vectors[:1], vectors]), centre)
    found = pl.concat([u.compute()["effects"] for u in directions.units(lm, forest, [removal])]).filter(
        metric="target", source="probe"
    )
    v, c = (torch.tensor(a, dtype=torch.float32) for a in (vectors[0], centre))

    def without(act, hook):
        act = act.clone()
        act[:, 1:] -= ((act[:, 1:] - c) @ v)[..., None] * v
        return act

    by_hand = {e.id: slow.scores(lm, e, [(site.hook, without)])["target"] for e in examples[:3]}
    assert dict(found.select("example_id", "value").rows()) == pytest.approx(by_hand, abs=5e-4)
