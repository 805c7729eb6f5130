"""Which node of a forest gives its activations to which, for the source `resample`. Draws only, no model."""

from collections.abc import Sequence

import numpy as np

from biasscope.engine.tokens import Forest

FROM = 8
"""Blocks that a block's donors are drawn from, so that they cost 8 passes and not one for every block of the forest."""
Node = tuple[int, int, int]
"""Block, row and node."""


def of(forest: Forest, number: int, seed: int) -> dict[tuple[int, int], Node]:
    """Row and node of a block → its donor: a seeded node of the same depth, drawn as often as examples use it.

    Donors stand in 8 blocks drawn for this block by their size (in all where there are no more), or in any block where those have no
    node of that depth. A node may be its own donor. Where each sequence has its own row, equal prefixes have one donor.
    """
    rng = np.random.default_rng((seed, number))
    size = np.array([float(block.weights.sum()) for block in forest.blocks])
    near = rng.choice(len(size), min(FROM, len(size)), replace=False, p=size / size.sum()).tolist()
    first, others = _by_depth(forest, near), _by_depth(forest, [n for n in range(len(size)) if n not in near])
    block = forest.blocks[number]
    chosen: dict[tuple[int, int], Node] = {}
    known: dict[object, Node] = {}
    for row, node in (block.owner >= 0).nonzero().tolist():
        prefix = (row, node) if block.mask is not None else tuple(block.ids[row, : node + 1].tolist())
        if prefix not in known:
            depth = int(block.depth[row, node])
            places, uses = first[depth] if depth in first else others[depth]
            known[prefix] = places[int(np.searchsorted(np.cumsum(uses), rng.random() * sum(uses), side="right"))]
        chosen[row, node] = known[prefix]
    return chosen


def _by_depth(forest: Forest, numbers: Sequence[int]) -> dict[int, tuple[list[Node], list[int]]]:
    """Depth → the nodes of some blocks at that depth, and how many examples use each."""
    found: dict[int, tuple[list[Node], list[int]]] = {}
    for number in numbers:
        block = forest.blocks[number]
        for row, node in block.weights.nonzero().tolist():
            places, uses = found.setdefault(int(block.depth[row, node]), ([], []))
            places.append((number, row, node))
            uses.append(int(block.weights[row, node]))
    return found
