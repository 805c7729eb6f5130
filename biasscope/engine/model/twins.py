"""Examples with the counterfactual twin that fits: as many tokens, and those of every filler the same."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import polars as pl

from biasscope.engine.data import counterfactuals
from biasscope.engine.data.counterfactuals import Twin
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import Scored
from biasscope.engine.model.tokens import continuation, encode
from biasscope.engine.schemas import TWINS
from biasscope.engine.types import Dataset, Example


def fit(lm: LM, dataset: Dataset, seed: int) -> tuple[dict[str, Twin], dict[str, str]]:
    """Example id → its twin, and example id → why it has none.

    Partners are of the whole dataset: a sample's twins are the whole's. Those of a part of the data
    (`Dataset.part`) are within it.
    """
    outside, where = (
        {counterfactuals.written(word) for word in dataset.outside},
        " in its half" if dataset.outside else "",
    )
    everything = dataset.whole or dataset.examples
    known = [e for e in everything if "bls_pct_female" in e.meta]
    facts = {e.word: (float(e.meta["bls_pct_female"]), float(e.meta["bergsma_pct_female"])) for e in known}
    partners = counterfactuals.partners(facts, lru_cache(None)(lambda name: len(encode(lm, f" {name}"))))
    terms: dict[str, set[str]] = defaultdict(set)
    for e in everything:
        terms[e.bias_type].add(e.word)
    kept: dict[str, Twin] = {}
    dropped: dict[str, str] = {}
    for e in dataset.examples:
        candidates: tuple[Twin, ...] | Twin | str
        if facts:
            candidates = (
                counterfactuals.of_occupation(e, partners[e.word])
                if e.word in partners
                else f"no occupation of as many tokens{where}"
            )
        else:
            candidates = counterfactuals.of_sentence(e, terms[e.bias_type], seed)
        if isinstance(candidates, tuple) and outside:
            candidates = (
                tuple(twin for twin in candidates if twin.partner not in outside) or f"no counterpart{where}"
            )
        twin = (
            candidates
            if isinstance(candidates, str)
            else _first(lm, e, (candidates,) if isinstance(candidates, Twin) else candidates)
        )
        if isinstance(twin, str):
            dropped[e.id] = twin
        else:
            kept[e.id] = twin
    return kept, dropped


def _first(lm: LM, example: Example, candidates: Sequence[Twin]) -> Twin | str:
    """The first candidate that fits."""
    clean = _fillers(lm, example, example.prompt)
    if clean is None:
        return "a token crosses the filler's edge"
    size = len(encode(lm, example.prompt))
    for twin in candidates:
        if len(encode(lm, twin.prompt)) == size and _fillers(lm, example, twin.prompt) == clean:
            return twin
    return "no twin of as many tokens"


def _fillers(lm: LM, example: Example, prompt: str) -> list[tuple[int, ...]] | None:
    """The tokens of each filler after a prompt; None where they cannot be told apart from the rest."""
    fillers = [f for f in (example.stereo, example.anti, example.unrelated) if f is not None]
    spans = [continuation(lm, prompt, f, example.suffix, s) for s, f in enumerate(fillers)]
    return (
        [s.ids[s.first :] for s in spans if isinstance(s, Scored)]
        if all(isinstance(s, Scored) for s in spans)
        else None
    )


def table(examples: Sequence[Example], kept: Mapping[str, Twin]) -> pl.DataFrame:
    """TWINS of the examples that have one."""
    rows = [
        (e.id, e.group, kept[e.id].partner, e.prompt, kept[e.id].prompt) for e in examples if e.id in kept
    ]
    return pl.DataFrame(rows, schema=TWINS, orient="row")


def acdc(lm: LM, examples: Sequence[Example], kept: Mapping[str, Twin]) -> list[dict[str, Any]]:
    """The pairs in the original study's form: they differ in the term alone, read before the filler."""
    pairs = [(e, kept[e.id]) for e in examples if e.id in kept]
    return [
        {
            "pair_id": e.id,
            "clean": _side(lm, e, e.prompt, e.word),
            "corrupted": _side(lm, e, t.prompt, t.partner),
        }
        for e, t in pairs
    ]


def _side(lm: LM, example: Example, prompt: str, term: str) -> dict[str, Any]:
    """One prompt with the filler of the stereotype (“he”): its tokens, and both fillers' after the prompt."""
    stereo, anti, *_ = _fillers(lm, example, prompt) or []
    before = continuation(lm, prompt, example.stereo, example.suffix, 0)
    sentence = prompt + example.stereo + example.suffix
    about: dict[str, Any] = {"example_id": example.id}
    if "bls_pct_female" in example.meta:
        about |= {"profession": term, "word": example.meta.get("participant", "")}
        about |= {"pronoun": example.stereo.strip(), "label": "male"}
        about |= {"male_token_ids": stereo, "female_token_ids": anti}
    else:
        about |= {"bias_type": example.bias_type, "target": term}
        about |= {"context_prefix": prompt, "context_suffix": example.suffix}
        fillers = {"stereotype_word": example.stereo.strip(), "antistereotype_word": example.anti.strip()}
        about |= {**fillers, "label": "stereotype"}
        about |= {"stereo_token_ids": stereo, "antistereo_token_ids": anti}
    about["logit_position"] = before.first - 1 if isinstance(before, Scored) else None
    return {"context": prompt, "sentence": sentence, "tokens": encode(lm, sentence), "metadata": about}
