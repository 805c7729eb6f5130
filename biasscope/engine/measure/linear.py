"""Linear probes on arrays: held-out predictions, what could leak kept apart by groups. No model, no files.

A probe is logistic regression with class weights, its features standardised and its C chosen inside the
training folds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, GroupShuffleSplit
from sklearn.preprocessing import StandardScaler

from biasscope.engine.errors import DataError
from biasscope.engine.types import Split

Array = NDArray[Any]
GRID = (1e-4, 1e-3, 1e-2, 1e-1)
"""Values of C, from strong regularisation to weak; activations have about as many dimensions as texts."""
FOLDS, INNER, SHUFFLES, HELD_OUT = 5, 3, 20, 0.2
_FOLD, _WITHIN, _COIN, _SHUFFLE = 11, 12, 13, 14


@dataclass(frozen=True)
class Items:
    """What is probed: one input each."""

    label: Array
    """0 or 1."""
    group: Array
    """The cluster's number: term or occupation."""
    pair: Array
    """Inputs of one example share it."""
    text: Array
    """The number of the distinct input."""
    kind: Array
    """What the control's coin is thrown for: the number of the filler, or the group."""


@dataclass(frozen=True)
class Held:
    """Held-out predictions of one probe."""

    probability: Array
    """Of label 1; NaN for inputs that were never held out."""
    fold: Array
    """−1 for those."""
    c: tuple[float, ...]
    """The C of each fold."""


def folds(items: Items, split: Split) -> list[tuple[Array, Array]]:
    """Training and held-out inputs, no group in both. DataError: too few groups, one label in training."""
    groups = len(np.unique(items.group))
    if groups < FOLDS:
        raise DataError(
            f"{groups} groups are too few for {FOLDS} folds; probe a dataset with more terms or occupations"
        )
    if len(np.unique(items.label)) < 2:
        raise DataError(
            f"all {len(items.label)} inputs have label {items.label[0]}: there is nothing to tell apart"
        )
    state = int(np.random.default_rng((split.seed, _FOLD)).integers(2**31))
    chosen = (
        GroupKFold(FOLDS, shuffle=True, random_state=state)
        if split.kind == "kfold"
        else GroupShuffleSplit(1, test_size=HELD_OUT, random_state=state)
    )
    splits = list(chosen.split(items.label, items.label, items.group))
    for train, test in splits:
        assert not set(items.group[train]) & set(items.group[test])  # noqa: S101  what a probe stands or falls with
        if len(np.unique(items.label[train])) < 2:
            raise DataError("a fold has one label only to learn from; probe more examples")
    return splits


def within(items: Items, seed: int) -> list[tuple[Array, Array]]:
    """Folds with every group on both sides (where it has two texts) and no identical input on both."""
    rng = np.random.default_rng((seed, _WITHIN))
    fold_of_text = np.zeros(items.text.max() + 1, int)
    for group in np.unique(items.group):
        texts = rng.permutation(np.unique(items.text[items.group == group]))
        fold_of_text[texts] = (np.arange(len(texts)) + rng.integers(FOLDS)) % FOLDS
    fold = fold_of_text[items.text]
    return [
        (np.flatnonzero(fold != i), np.flatnonzero(fold == i))
        for i in range(FOLDS)
        if (fold == i).any() and (fold != i).any()
    ]


def coins(items: Items, seed: int) -> Array:
    """The control's labels (Hewitt & Liang 2019): a seeded coin for each kind, as often heads as tails."""
    kinds = np.unique(items.kind)
    heads = np.random.default_rng((seed, _COIN)).permutation(np.arange(len(kinds)) % 2)
    return heads[np.searchsorted(kinds, items.kind)]


def shuffled(items: Items, split: Split) -> Iterator[Array]:
    """Labels moved at the level where they live: between single groups, within pairs, of whole groups."""
    rng = np.random.default_rng((split.seed, _SHUFFLE))
    names = np.unique(items.group)
    for _ in range(SHUFFLES):
        if split.level == "pair":
            flip = rng.integers(0, 2, items.pair.max() + 1).astype(bool)
            yield np.where(flip[items.pair], 1 - items.label, items.label)
            continue
        moved = np.empty_like(items.label)
        for mine, other in zip(names, rng.permutation(names), strict=True):
            here = np.flatnonzero(items.group == mine)
            moved[here] = np.resize(items.label[items.group == other], len(here))
        yield moved


