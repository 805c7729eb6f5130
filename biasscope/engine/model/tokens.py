"""Examples as forests of token prefixes. The only file that tokenises."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from biasscope.engine.data.terms import shared
from biasscope.engine.errors import DataError
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import Block, Scored, row_nodes, rows
from biasscope.engine.types import Example


@dataclass(frozen=True)
class Prompt:
    """Where the named positions of one prompt are."""

    term: frozenset[int]
    """The term's tokens and all others that its twin changes, by index."""
    length: int
    anti: "Prompt | None" = None
    """The other prompt, where there are two."""

    def part(self, position: str) -> frozenset[int]:
        """The indices of a position; `readout`: the last token if not the term's; `between`: what is left."""
        if position == "term":
            return self.term
        readout = frozenset({self.length - 1}) - self.term
        return (
            readout
            if position == "readout"
            else frozenset(range(min(self.term), self.length)) - self.term - readout
        )


@dataclass(frozen=True)
class Forest:
    """Every scored sequence of the examples that have them, packed into blocks, and why others have not."""

    blocks: tuple[Block, ...]
    examples: tuple[Example, ...]
    dropped: Counter[str]
    """Reason → number of examples that enter nothing."""
    partly: Counter[str]
    """Reason → number of kept examples that lack `target` or `sentence`."""
    prompts: tuple[Prompt, ...] = ()
    """Of each example, where asked for."""

    def where(self, block: Block, position: str) -> Bool[Tensor, "row node"] | None:
        """The nodes of a block at a position of their example; None: all."""
        if position == "all":
            return None
        prompts = [self.prompts[same[0]] for same in block.examples]
        parts = [prompt.part(position) for prompt in prompts]
        pairs = zip(block.owner.flatten().tolist(), block.depth.flatten().tolist(), strict=True)
        inside = torch.tensor([owner >= 0 and depth in parts[owner] for owner, depth in pairs])
        inside = inside.view(block.owner.shape)
        for local, prompt in enumerate(prompts):
            for row, node in (block.owner == local).nonzero().tolist() if prompt.anti else ():
                path = block.prefix(row, node)
                if prompt.anti and path != block.groups[local][0].ids[: len(path)]:
                    inside[row, node] = len(path) - 1 in prompt.anti.part(position)
        return inside

    def members(self, block: Block) -> tuple[list[Example], list[int]]:
        """The examples of a block, and for each its index within the block, which equal ones share."""
        pairs = [(self.examples[i], local) for local, same in enumerate(block.examples) for i in same]
        return [e for e, _ in pairs], [local for _, local in pairs]

    @property
    def nodes(self) -> int:
        """Nodes that carry a token: the work of one pass."""
        return sum(int((b.owner >= 0).sum()) for b in self.blocks)


def encode(lm: LM, text: str) -> tuple[int, ...]:
    """The ids of a text as the model's own tokenizer call returns them."""
    ids = lm.ids(text) if text else ((lm.start,) if lm.prepends and lm.start is not None else ())
    if ids and max(ids) >= lm.vocab:
        raise DataError(
            f"the tokenizer of {lm.name} gives id {max(ids)}, its model knows {lm.vocab}: they do not belong "
            "together"
        )
    return ids


def continuation(lm: LM, prompt: str, filler: str, suffix: str, slot: int) -> Scored | str:
    """The filler after the prompt, tokenised jointly, or why its tokens cannot be told from the rest."""
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


def continuations(lm: LM, example: Example, sides: Sequence[tuple[str, str]]) -> list[Scored | str]:
    """The continuation of each side of an example, or the reason why it cannot be scored."""
    each = [continuation(lm, prompt, text, example.suffix, s) for s, (prompt, text) in enumerate(sides)]
    return [replace(s, per_token=example.per_token) if isinstance(s, Scored) else s for s in each]


def shapes(scored: Iterable[Scored | str]) -> list[tuple[int, tuple[int, ...]] | None]:
    """Where each continuation begins and its tokens: what a twin must share; None where it has none."""
    return [(s.first, s.ids[s.first :]) if isinstance(s, Scored) else None for s in scored]


