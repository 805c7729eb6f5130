"""Inputs of a probe, whose label must not be readable in their words; every layer's probes as units."""

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from biasscope.engine.errors import UsageError
from biasscope.engine.measure import linear
from biasscope.engine.measure.linear import Items
from biasscope.engine.schemas import BANDS, PREDICTIONS, PROBES
from biasscope.engine.types import Dataset, Example, Split, Unit

TASKS = ("stereotype", "occupation", "lean")
LEVELS: dict[str, Literal["group", "pair"]] = {"stereotype": "pair", "occupation": "group", "lean": "group"}
"""Where a task's labels live: an example's filler, or an occupation; `lean` moves with the group."""
SMALL = 3_000_000
"""Numbers in all layers together below which starting processes would take longer than probing."""


@dataclass(frozen=True)
class Input:
    """One text with its label."""

    id: str
    example_id: str
    group: str
    words: str
    term: str
    """The word that the text is about."""
    label: int
    kind: str
    """What the control's coin is thrown for: the filler, or the group."""


def default(dataset: Dataset) -> str:
    """`occupation` where there is a covariate, else `stereotype`."""
    return "occupation" if dataset.covariate else "stereotype"


def check(task: str, dataset: Dataset) -> None:
    """UsageError where the dataset lacks what the task is about, or its words give the label: then any probe
    would be right.
    """
    facts = sum("gender" in e.meta for e in dataset.examples)
    if task == "stereotype" and facts:
        raise UsageError(
            f"--task stereotype is not defined for {dataset.name}: {facts} of {len(dataset.examples)} "
            "prompts state the gender as a fact,\n"
            "so that the label is the pronoun itself, or whether it fits its noun: grammar, no stereotype;\n"
            "take --task lean, or another dataset such as stereoset_gender"
        )
    _refuse_undefined(task, dataset)


def _refuse_undefined(task: str, dataset: Dataset) -> None:
    if (task == "occupation") != bool(dataset.covariates) and task != "lean":
        raise UsageError(
            f"--task {task} is not defined for {dataset.name}; take --task {default(dataset)} or lean"
        )


def inputs(
    task: str, dataset: Dataset, negatives: str, target: Mapping[str, float] | None = None
) -> tuple[list[Input], dict[str, str]]:
    """The inputs of a task, and example id → why an example has none.

    stereotype: the prefix with its filler, 1 stereotype, 0 the anti-stereotype's filler (or the unrelated
    one's, by `negatives`). occupation: the prompt, 1 where the group's covariate is above 50 %, or above the
    median of groups where it is no per cent. lean: the prompt, 1 where the model's own `target` is above 0.
    Examples with an input that another example labels otherwise are dropped. UsageError where the dataset
    lacks what the task is about.
    """
    above = _above(dataset)
    _refuse_undefined(task, dataset)
    candidates: list[Input] = []
    lost: dict[str, str] = {}
    for e in dataset.examples:
        negative = e.anti if negatives == "anti" else e.unrelated
        if task == "stereotype" and (e.flaw or negative is None):
            lost[e.id] = e.flaw or "no unrelated filler"
        elif task == "stereotype":
            sides = e.sides[0], e.sides[1] if negatives == "anti" else e.sides[2]
            candidates += [_filled(e, label, *side) for label, side in zip((1, 0), sides, strict=True)]
        elif task == "occupation" and e.group not in above:
            lost[e.id] = f"its {dataset.noun} has no {dataset.covariates[0].name}"
        elif task == "occupation":
            candidates.append(Input(e.id, e.id, e.group, e.prompt, e.word, int(above[e.group]), e.group))
        elif target is not None and np.isfinite(target.get(e.id, np.nan)):
            candidates.append(Input(e.id, e.id, e.group, e.prompt, e.word, int(target[e.id] > 0), e.group))
        else:
            lost[e.id] = "no target: the model cannot be said to lean"
    labels: dict[str, set[int]] = defaultdict(set)
    for i in candidates:
        labels[i.words].add(i.label)
    lost |= {
        i.example_id: "identical inputs with different labels" for i in candidates if len(labels[i.words]) > 1
    }
    return [i for i in candidates if i.example_id not in lost], lost


def _above(dataset: Dataset) -> dict[str, bool]:
    """Group → whether its covariate is high; empty without one."""
    if not dataset.covariates:
        return {}
    values = dataset.covariates[0].values
    middle = 50.0 if dataset.covariates[0].unit == "%" else float(np.median(list(values.values())))
    return {group: value > middle for group, value in values.items()}


def _filled(e: Example, label: int, prompt: str, filler: str) -> Input:
    name, words = f"{e.id}.{'stereo' if label else 'other'}", filler.strip().lower()
    return Input(name, e.id, e.group, prompt + filler, e.word, label, words)


