"""Which examples a row of the baseline is about: named selections of examples, text only.

A name is "all", or what restricts it, joined by ", ": "bias type: race", "someone only", "intrasentence, bias type: race".
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine.resampling import MIN_CLUSTERS
from biasscope.engine.types import Example

Mask = NDArray[np.bool_]


def of_examples(examples: Sequence[Example], *, occupations: bool) -> dict[str, Mask]:
    """The selections of one dataset's examples, "all" first; one that would hold every example is left out.

    "bias type: X" · "without someone", "someone only" · "case: X" · "referent: occupation", "referent: participant" ·
    "gender: X" · then each group alone: "occupation: X" where `occupations`, else "term: X" in a bias type of fewer than 6 terms.
    """
    masks = {"all": np.ones(len(examples), bool)}

    def add(name: str, wanted: Iterable[bool]) -> None:
        mask = np.fromiter(wanted, bool, len(examples))
        if mask.any() and not mask.all():
            masks[name] = mask

    for bias_type in _seen(e.bias_type for e in examples):
        add(f"bias type: {bias_type}", (e.bias_type == bias_type for e in examples))
    if any("participant" in e.meta for e in examples):
        add("without someone", (e.meta.get("participant") != "someone" for e in examples))
        add("someone only", (e.meta.get("participant") == "someone" for e in examples))
    for case in _seen(e.meta.get("case") for e in examples):
        add(f"case: {case}", (e.meta.get("case") == case for e in examples))
    split = _told_apart(examples)
    for answer in _seen(e.meta.get("answer") for e in examples):
        add(f"referent: {answer}", (e.group in split and e.meta.get("answer") == answer for e in examples))
    for gender in _seen(e.meta.get("gender") for e in examples):
        add(f"gender: {gender}", (e.meta.get("gender") == gender for e in examples))
    noun, each = (
        ("occupation", _seen(e.group for e in examples))
        if occupations
        else ("term", _few_terms([(e.bias_type, e.group) for e in examples]))
    )
    for group in each:
        add(f"{noun}: {group}", (e.group == group for e in examples))
    return masks


def _told_apart(examples: Sequence[Example]) -> set[str]:
    """The occupations whose readout says which person the pronoun means: its prompt or pronouns differ between the two answers.

    In the other occupations both answers are one and the same readout (44 of WinoGender's 60): there is nothing to compare.
    """
    readouts: dict[tuple[str, object], dict[object, tuple[str, str, str]]] = defaultdict(dict)
    for e in examples:
        readouts[e.group, e.meta.get("participant")][e.meta.get("answer")] = (e.prompt, e.stereo, e.anti)
    return {group for (group, _), by_answer in readouts.items() if len(set(by_answer.values())) > 1}


def of_triples(triples: pl.DataFrame) -> dict[str, Mask]:
    """The selections of StereoSet triples, "all" first.

    "all" and "bias type: X" take every split there is; with two splits the same follow for each alone, as "intrasentence" and
    "intrasentence, bias type: X". "term: X" stands where a bias type has fewer than 6 terms.
    """
    masks = _of_split(triples, np.ones(len(triples), bool), "")
    splits = _seen(triples["split"])
    for split in splits if len(splits) > 1 else []:
        masks |= _of_split(triples, (triples["split"] == split).to_numpy(), split)
    return masks


def _of_split(triples: pl.DataFrame, within: Mask, split: str) -> dict[str, Mask]:
    masks = {split or "all": within}
    prefix = f"{split}, " if split else ""
    types = _seen(triples["bias_type"])
    for bias_type in types if len(types) > 1 else []:
        masks[f"{prefix}bias type: {bias_type}"] = within & (triples["bias_type"] == bias_type).to_numpy()
    for term in _few_terms(triples.select("bias_type", "group").rows()):
        masks[f"{prefix}term: {term}"] = within & (triples["group"] == term).to_numpy()
    return {name: mask for name, mask in masks.items() if mask.any()}


def _few_terms(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The terms of bias types that have too few of them for an interval, and more than one."""
    terms: dict[str, set[str]] = defaultdict(set)
    for bias_type, term in pairs:
        terms[bias_type].add(term)
    return sorted(term for some in terms.values() if 1 < len(some) < MIN_CLUSTERS for term in some)


def _seen(values: Iterable[Any]) -> list[Any]:
    """The distinct values that exist, sorted."""
    return sorted({value for value in values if value is not None})
