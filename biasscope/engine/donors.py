"""Which prefix gives its activations to which, for the source `resample`, and these activations.

A node is named by its prefix, the ids from the first token to its own, and not by where it was packed: exact effects and gradient
estimates, whose forests share nodes differently, take the same donors.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from biasscope.engine import forward
from biasscope.engine.models import LM
from biasscope.engine.packing import ROWS, Block, Scored, rows
from biasscope.engine.tokens import Forest
from biasscope.engine.types import Site

ATTEMPTS = 20
"""How often a donor is drawn, as long as its activations are not finite."""
Prefix = tuple[int, ...]
Pool = Mapping[int, tuple[list[Prefix], np.ndarray]]
"""Length → the prefixes of that length in the order of their ids, and how many examples use them, summed up to each."""
_DONOR = 41


def pool(forest: Forest) -> Pool:
    """What donors are drawn from: every prefix of a forest, as often as examples use it."""
    uses: dict[Prefix, int] = defaultdict(int)
    for block in forest.blocks:
        for row, node in block.weights.nonzero().tolist():
            uses[block.prefix(row, node)] += int(block.weights[row, node])
    by_length: dict[int, list[Prefix]] = defaultdict(list)
    for prefix in sorted(uses):
        by_length[len(prefix)].append(prefix)
    return {length: (same, np.cumsum([uses[p] for p in same])) for length, same in by_length.items()}


def of(drawn_from: Pool, prefix: Prefix, seed: int, attempt: int = 0) -> Prefix:
    """The donor of a prefix: a seeded one of the same length, which may be itself."""
    prefixes, uses = drawn_from[len(prefix)]
    drawn = np.random.default_rng((seed, _DONOR, attempt, *prefix)).random()
    return prefixes[int(np.searchsorted(uses, drawn * uses[-1], side="right"))]


def activations(lm: LM, prefixes: Sequence[Prefix], points: Sequence[Site]) -> dict[Site, Tensor]:
    """The activations of whole hook points at the last node of each prefix, `prefix …`; of one that is not finite, its own alone."""
    # a prefix's last id is read, not predicted: the 0 behind it stands for nothing
    groups = [[Scored((*prefix, 0), len(prefix), 0)] for prefix in prefixes]
    order: list[int] = []
    parts: list[dict[Site, Tensor]] = []
    for block in rows(groups, min(ROWS["all"], lm.window), "all", lm.packed):
        whole = _last_nodes(lm, block, points)
        finite = all(bool(act.isfinite().all()) for act in whole.values())
        parts += [whole] if finite else [_last_nodes(lm, one, points) for one in block.alone()]
        order += [i for same in block.examples for i in same]
    back = torch.tensor(order).argsort()
    return {point: torch.cat([part[point] for part in parts])[back] for point in points}


def _last_nodes(lm: LM, block: Block, points: Sequence[Site]) -> dict[Site, Tensor]:
    row, node = block.places[block.readout].T
    acts, _ = forward.capture(lm, replace(block, places=block.places[:1]), points)  # nothing is read of the logits
    return {point: act[row, node] for point, act in acts.items()}