def whole(lm: LM, sentence: str, slot: int) -> list[Scored] | str:
    """A whole sentence: the first token after the start token, others after those before (as published)."""
    if lm.start is None:
        return "no start token for a whole sentence"
    ids = encode(lm, sentence)
    if lm.prepends:
        return [Scored(ids, 1, slot)]
    return [Scored((lm.start, ids[0]), 1, slot), *([Scored(ids, 1, slot)] if len(ids) > 1 else [])]


def term_places(lm: LM, words: str, term: str) -> list[range]:
    """The tokens of each place where a text names the term as a whole word (or plural), in any case."""
    matches = (
        list(re.finditer(rf"(?<!\w){re.escape(term)}(?=s?(?!\w))", words, re.IGNORECASE)) if term else []
    )
    if not matches:
        return []
    spans = lm.tokenizer(words, return_offsets_mapping=True)["offset_mapping"]
    inside = [
        [i for i, (first, end) in enumerate(spans) if first < m.end() and end > m.start()] for m in matches
    ]
    return [range(tokens[0], tokens[-1] + 1) for tokens in inside if tokens]


def term_tokens(lm: LM, example: Example) -> frozenset[int]:
    """Which tokens of an example's first prompt belong to its term, by index; empty: it names none."""
    prompt = _prompt(lm, example, None)
    return frozenset() if isinstance(prompt, str) else prompt.term


def pieces(lm: LM, text: str) -> list[str]:
    """The text of each token that `encode` gives: together they are the text, after a start token's name."""
    ids = encode(lm, text) or (() if lm.start is None else (lm.start,))
    if not (text and lm.tokenizer.is_fast):
        return [lm.tokenizer.decode([i]) for i in ids]
    ends = [end for _, end in lm.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]]
    starts = [0, *itertools.accumulate(ends, max)]
    named = lm.tokenizer.convert_ids_to_tokens(list(ids))
    return [
        name if end == 0 else text[min(start, end) : end]
        for name, start, end in zip(named, starts, ends, strict=False)
    ]


def _prompt(lm: LM, example: Example, twin: str | None) -> Prompt | str:
    """Where the positions of an example's prompt are, or why it has none."""
    if example.anti_prompt is not None:
        ids, others = encode(lm, example.prompt), encode(lm, example.anti_prompt)
        return replace(_differing(ids, others), anti=_differing(others, ids))
    ids, places = encode(lm, example.prompt), term_places(lm, example.prompt, example.word)
    twin_ids = ids if twin is None else encode(lm, twin)
    changed = {i for i, (a, b) in enumerate(zip(ids, twin_ids, strict=True)) if a != b}
    term = frozenset({i for p in places for i in p} | changed)
    return Prompt(term, len(ids)) if term else "its prompt does not name the term"


def _differing(ids: Sequence[int], others: Sequence[int]) -> Prompt:
    """A prompt whose term is the tokens in which it differs from the other: one run, a token at least."""
    start = shared(ids, others)
    end = min(shared(ids[::-1], others[::-1]), min(len(ids), len(others)) - start)
    return Prompt(frozenset(range(min(start, len(ids) - end - 1), len(ids) - end)), len(ids))


def sequences(
    lm: LM, example: Example, sentences: bool, twin: str | None = None
) -> tuple[list[Scored], list[str]]:
    """One example's scored sequences, fillers first, with their `twin` tokens, and why some are missing.

    A filler that cannot be scored takes all fillers with it: a comparison of what is left would be another
    measure.
    """
    scored: list[Scored] = []
    reasons = [f"target: {example.flaw}"] if example.flaw else []
    if not example.flaw:
        spans = _fitting(lm, continuations(lm, example, example.sides))
        if not isinstance(spans, str) and example.anti_prompt and len({s.ids[s.first :] for s in spans}) > 1:
            spans = "its two prompts cut the text after them differently"
        reasons += [f"target: {spans}"] if isinstance(spans, str) else []
        scored += (
            [] if isinstance(spans, str) else spans if twin is None else _paired(lm, example, spans, twin)
        )
    if sentences and example.sentences:
        parts = [whole(lm, text, 3 + s) for s, text in enumerate(example.sentences)]
        texts = _fitting(lm, [s for part in parts for s in ([part] if isinstance(part, str) else part)])
        reasons += [f"sentence: {texts}"] if isinstance(texts, str) else []
        scored += [] if isinstance(texts, str) else texts
    return scored, reasons


