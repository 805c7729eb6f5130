"""Examples as forests of token prefixes. The only file that tokenises.

All sequences of a dataset are merged into prefix trees, so that what two of them share is computed once. A row holds whole
examples; where the model cannot attend by an ancestor mask (or an example alone is longer than a row) each sequence is a row.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from biasscope.engine.errors import DataError
from biasscope.engine.models import LM
from biasscope.engine.types import Example

SLOTS = ("stereo", "anti", "unrelated", "stereo_sentence", "anti_sentence", "unrelated_sentence")
ROW = 512
"""Nodes a row may hold: attention costs row², and longer rows share no more."""


@dataclass(frozen=True)
class Scored:
    """Token ids and which of them are scored, for one slot."""

    ids: tuple[int, ...]
    first: int
    """Index of the first scored token; each token t is predicted at t − 1. At least 1."""
    slot: int
    """Index into SLOTS."""


@dataclass(frozen=True)
class Block:
    """Rows that run in one pass, holding whole examples. Rows are padded at the right."""

    ids: Int[Tensor, "row node"]
    depth: Int[Tensor, "row node"]
    """Position ids: how many nodes stand before it on its path."""
    mask: Bool[Tensor, "row node node"] | None
    """mask[r, i, j]: node i attends to node j, its ancestor or itself; None: plain causal rows."""
    weights: Int[Tensor, "row node"]
    """How many examples use the node; an example that meets the same prefix in several rows counts in the first."""
    owner: Int[Tensor, "row node"]
    """An example (index within the block) that uses the node, the only one where nothing is shared; −1: padding."""
    examples: tuple[int, ...]
    """Indices into Forest.examples."""
    places: Int[Tensor, "place 2"]
    """Row and node of every distinct node that predicts something: the only ones unembedded."""
    predict: Int[Tensor, "prediction 3"]
    """Per scored token: the place that predicts it, its id, example-in-block × len(SLOTS) + slot."""
    readout: Int[Tensor, " example"]
    """The place of each example's last prefix node."""


@dataclass(frozen=True)
class Forest:
    """Every scored sequence of the examples that can be scored, packed into blocks, and why the others were dropped."""

    blocks: tuple[Block, ...]
    examples: tuple[Example, ...]
    dropped: Counter[str]

    @property
    def nodes(self) -> int:
        """Nodes that carry a token: the work of one pass."""
        return sum(int((b.owner >= 0).sum()) for b in self.blocks)


def encode(lm: LM, text: str) -> tuple[int, ...]:
    """The ids of a text as the model's own tokenizer call returns them."""
    ids = tuple(lm.tokenizer(text).input_ids) if text else ((lm.start,) if lm.prepends and lm.start is not None else ())
    if ids and max(ids) >= lm.vocab:
        raise DataError(f"the tokenizer of {lm.name} gives id {max(ids)}, its model knows {lm.vocab}: they do not belong together")
    return ids


def continuation(lm: LM, prompt: str, filler: str, suffix: str, slot: int) -> Scored | str:
    """The filler after the prompt, tokenised jointly, or the reason why its tokens cannot be told apart from the rest."""
    if prompt == "" and lm.start is None:
        return "no start token for an empty prefix"
    before, text = encode(lm, prompt), encode(lm, prompt + filler)
    if text[: len(before)] != before or len(text) == len(before):
        return "a token crosses the filler's left edge"
    if suffix and encode(lm, prompt + filler + suffix)[: len(text)] != text:
        return "a token crosses the filler's right edge"
    if not before and lm.start is not None:
        before, text = (lm.start,), (lm.start, *text)
    return Scored(text, len(before), slot)


def whole(lm: LM, sentence: str, slot: int) -> list[Scored] | str:
    """A whole sentence: its first token after the start token, the others after what precedes them (as published for GPT-2)."""
    if lm.start is None:
        return "no start token for a whole sentence"
    ids = encode(lm, sentence)
    if lm.prepends:
        return [Scored(ids, 1, slot)]
    return [Scored((lm.start, ids[0]), 1, slot), *([Scored(ids, 1, slot)] if len(ids) > 1 else [])]


def sequences(lm: LM, example: Example, sentences: bool) -> tuple[list[Scored], list[str]]:
    """The scored sequences of one example, fillers first, and the reasons why some are missing.

    A filler that cannot be scored takes all fillers with it: a comparison of what is left would be another measure.
    """
    found: list[Scored] = []
    reasons = [f"target: {example.flaw}"] if example.flaw else []
    if not example.flaw:
        fillers = [f for f in (example.stereo, example.anti, example.unrelated) if f is not None]
        parts = [continuation(lm, example.prompt, f, example.suffix, s) for s, f in enumerate(fillers)]
        reasons += [f"target: {p}" for p in parts if isinstance(p, str)][:1]
        found += [] if reasons else [p for p in parts if isinstance(p, Scored)]
    if sentences and example.sentences:
        texts = [whole(lm, text, 3 + s) for s, text in enumerate(example.sentences)]
        reasons += [f"sentence: {p}" for p in texts if isinstance(p, str)][:1]
        found += [] if any(isinstance(p, str) for p in texts) else [s for p in texts for s in p]
    if any(len(s.ids) - 1 > lm.context for s in found):
        return [], [f"longer than the model's context of {lm.context} tokens"]
    return found, reasons


