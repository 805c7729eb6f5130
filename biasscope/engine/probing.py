"""Probes of every layer as units of a run, several layers at a time, and what is kept of them."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from biasscope.engine import probes
from biasscope.engine.probes import Items, Split
from biasscope.engine.tasks import Input
from biasscope.engine.types import BANDS, PREDICTIONS, PROBES, Unit

SMALL = 3_000_000
"""Numbers in all layers together below which starting processes would take longer than probing."""


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
    items: Items,
    split: Split,
    level: str,
    seed: int,
    pool: Executor | None,
) -> list[Unit]:
    """A unit per layer, those not `known` already at work in the pool."""
    known = set(known)

    def unit(layer: int, x: Any) -> Unit:
        name = f"probe-L{layer:03}"
        future = None if pool is None or name in known else pool.submit(probes.layer, x, items, split, level, seed)

        def compute() -> dict[str, pl.DataFrame]:
            if future is not None:
                return _tables(layer, chosen, items, seed, future.result())
            with threadpool_limits(1):  # the matrices are small: threads would wait for each other
                return _tables(layer, chosen, items, seed, probes.layer(x, items, split, level, seed))

        return Unit(name, compute)

    return [unit(layer, x) for layer, x in layers.items()]


def bag(tokens: Sequence[Sequence[int]], chosen: Sequence[Input], items: Items, split: Split, level: str, seed: int) -> Unit:
    """The unit of the bag-of-tokens baseline: which tokens stand in the input, in any order."""
    from scipy.sparse import csr_array

    def compute() -> dict[str, pl.DataFrame]:
        columns = {token: i for i, token in enumerate(sorted({t for ids in tokens for t in ids}))}
        rows = [(i, columns[t]) for i, ids in enumerate(tokens) for t in set(ids)]
        at, of = np.array(rows).T
        x = csr_array((np.ones(len(rows)), (at, of)), shape=(len(tokens), len(columns)))
        held, band, _ = probes.layer(x, items, split, level, seed, controls=False)
        return _tables(None, chosen, items, seed, ({"bag": held["grouped"]}, band, None))

    return Unit("bag", compute)


def _tables(layer: int | None, chosen: Sequence[Input], items: Items, seed: int, found: tuple[Any, Any, Any]) -> dict[str, pl.DataFrame]:
    """PREDICTIONS, BANDS and PROBES of one layer."""
    held, band, fitted = found
    frames = []
    for name, one in held.items():
        label = probes.coins(items, seed) if name == "control" else items.label
        columns: dict[str, Any] = {name: [getattr(i, name) for i in chosen] for name in ("example_id", "group")}
        columns |= {"item_id": [i.id for i in chosen], "layer": [layer] * len(chosen), "probe": [name] * len(chosen)}
        columns |= {"fold": one.fold, "label": label, "probability": one.probability}
        frame = pl.DataFrame(columns, schema_overrides=PREDICTIONS).select(PREDICTIONS.names())
        frames.append(frame.filter(pl.col("fold") >= 0))
    bands = pl.DataFrame({"layer": [layer] * len(band), "shuffle": list(range(len(band))), "accuracy": band}, schema=BANDS)
    tables = {"predictions": pl.concat(frames), "bands": bands}
    if fitted is not None:
        values = {name: [getattr(fitted, name).astype(np.float64).tolist()] for name in ("weight", "mean", "scale")}
        tables["probes"] = pl.DataFrame({"layer": [layer], "c": [fitted.c], "bias": [fitted.bias], **values}, schema=PROBES)
    return tables


def matrices(frames: Iterable[pl.DataFrame], rows: Sequence[tuple[str, int]], ids: Sequence[str]) -> dict[int, np.ndarray]:
    """Row number → the activations there, [text d], in the order of the ids; `rows`: component and layer of each.

    Heads follow each other. NaN where a text is not in the table."""
    place = {id_: i for i, id_ in enumerate(ids)}
    found: dict[int, np.ndarray] = {}
    for frame in frames:
        for number, (component, layer) in enumerate(rows):
            part = frame.filter(component=component, layer=layer)
            heads = part["head"].unique().sort()
            for head in heads:
                one = part.filter(pl.col("head").eq_missing(head))
                values = np.array(one["values"].to_list(), np.float32)
                width = values.shape[1]
                start = 0 if head is None else int(head) * width
                if number not in found:
                    found[number] = np.full((len(ids), width * len(heads)), np.nan, np.float32)
                found[number][[place[id_] for id_ in one["example_id"]], start : start + width] = values
    return found
