"""Examples with the counterfactual twin that fits: as many tokens, and those of every filler the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from biasscope.engine.data import counterfactuals
from biasscope.engine.data.terms import Twin
from biasscope.engine.errors import UsageError
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import Scored
from biasscope.engine.model.tokens import as_one, continuation, continuations, encode, shapes
from biasscope.engine.schemas import TWINS
from biasscope.engine.types import Dataset, Example


def fit(lm: LM, dataset: Dataset, seed: int) -> tuple[dict[str, Twin], dict[str, str]]:
    """Example id → its twin, and example id → why it has none.

    Partners are of the whole dataset: a sample's twins are the whole's. Those of a part of the data
    (`Dataset.part`) are within it.
    """
    rule = counterfactuals.RULES[dataset.rule]
    candidates = rule.make(dataset, seed, lambda word: len(encode(lm, f" {word}")))
    kept: dict[str, Twin] = {}
    lost: dict[str, str] = {}
    for e in dataset.examples:
        of_example = candidates(e)
        twin = of_example if isinstance(of_example, str) else _first(lm, e, of_example) or rule.unfit
        if isinstance(twin, str):
            lost[e.id] = twin
        else:
            kept[e.id] = twin
    lost = as_one(dataset.examples, lost)
    return {id_: twin for id_, twin in kept.items() if id_ not in lost}, lost


def _first(lm: LM, example: Example, candidates: Sequence[Twin]) -> Twin | str | None:
    """The first candidate that fits; None where none does."""
    clean = shapes(continuations(lm, example, example.sides))
    if None in clean:
        return "a token crosses the filler's edge"
    for twin in candidates:
        if shapes(continuations(lm, example, example.exchanged(twin.prompt))) == clean:
            return twin
    sizes = [len(encode(lm, prompt)) for prompt in (example.twin or example.prompt, example.prompt)]
    return None if sizes[0] == sizes[1] else f"its twin has {sizes[0]} tokens, the prompt {sizes[1]}"


def table(dataset: Dataset, kept: Mapping[str, Twin]) -> pl.DataFrame:
    """TWINS of the examples that have one; no partner where the rule exchanges no group for another."""
    partner = counterfactuals.RULES[dataset.rule].between_groups
    rows = [
        (e.id, e.group, kept[e.id].partner if partner else "", e.prompt, kept[e.id].prompt)
        for e in dataset.examples
        if e.id in kept
    ]
    return pl.DataFrame(rows, schema=TWINS, orient="row")


def acdc(lm: LM, examples: Sequence[Example], kept: Mapping[str, Twin]) -> list[dict[str, Any]]:
    """The pairs in the original study's form: they differ in the term alone, read before the filler."""
    if any(e.anti_prompt is not None for e in examples):
        raise UsageError(
            "--acdc has pairs of one prompt and two continuations; these examples have two prompts"
        )
    pairs = [(e, kept[e.id]) for e in examples if e.id in kept]
    return [
        {
            "pair_id": e.id,
            "clean": _side(lm, e, e.prompt, e.word),
            "corrupted": _side(lm, e, t.prompt, t.partner),
        }
        for e, t in pairs
    ]


def task(lm: LM, dataset: Dataset, kept: Mapping[str, Twin]) -> pl.DataFrame:
    """The pairs as EAP-IG and MIB's circuit track read a task: prompt, twin, and the token that is right.

    Right is the first side's, unless the partner has more of the covariate: a circuit's score is then how far
    the model follows the stereotype, and does not cancel over twins. Fillers of several tokens are left out.
    """
    if any(e.anti_prompt is not None for e in dataset.examples):
        raise UsageError(
            "--mib has pairs of one prompt and two continuations; these examples have two prompts"
        )
    rows, values = [], dataset.covariate or {}
    for e in dataset.examples:
        each = [s.ids[s.first :] for s in continuations(lm, e, e.sides)[:2] if isinstance(s, Scored)]
        if e.id not in kept or [len(ids) for ids in each] != [1, 1]:
            continue
        twin, tokens = kept[e.id], [ids[0] for ids in each]
        turned = values.get(e.group, 0.0) < values.get(twin.partner, 0.0)
        rows.append((e.prompt, twin.prompt, *(tokens[::-1] if turned else tokens), e.group, twin.partner))
    names = ("clean", "corrupted", "correct_idx", "incorrect_idx", "group", "partner")
    return pl.DataFrame(rows, names, orient="row")


def _side(lm: LM, example: Example, prompt: str, term: str) -> dict[str, Any]:
    """One prompt with the filler of the stereotype (“he”): its tokens, and both fillers' after the prompt."""
    each = continuations(lm, example, example.exchanged(prompt))
    stereo, anti, *_ = (s.ids[s.first :] for s in each if isinstance(s, Scored))
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