def items(chosen: Sequence[Input]) -> Items:
    """The inputs as numbers."""

    def numbered(values: list[str]) -> np.ndarray:
        return np.unique(values, return_inverse=True)[1]

    names = ("group", "example_id", "words", "kind")
    columns = (numbered([getattr(i, name) for i in chosen]) for name in names)
    return Items(np.array([i.label for i in chosen]), *columns)


@contextmanager
def workers(numbers: int) -> Iterator[Executor | None]:
    """Processes that probe side by side, each on one core; None where there is too little to do."""
    if numbers < SMALL:
        yield None
        return
    # spawned, not forked: torch's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context, initializer=_single_threaded) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _single_threaded() -> None:
    threadpool_limits(1)


def units(
    layers: Mapping[int, Any],
    known: Iterable[str],
    chosen: Sequence[Input],
    split: Split,
    pool: Executor | None,
) -> list[Unit]:
    """A unit per layer, those not `known` already at work in the pool."""
    known, numbers = set(known), items(chosen)

    def unit(layer: int, x: Any) -> Unit:
        name = f"probe-L{layer:03}"
        future = None if pool is None or name in known else pool.submit(linear.layer, x, numbers, split)

        def compute() -> dict[str, pl.DataFrame]:
            if future is not None:
                return _tables(layer, chosen, numbers, split.seed, future.result())
            with threadpool_limits(1):  # the matrices are small: threads would wait for each other
                return _tables(layer, chosen, numbers, split.seed, linear.layer(x, numbers, split))

        return Unit(name, compute)

    return [unit(layer, x) for layer, x in layers.items()]


def bag(tokens: Sequence[Sequence[int]], chosen: Sequence[Input], split: Split) -> Unit:
    """The unit of the bag-of-tokens baseline: which tokens stand in the input, in any order."""
    from scipy.sparse import csr_array

    numbers = items(chosen)

    def compute() -> dict[str, pl.DataFrame]:
        columns = {token: i for i, token in enumerate(sorted({t for ids in tokens for t in ids}))}
        rows = [(i, columns[t]) for i, ids in enumerate(tokens) for t in set(ids)]
        at, of = np.array(rows).T
        x = csr_array((np.ones(len(rows)), (at, of)), shape=(len(tokens), len(columns)))
        held, band, _ = linear.layer(x, numbers, split, controls=False)
        return _tables(None, chosen, numbers, split.seed, ({"bag": held["grouped"]}, band, None))

    return Unit("bag", compute)


def _tables(
    layer: int | None, chosen: Sequence[Input], items: Items, seed: int, results: tuple[Any, Any, Any]
) -> dict[str, pl.DataFrame]:
    """PREDICTIONS, BANDS and PROBES of one layer."""
    held, band, fitted = results
    frames = []
    for name, outcome in held.items():
        label = linear.coins(items, seed) if name == "control" else items.label
        columns: dict[str, Any] = {key: [getattr(i, key) for i in chosen] for key in ("example_id", "group")}
        columns |= {"item_id": [i.id for i in chosen], "layer": layer, "probe": name}
        columns |= {"fold": outcome.fold, "label": label, "probability": outcome.probability}
        frame = pl.DataFrame(columns, schema_overrides=PREDICTIONS).select(PREDICTIONS.names())
        frames.append(frame.filter(pl.col("fold") >= 0))
    bands = pl.DataFrame(
        {"layer": [layer] * len(band), "shuffle": list(range(len(band))), "accuracy": band}, schema=BANDS
    )
    tables = {"predictions": pl.concat(frames), "bands": bands}
    if fitted is not None:
        values = {
            name: [getattr(fitted, name).astype(np.float64).tolist()] for name in ("weight", "mean", "scale")
        }
        tables["probes"] = pl.DataFrame(
            {"layer": [layer], "c": [fitted.c], "bias": [fitted.bias], **values}, schema=PROBES
        )
    return tables


def matrices(
    frames: Iterable[pl.DataFrame], rows: Sequence[tuple[str, int]], ids: Sequence[str]
) -> dict[int, np.ndarray]:
    """Row number → activations, [text d], in the order of the ids; rows: component and layer of each.

    Heads follow each other. NaN where a text is not in the table.
    """
    place = {id_: i for i, id_ in enumerate(ids)}
    by_row: dict[int, np.ndarray] = {}
    for frame in frames:
        for number, (component, layer) in enumerate(rows):
            part = frame.filter(component=component, layer=layer)
            heads = part["head"].unique().sort()
            for head in heads:
                of_head = part.filter(pl.col("head").eq_missing(head))
                width = of_head["values"].list.len()[0]
                values = of_head["values"].list.to_array(width).to_numpy()
                start = 0 if head is None else int(head) * width
                if number not in by_row:
                    by_row[number] = np.full((len(ids), width * len(heads)), np.nan, np.float32)
                by_row[number][[place[id_] for id_ in of_head["example_id"]], start : start + width] = values
    return by_row
