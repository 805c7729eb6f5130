"""Token sequences merged into prefix trees and packed into rows: what two of them share is computed once.

A row holds whole examples. Where the model cannot attend by an ancestor mask, or an example alone is longer
than a row, each sequence is a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from biasscope.engine.model.devices import WIDE

SLOTS = ("stereo", "anti", "unrelated", "stereo_sentence", "anti_sentence", "unrelated_sentence")
MASS, SHARED, NEITHER = range(3)
"""What two continuations without an unrelated one say of competence: their probability mass, the mean log p
of the text that two prompts share, or nothing.
"""
ROWS = {"all": 128, "example": 256}
"""Nodes a row may hold, by what is shared. Attention costs row² and activations leave the processor's cache,
so sweeps, which run many copies of a row, take short ones (longer ones share hardly more); gradients run one
copy and fill their matmuls with longer ones. Measured on a CPU.
"""


def row_nodes(share: str, device: str) -> int:
    """Nodes that a row may hold, by what is shared and on which device it runs."""
    return ROWS[share] if device == "cpu" else WIDE


@dataclass(frozen=True)
class Scored:
    """Token ids and which of them are scored, for one slot."""

    ids: tuple[int, ...]
    first: int
    """Index of the first scored token; each token t is predicted at t − 1. At least 1."""
    slot: int
    """Index into SLOTS."""
    twin: tuple[int, ...] = ()
    """The tokens of the same sequence in the counterfactual prompt, as many; empty where there is none."""
    per_token: bool = False
    """Whether its log p is the mean over its tokens, not the sum."""

    @property
    def steps(self) -> tuple[Any, ...]:
        """What a path through the tree is made of: tokens, or pairs of clean and twin token for both trees"""
        return tuple(zip(self.ids, self.twin, strict=True)) if self.twin else self.ids


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that run in one pass, holding whole examples. Rows are padded at the right."""

    groups: tuple[tuple[Scored, ...], ...]
    """The sequences of each example in it."""

    ids: Int[Tensor, "row node"]
    depth: Int[Tensor, "row node"]
    """Position ids: how many nodes stand before it on its path."""
    mask: Bool[Tensor, "row node node"] | None
    """mask[r, i, j]: node i attends to node j, its ancestor or itself; None: plain causal rows."""
    weights: Int[Tensor, "row node"]
    """How many examples use the node; one that meets a prefix in several rows counts in the first."""
    owner: Int[Tensor, "row node"]
    """An example (index within the block) that uses the node, the only one if unshared; −1: padding."""
    examples: tuple[tuple[int, ...], ...]
    """Examples with equal sequences are one here; for each, the indices into Forest.examples."""
    places: Int[Tensor, "place 2"]
    """Row and node of every distinct node that predicts something: the only ones unembedded."""
    predict: Int[Tensor, "prediction 3"]
    """Per scored token: the place that predicts it, its id, example-in-block × len(SLOTS) + slot."""
    readout: Int[Tensor, " example"]
    """The place of each example's last prefix node."""
    form: Int[Tensor, " example"]
    """MASS, SHARED or NEITHER of each example."""
    per_token: Bool[Tensor, " example"]
    """Whether an example's log p are means over tokens."""
    twin: Int[Tensor, "row node"] | None = None
    """The counterfactual prompts' ids, node for node; None where there are none."""

    def swapped(self) -> "Block":
        """The block of the counterfactual prompts, whose twins are these. TypeError where there are none."""
        if self.twin is None:
            raise TypeError("this block has no counterfactual twin")
        groups = tuple(tuple(replace(s, ids=s.twin, twin=s.ids) for s in group) for group in self.groups)
        return replace(self, groups=groups, ids=self.twin, twin=self.ids)

    def alone(self) -> list["Block"]:
        """A block per example, each sequence in a row of its own, so that nothing reaches another example."""
        return [
            pack([group], [same], "example", packed=False)
            for group, same in zip(self.groups, self.examples, strict=True)
        ]

    @property
    def paths(self) -> Bool[Tensor, "example node"]:
        """The nodes of each example's first prompt: the last one, its readout, and all above that."""
        row, node = self.places[self.readout].unbind(1)
        if self.mask is not None:
            return self.mask[row, node]
        return torch.arange(self.ids.shape[1]) <= node[:, None]

    def prefix(self, row: int, node: int) -> tuple[int, ...]:
        """The ids from the first token to a node, its own last."""
        return tuple(
            (self.ids[row, : node + 1] if self.mask is None else self.ids[row, self.mask[row, node]]).tolist()
        )


def rows(groups: Sequence[list[Scored]], limit: int, share: str, packed: bool) -> list[Block]:
    """The blocks of all examples' sequences, by their text so that neighbours share; rows up to `limit`."""
    equal: dict[tuple[Scored, ...], list[int]] = {}
    for i, group in enumerate(groups):
        equal.setdefault(tuple(group), []).append(i)
    distinct = sorted(equal.items(), key=lambda item: (item[0][0].ids, item[1]))
    blocks = []
    for chunk in _chunks([group for group, _ in distinct], limit, share, packed):
        members = [distinct[i] for i in chunk]
        fits = len(chunk) > 1 or len(set(_paths(members[0][0]))) <= limit
        same = [tuple(examples) for _, examples in members]
        blocks.append(pack([group for group, _ in members], same, share, packed and fits))
    return blocks


def _paths(group: Sequence[Scored]) -> Iterator[tuple[Any, ...]]:
    """Every prefix that has a node: the last token of a sequence is only predicted."""
    return (s.steps[:d] for s in group for d in range(1, len(s.ids)))