def _model(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, class_weight="balanced", max_iter=1000)


def _scaled(x: Any, train: Array, test: Array) -> tuple[Any, Any]:
    """Training and test inputs, standardised by the training inputs; counts (sparse) are only scaled."""
    scaler = StandardScaler(with_mean=not hasattr(x, "tocsr")).fit(x[train])
    return scaler.transform(x[train]), scaler.transform(x[test])


def choose(x: Any, label: Array, group: Array, rows: Array) -> float:
    """The C with the least log-loss on groups held out within the rows."""
    inner = GroupKFold(min(INNER, len(np.unique(group[rows]))))
    losses = np.zeros(len(GRID))
    for train, test in inner.split(rows, label[rows], group[rows]):
        if len(np.unique(label[rows[train]])) < 2:
            continue
        training, held = _scaled(x, rows[train], rows[test])
        for i, c in enumerate(GRID):
            fitted = _model(c).fit(training, label[rows[train]])
            losses[i] += log_loss(label[rows[test]], fitted.predict_proba(held)[:, 1], labels=[0, 1]) * len(
                test
            )
    return GRID[int(np.argmin(losses))]


def held_out(
    x: Any,
    label: Array,
    group: Array,
    splits: Sequence[tuple[Array, Array]],
    c: Sequence[float] | None = None,
) -> Held:
    """The predictions for every held-out input; `c`: as chosen before, else chosen in training inputs."""
    probability, fold, used = np.full(len(label), np.nan), np.full(len(label), -1), []
    for i, (train, test) in enumerate(splits):
        used.append(choose(x, label, group, train) if c is None else c[i])
        training, held = _scaled(x, train, test)
        if len(np.unique(label[train])) == 2:
            probability[test] = _model(used[-1]).fit(training, label[train]).predict_proba(held)[:, 1]
        else:
            probability[test] = label[train][0]
        fold[test] = i
    return Held(probability, fold, tuple(used))


@dataclass(frozen=True)
class Fitted:
    """A probe fitted to all inputs: logit = weight · (x − mean) / scale + bias."""

    weight: Array
    bias: float
    mean: Array
    scale: Array
    c: float


def direction(weight: Array, scale: Array) -> Array:
    """The unit vector in activation space along which a probe's logit grows fastest."""
    raw = weight / scale
    return raw / np.linalg.norm(raw)


def fitted(x: Array, items: Items) -> Fitted:
    """The probe fitted to all inputs, its C chosen by grouped folds."""
    everything = np.arange(len(items.label))
    c = choose(x, items.label, items.group, everything)
    scaler = StandardScaler().fit(x)
    model = _model(c).fit(scaler.transform(x), items.label)
    return Fitted(model.coef_[0].astype(float), float(model.intercept_[0]), scaler.mean_, scaler.scale_, c)


def layer(
    x: Any, items: Items, split: Split, *, controls: bool = True
) -> tuple[dict[str, Held], Array, Fitted | None]:
    """All of one layer's activations: held-out predictions by name, accuracies of shuffles, the probe.

    `grouped`: the probe itself; `within`, `control`: on the within-group split, with the labels and with the
    control's coins. The shuffles reuse the C of the grouped probe. DataError where an activation is NaN or
    infinite.
    """
    dense = not hasattr(x, "tocsr")
    if dense and not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(1).sum())
        raise DataError(f"{bad} of {len(x)} activations are not finite")
    splits = folds(items, split)
    held = {"grouped": held_out(x, items.label, items.group, splits)}
    if not controls:
        return held, np.zeros(0), None
    inner = within(items, split.seed)
    held["within"] = held_out(x, items.label, items.text, inner)
    held["control"] = held_out(x, coins(items, split.seed), items.text, inner)
    band = []
    for labels in shuffled(items, split):
        guess = held_out(x, labels, items.group, splits, held["grouped"].c).probability
        known = np.isfinite(guess)
        band.append(float(((guess[known] > 0.5) == labels[known]).mean()))
    return held, np.array(band), fitted(x, items)