def forest(lm: LM, examples: Sequence[Example], *, share: Literal["all", "example"] = "all", sentences: bool = False) -> Forest:
    """The examples as prefix trees, sharing nodes between all examples or only within one (gradients need that).

    Raises DataError where no example can be scored.
    """
    kept: list[tuple[Example, list[Scored]]] = []
    dropped: Counter[str] = Counter()
    for example in examples:
        found, reasons = sequences(lm, example, sentences)
        dropped.update(reasons)
        if found:
            kept.append((example, found))
    if not kept:
        reasons_found = "; ".join(f"{n} × {reason}" for reason, n in dropped.items())
        raise DataError(f"no example kept: {len(examples)} of {len(examples)} dropped ({reasons_found}); try another --model")
    limit = min(ROW, lm.window)
    order = sorted(range(len(kept)), key=lambda i: kept[i][1][0].ids)
    blocks = []
    for chunk in _chunks(kept, order, limit, share, lm.packed):
        groups = [kept[i][1] for i in chunk]
        alone = len({s.ids[:d] for s in groups[0] for d in range(1, len(s.ids))})
        fits = len(chunk) > 1 or alone <= limit  # an example longer than a row runs as plain sequences
        blocks.append(pack(groups, chunk, share, lm.packed and fits))
    return Forest(tuple(blocks), tuple(e for e, _ in kept), dropped)


def _chunks(kept: list[tuple[Example, list[Scored]]], order: list[int], limit: int, share: str, packed: bool) -> Iterator[list[int]]:
    """Examples that fit one row of `limit` nodes together, in the order of their text so that neighbours share."""
    chunk: list[int] = []
    seen: set[tuple[object, ...]] = set()
    size = 0
    for i in order:
        paths = {s.ids[:d] for s in kept[i][1] for d in range(1, len(s.ids))}
        own = {(i, *p) for p in paths} if share == "example" else set(paths)
        cost = len(own - seen) if packed else sum(len(s.ids) - 1 for s in kept[i][1])
        if chunk and size + cost > limit:
            yield chunk
            chunk, seen, size = [], set(), 0
            cost = len(own) if packed else cost
        chunk.append(i)
        seen |= own
        size += cost
    yield chunk


@dataclass
class _Tree:
    """A growing row: nodes in the order they were met, so that a parent stands before its children."""

    node: dict[tuple[object, int, int], int]
    ids: list[int]
    depth: list[int]
    parent: list[int]
    owner: list[int]
    weight: list[int]

    def path(self, ids: tuple[int, ...], example: int, key: object, counted: set[tuple[int, tuple[int, ...]]]) -> list[int]:
        """The nodes of a sequence, made where they are not there yet; prefixes new to `counted` add to their weight."""
        at, nodes = -1, []
        for depth, token in enumerate(ids):
            if (key, at, token) not in self.node:
                self.node[key, at, token] = len(self.ids)
                for column, value in zip(self.columns(), (token, depth, at, example, 0), strict=True):
                    column.append(value)
            at = self.node[key, at, token]
            nodes.append(at)
            if (example, ids[: depth + 1]) not in counted:
                counted.add((example, ids[: depth + 1]))
                self.weight[at] += 1
        return nodes

    def columns(self) -> tuple[list[int], ...]:
        """What is known of every node."""
        return self.ids, self.depth, self.parent, self.owner, self.weight


def pack(groups: list[list[Scored]], chunk: Sequence[int], share: str, packed: bool) -> Block:
    """The block of some examples' sequences: one packed row, or a row a sequence where packing is not possible."""
    trees: list[_Tree] = []
    rows: dict[object, int] = {}
    counted: set[tuple[int, tuple[int, ...]]] = set()
    spots: list[tuple[int, int, int, int]] = []
    readout: list[tuple[int, int]] = []
    for local, group in enumerate(groups):
        key = local if share == "example" else -1
        for number, scored in enumerate(group):
            where = 0 if packed else rows.setdefault((key, scored.ids[:-1]), len(rows))
            if where == len(trees):
                trees.append(_Tree({}, [], [], [], [], []))
            nodes = trees[where].path(scored.ids[:-1], local, key, counted)
            spots += [(where, nodes[t - 1], scored.ids[t], local * len(SLOTS) + scored.slot) for t in range(scored.first, len(scored.ids))]
            if number == 0:
                readout.append((where, nodes[scored.first - 1]))
    return _tensors(trees, spots, readout, tuple(chunk), packed)


def _tensors(
    trees: list[_Tree], spots: list[tuple[int, int, int, int]], readout: list[tuple[int, int]], chunk: tuple[int, ...], packed: bool
) -> Block:
    width = max(len(t.ids) for t in trees)

    def padded(values: list[list[int]], fill: int) -> Int[Tensor, "row node"]:
        return torch.tensor([v + [fill] * (width - len(v)) for v in values])

    place = {spot: i for i, spot in enumerate(sorted({s[:2] for s in spots} | set(readout)))}
    return Block(
        ids=padded([t.ids for t in trees], trees[0].ids[0]),
        depth=padded([t.depth for t in trees], 0),
        mask=_ancestors(trees[0].parent) if packed else None,
        weights=padded([t.weight for t in trees], 0),
        owner=padded([t.owner for t in trees], -1),
        examples=chunk,
        places=torch.tensor(list(place)),
        predict=torch.tensor([(place[row, node], target, key) for row, node, target, key in spots]),
        readout=torch.tensor([place[r] for r in readout]),
    )


def _ancestors(parent: list[int]) -> Bool[Tensor, "1 node node"]:
    """Which nodes each node attends to: itself and every node above it. Parents stand before their children."""
    mask = torch.eye(len(parent), dtype=torch.bool)
    for node, above in enumerate(parent):
        if above >= 0:
            mask[node] |= mask[above]
    return mask[None]