def _fitting(lm: LM, wanted: Sequence[Scored | str]) -> list[Scored] | str:
    """The sequences, or why one of them is missing or too long: then the others are not scored either."""
    for reason in (sequence for sequence in wanted if isinstance(sequence, str)):
        return reason
    scored = [sequence for sequence in wanted if isinstance(sequence, Scored)]
    if any(len(s.ids) - 1 > lm.context for s in scored):
        return f"longer than the model's context of {lm.context} tokens"
    return scored


def _paired(lm: LM, example: Example, spans: Sequence[Scored], twin: str) -> list[Scored]:
    """The sequences with their counterfactuals, never padded to fit. ValueError where one is not as long."""
    partners = continuations(lm, example, example.exchanged(twin))
    if shapes(partners) != shapes(spans):
        raise ValueError(f"the twin of {example.id} has other tokens than fit it: see twins.fit")
    return [replace(s, twin=p.ids) for s, p in zip(spans, partners, strict=True) if isinstance(p, Scored)]


def forest(
    lm: LM,
    examples: Sequence[Example],
    *,
    share: Literal["all", "example"] = "all",
    sentences: bool = False,
    twins: Mapping[str, str] | None = None,
    positions: bool = False,
) -> Forest:
    """The examples as prefix trees, nodes shared between all or only within one (as gradients need).

    With `twins` (example id → counterfactual prompt) node i of a block is node i of its `swapped()`; every
    example must have one. With `positions` (which need share="example") the forest knows them, and examples
    whose prompt does not name the term are dropped. Raises DataError where no example can be scored.
    """
    kept: list[tuple[Example, list[Scored], Prompt | None]] = []
    lost: dict[str, str] = {}
    partly: dict[str, list[str]] = {}
    for example in examples:
        twin = None if twins is None else twins[example.id]
        scored, reasons = sequences(lm, example, sentences, twin)
        prompt = _prompt(lm, example, twin) if scored and positions else None
        if not scored or isinstance(prompt, str):
            lost[example.id] = prompt if isinstance(prompt, str) else "; ".join(reasons)
        else:
            kept.append((example, scored, prompt))
            partly[example.id] = reasons
    lost = as_one(examples, lost)
    kept = [item for item in kept if item[0].id not in lost]
    dropped = Counter(lost.values())
    if not kept:
        reasons_found = "; ".join(f"{n} × {reason}" for reason, n in dropped.items())
        raise DataError(
            f"no example kept: {len(examples)} of {len(examples)} dropped ({reasons_found}); try another "
            "--model"
        )
    blocks = rows(
        [scored for _, scored, _ in kept], min(row_nodes(share, lm.device), lm.window), share, lm.packed
    )
    incomplete = Counter(reason for e, _, _ in kept for reason in partly[e.id])
    prompts = tuple(prompt for _, _, prompt in kept if prompt is not None)
    return Forest(tuple(blocks), tuple(e for e, _, _ in kept), dropped, incomplete, prompts)


def as_one(examples: Sequence[Example], lost: Mapping[str, str]) -> dict[str, str]:
    """Example id → why it is dropped, with those that stand or fall together with one of these."""
    reasons = {e.together: lost[e.id] for e in reversed(examples) if e.together and e.id in lost}
    others = {
        e.id: f"its counterpart was dropped: {reasons[e.together]}" for e in examples if e.together in reasons
    }
    return others | dict(lost)
