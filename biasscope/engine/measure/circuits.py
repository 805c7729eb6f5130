"""Sets of sites: what a model keeps with only some of them, or loses without; exact, several sets a pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import polars as pl

from biasscope.engine.measure.effects import defined, effects, soundly
from biasscope.engine.measure.sources import Source
from biasscope.engine.model import forward, loading
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.types import NO_SITE, SET, Site, Unit

RANDOM = 20
METRIC = "target"
_SPLIT, _RANDOM = 21, 22


@dataclass(frozen=True)
class Point:
    """A set of sites that are replaced together."""

    name: str
    replaced: frozenset[Site]


def halves(clusters: Mapping[str, int], seed: int) -> tuple[set[str], set[str]]:
    """Two seeded halves of the groups, whole clusters in either: one chooses sites, the other reports.

    `clusters`: group → its cluster's number.
    """
    numbers = sorted(set(clusters.values()))
    order = np.random.default_rng((seed, _SPLIT)).permutation(len(numbers))
    first = {numbers[i] for i in order[: len(numbers) // 2]}
    chosen = {group for group, number in clusters.items() if number in first}
    return chosen, set(clusters) - chosen


def none(sites: Sequence[Site]) -> Point:
    """The set of no kept site; its rows hold the whole model, as baseline, as well."""
    return Point(NO_SITE, frozenset(sites))


def points(ranked: Sequence[Site], sizes: Sequence[int], seed: int) -> list[Point]:
    """The first k sites kept alone (`keep-k`) and removed (`remove-k`), and 20 random sets of each size."""
    everything = frozenset(ranked)
    rng = np.random.default_rng((seed, _RANDOM))
    sets = list[Point]()
    for k in sizes:
        best = frozenset(ranked[:k])
        sets += [Point(f"keep-{k}", everything - best), Point(f"remove-{k}", best)]
        for i in range(RANDOM):
            drawn = frozenset(ranked[j] for j in rng.permutation(len(ranked))[:k])
            sets += [
                Point(f"keep-{k}-random-{i:02d}", everything - drawn),
                Point(f"remove-{k}-random-{i:02d}", drawn),
            ]
    return sets


def units(
    lm: LM, forest: Forest, wanted: Sequence[Point], source: Source, batch: int | None = None
) -> list[Unit]:
    """EFFECTS of the sets (component `set`, position: its name) by row block and as many sets as a pass."""
    size = loading.batch_size(lm, batch)
    start = lru_cache(maxsize=1)(partial(forward.clean, lm))

    def compute(sets: Sequence[Point], block: Block) -> dict[str, pl.DataFrame]:
        clean = start(block)
        replaced = sorted({site for point in sets for site in point.replaced})
        puts = {site: source.put(block, site) for site in replaced}
        edits = [{site: put for site, put in puts.items() if site in point.replaced} for point in sets]
        before = defined(METRIC, clean.readouts)
        after = METRICS[METRIC].fn(forward.edited(lm, block, clean, edits)).cpu().numpy()
        places = [(SET, point.name) for point in sets]
        return {"effects": effects(forest, block, source.name, places, {METRIC: before}, {METRIC: after})}

    pieces = []
    for number, block in enumerate(forest.blocks):
        copies = max(1, size // block.ids.numel())
        for first in range(0, len(wanted), copies):
            some = partial(compute, wanted[first : first + copies])
            pieces.append(Unit(f"B{number:05}-S{first:05}", partial(soundly, some, block)))
    return pieces


def greedy(
    sites: Sequence[Site], keeps: Callable[[Sequence[Site]], float | None], target: float
) -> list[Site]:
    """What is left of the sites, strongest first, when the weakest go as long as f is at least the target.

    They are left out in chunks, which halve where a chunk is needed; a single site that is needed stays.
    `keeps`: f with only these sites kept. No site of the result can be left out in this order; it need not be
    the smallest set there is.
    """
    open_, needed = list(sites), list[Site]()
    chunk = max(1, len(open_) // 2)
    while open_:
        chunk = min(chunk, len(open_))
        candidate = open_[: len(open_) - chunk] + needed
        f = keeps(candidate) if candidate else None
        if f is not None and f >= target:
            open_ = open_[: len(open_) - chunk]
        elif chunk > 1:
            chunk //= 2
        else:
            needed.insert(0, open_.pop())
    return needed