def _chunks(groups: Sequence[Sequence[Scored]], limit: int, share: str, packed: bool) -> Iterator[list[int]]:
    """Neighbours that fit one row of `limit` nodes together."""
    chunk: list[int] = []
    seen: set[tuple[Any, ...]] = set()
    size = 0
    for i, group in enumerate(groups):
        # −1 − i cannot be a token: where nothing is shared it keeps an example's paths apart
        own = {((-1 - i, *path) if share == "example" else path) for path in _paths(group)}
        alone = len(own) if packed else sum(len(s.ids) - 1 for s in group)
        cost = len(own - seen) if packed else alone
        if chunk and size + cost > limit:
            yield chunk
            chunk, seen, size, cost = [], set(), 0, alone
        chunk.append(i)
        seen |= own
        size += cost
    yield chunk


@dataclass
class _Tree:
    """A growing row: nodes in the order they were met, so that a parent stands before its children."""

    node: dict[tuple[object, int, Any], int]
    ids: list[int]
    twin: list[int]
    depth: list[int]
    parent: list[int]
    owner: list[int]
    weight: list[int]

    def path(
        self,
        steps: tuple[Any, ...],
        example: int,
        use: int,
        key: object,
        counted: set[tuple[int, tuple[Any, ...]]],
    ) -> list[int]:
        """The nodes of a sequence, made where they lack; prefixes new to `counted` add `use` to weights."""
        at, nodes = -1, []
        for depth, step in enumerate(steps):
            token, twin = step if isinstance(step, tuple) else (step, step)
            if (key, at, step) not in self.node:
                self.node[key, at, step] = len(self.ids)
                for column, value in zip(self.columns(), (token, twin, depth, at, example, 0), strict=True):
                    column.append(value)
            at = self.node[key, at, step]
            nodes.append(at)
            if (example, steps[: depth + 1]) not in counted:
                counted.add((example, steps[: depth + 1]))
                self.weight[at] += use
        return nodes

    def columns(self) -> tuple[list[int], ...]:
        """What is known of every node."""
        return self.ids, self.twin, self.depth, self.parent, self.owner, self.weight


def pack(
    groups: Sequence[Sequence[Scored]], examples: Sequence[tuple[int, ...]], share: str, packed: bool
) -> Block:
    """The block of some examples' sequences: one packed row, or a row a sequence if none can be."""
    trees: list[_Tree] = []
    rows: dict[object, int] = {}
    counted: set[tuple[int, tuple[Any, ...]]] = set()
    spots: list[tuple[int, int, int, int]] = []
    readout: list[tuple[int, int]] = []
    for local, group in enumerate(groups):
        key = local if share == "example" else -1
        for number, scored in enumerate(group):
            where = 0 if packed else rows.setdefault((key, scored.steps[:-1]), len(rows))
            if where == len(trees):
                trees.append(_Tree({}, [], [], [], [], [], []))
            nodes = trees[where].path(scored.steps[:-1], local, len(examples[local]), key, counted)
            spots += [
                (where, nodes[t - 1], scored.ids[t], local * len(SLOTS) + scored.slot)
                for t in range(scored.first, len(scored.ids))
            ]
            if number == 0:
                readout.append((where, nodes[scored.first - 1]))
    return _tensors(trees, spots, readout, tuple(map(tuple, groups)), tuple(examples), packed)


def _tensors(
    trees: list[_Tree],
    spots: list[tuple[int, int, int, int]],
    readout: list[tuple[int, int]],
    groups: tuple[tuple[Scored, ...], ...],
    examples: tuple[tuple[int, ...], ...],
    packed: bool,
) -> Block:
    width = max(len(t.ids) for t in trees)

    def padded(values: list[list[int]], fill: int | None = None) -> Int[Tensor, "row node"]:
        # without a fill by the row's own first value: a token that gives NaN must not stand in a row that
        # does not have it
        return torch.tensor([v + [v[0] if fill is None else fill] * (width - len(v)) for v in values])

    place = {spot: i for i, spot in enumerate(sorted({s[:2] for s in spots} | set(readout)))}
    paired = any(scored.twin for group in groups for scored in group)
    return Block(
        groups=groups,
        ids=padded([t.ids for t in trees]),
        depth=padded([t.depth for t in trees], 0),
        mask=_ancestors(trees[0].parent) if packed else None,
        weights=padded([t.weight for t in trees], 0),
        owner=padded([t.owner for t in trees], -1),
        examples=examples,
        places=torch.tensor(list(place)),
        predict=torch.tensor([(place[row, node], target, key) for row, node, target, key in spots]),
        readout=torch.tensor([place[r] for r in readout]),
        form=torch.tensor([_form(group) for group in groups]),
        per_token=torch.tensor([any(s.per_token for s in group) for group in groups]),
        twin=padded([t.twin for t in trees]) if paired else None,
    )


def _form(group: tuple[Scored, ...]) -> int:
    """What of competence the continuations of an example tell: see MASS."""
    sides = [s for s in group if s.slot < 2]
    if len(sides) < 2 or sides[0].per_token:
        return NEITHER
    first, second = ((s.ids[: s.first], s.ids[s.first :]) for s in sides)
    if first[0] != second[0]:
        return SHARED
    short = min(len(first[1]), len(second[1]))
    return NEITHER if first[1][:short] == second[1][:short] else MASS


def _ancestors(parent: list[int]) -> Bool[Tensor, "1 node node"]:
    """Which nodes each node attends to: itself and all above it. Parents come before their children."""
    mask = torch.eye(len(parent), dtype=torch.bool)
    for node, above in enumerate(parent):
        if above >= 0:
            mask[node] |= mask[above]
    return mask[None]
