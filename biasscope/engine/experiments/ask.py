"""The steps of `ask`: how likely two continuations of a prompt are, after its twin too, and by what heads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine.data import datasets, stereoset_twins
from biasscope.engine.data.terms import Twin, places
from biasscope.engine.errors import UsageError
from biasscope.engine.experiments.scans import models
from biasscope.engine.schemas import TOTAL
from biasscope.engine.settings import SILENT, Measure, Voice
from biasscope.engine.store import files
from biasscope.engine.types import Dataset, Example, Site

if TYPE_CHECKING:
    from biasscope.engine.model.loading import LM

HEADS = 5
"""Heads named."""
CLASSES = {
    "gender": tuple(stereoset_twins.GENDER),
    "race": (*stereoset_twins.COUNTRIES, *stereoset_twins.PEOPLES),
    "religion": tuple(stereoset_twins.RELIGION),
}
"""Terms that have counterparts by rule, beside the occupations."""


@dataclass(frozen=True)
class Said:
    """What a model makes of one prompt."""

    prompt: str
    tokens: list[str]
    continuations: tuple[str, str]
    pieces: tuple[list[str], list[str]]
    """The tokens of each continuation."""
    logp: tuple[float, float]
    """log p of each after the prompt, all its tokens, nats."""

    @property
    def target(self) -> float:
        """log p(first) − log p(second), nats."""
        return self.logp[0] - self.logp[1]


@dataclass(frozen=True)
class Answer:
    """What `ask` found of one prompt: an anecdote."""

    model: str
    said: Said
    twin: Said | None
    why: str
    """What was exchanged for what, or why there is no twin."""
    source: str
    """What the heads' activations were replaced by in the estimate: `corrupt` (the twin's) or `zero`."""
    heads: list[tuple[Site, float]]
    """The heads whose replacement is estimated to change target most, with the change, nats."""
    total: float | None
    """The change where the whole prompt is exchanged for its twin, exact, nats."""


def ask(settings: Measure, prompt: str, first: str, second: str, *, voice: Voice = SILENT) -> Answer:
    """What a model prefers after one prompt, what after its twin, and which heads attribution ranks first."""
    example = _example(prompt, first, second, no_space=settings.no_space)
    lm = models.model(settings, voice)
    with voice.hushed():
        data = next(_known(example), Dataset("ask", (example,), "", 1))
        example = data.examples[0]
        twin, why = _twin(lm, data, settings.seed)
        said = _said(lm, example)
        other = _said(lm, replace(example, prompt=twin.prompt)) if twin else None
        source, heads, total = _heads(lm, example, twin)
    return Answer(files.slug(settings.model), said, other, why, source, heads, total)


def _example(prompt: str, first: str, second: str, *, no_space: bool) -> Example:
    """The prompt as an example; a space stands before continuations. UsageError: nothing to compare."""
    space = "" if no_space else " "
    stereo, anti = (text if text[:1].isspace() else f"{space}{text}" for text in (first, second))
    for name, text in (("the first continuation", first), ("the second continuation", second)):
        if not text.strip():
            raise UsageError(f"{name} is empty; give two words, such as: he she")
    if stereo == anti:
        raise UsageError(f"both continuations are '{first}'; give two that differ")
    return Example("ask", "ask", "user", "", prompt.rstrip(), stereo, anti, term="")


def _known(example: Example) -> Iterator[Dataset]:
    """The prompt as data of the kind whose twin rules know a word of it, the longest word first."""
    whole = datasets.load("occupations", Path()).examples
    facts = {e.group: e for e in whole}
    for name in sorted(facts, key=len, reverse=True):
        if places(example.prompt, name):
            own = replace(example, group=name, term=name, meta={**facts[name].meta, "participant": ""})
            yield Dataset("ask", (own,), "", 1, whole=whole, rule="occupation")
    for kind, terms in CLASSES.items():
        for term in sorted(terms, key=len, reverse=True):
            if places(example.prompt, term):
                own = replace(example, bias_type=kind, group=term, term=term)
                yield Dataset("ask", (own,), "", 1, rule="stereoset")


def _twin(lm: "LM", data: Dataset, seed: int) -> tuple[Twin | None, str]:
    """The twin that fits this tokenizer and what it exchanges, or None and why there is none."""
    from biasscope.engine.model import twins

    term = data.examples[0].word
    if data.rule == "none":
        return None, "no word of it has a counterpart by rule (an occupation, a country, mother, …)"
    kept, lost = twins.fit(lm, data, seed)
    if (twin := kept.get("ask")) is None:
        return None, f"{term}: {lost['ask']}"
    return twin, f"{term} exchanged for {twin.partner}"


def _said(lm: "LM", example: Example) -> Said:
    """Tokens and log-probabilities of a prompt's two continuations. DataError: a token crosses its end."""
    import torch

    from biasscope.engine.model import forward, tokens

    forest = tokens.forest(lm, [example], share="example")
    (block,) = forest.blocks
    with torch.no_grad():
        logp = forward.read(block, forward.run(lm, block, {})).logp[0, 0, :2].double().tolist()
    each = [
        side.ids[side.first :]
        for side in tokens.continuations(lm, example, example.sides)
        if not isinstance(side, str)
    ]
    before = tokens.encode(lm, example.prompt)

    def words(ids: Sequence[int]) -> list[str]:
        return [lm.tokenizer.decode([i]) for i in ids]

    texts = example.stereo.strip(), example.anti.strip()
    return Said(example.prompt, words(before), texts, (words(each[0]), words(each[1])), (logp[0], logp[1]))


def _heads(
    lm: "LM", example: Example, twin: Twin | None
) -> tuple[str, list[tuple[Site, float]], float | None]:
    """The source, the heads that attribution ranks first for this prompt, and its twin's total effect."""
    from biasscope.engine.measure import attribution, sources
    from biasscope.engine.model import tokens

    name = "corrupt" if twin else "zero"
    forest = tokens.forest(lm, [example], share="example", twins={example.id: twin.prompt} if twin else None)
    heads = sources.sites(lm, ("z",))
    sweep = sources.Sweep(heads, sources.source(name, lm, forest, heads), metrics=("target",))
    effects = attribution.estimate(lm, forest, sweep)
    rows = effects.filter(pl.col("head").is_not_null()).sort(pl.col("effect").abs(), descending=True)
    ranked = [(Site(r["layer"], "z", r["head"]), float(r["effect"])) for r in rows.head(HEADS).to_dicts()]
    whole = effects.filter(component=TOTAL)["effect"].to_list()
    return name, ranked, float(whole[0]) if whole else None


def document(answer: Answer) -> dict[str, Any]:
    """The answer as programs read it."""

    def said(each: Said | None) -> dict[str, Any] | None:
        if each is None:
            return None
        sides = zip(each.continuations, each.pieces, each.logp, strict=True)
        both = [{"text": text, "tokens": pieces, "logp": logp} for text, pieces, logp in sides]
        return {"prompt": each.prompt, "tokens": each.tokens, "continuations": both, "target": each.target}

    heads = [
        {"site": str(s), "layer": s.layer, "head": s.head, "effect": effect} for s, effect in answer.heads
    ]
    about = {"model": answer.model, "prompt": said(answer.said), "twin": said(answer.twin), "why": answer.why}
    return about | {"source": answer.source, "total": answer.total, "heads": heads, "groups": 1}
