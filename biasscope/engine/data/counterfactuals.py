"""Counterfactual twins, as text, and the rules that make them, by name.

A twin is a pure function of the prompt's text and the seed, so equal prompts have equal twins. It measures
what is specific to the term against another of its class; the twin has stereotypes of its own and is no
neutral point.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from biasscope.engine.data import stereoset_twins
from biasscope.engine.data.terms import Twin, exchanged, places, replaced
from biasscope.engine.types import Dataset, Example

Candidates = tuple[Twin, ...] | str
"""In order of preference, or why there is none."""
Length = Callable[[str], int]
"""How many tokens a word is, after a space."""


def of_occupation(example: Example, partner: str) -> tuple[Twin, ...] | str:
    """The twin of a prompt about an occupation, or the reason why there is none."""
    if partner == example.meta.get("participant"):
        return f"its twin's occupation is the participant, {partner}"
    prompt, named = replaced(example.prompt, example.word, partner)
    return (Twin(prompt, partner),) if named else "the prompt does not name its occupation"


def partners(occupations: Mapping[str, tuple[float, float]], length: Callable[[str], int]) -> dict[str, str]:
    """Occupation → its partner on the other side of 50 per cent of women, among those of as many tokens.

    `occupations`: name → per cent of women by BLS and Bergsma. Partners are those on which both agree. Same
    rank gives every pair about 50 points; taking the farthest would use six partners in all.
    """
    partner_of: dict[str, str] = {}
    for size in {length(name) for name in occupations}:
        same = sorted((bls, name) for name, (bls, _) in occupations.items() if length(name) == size)
        for women in (False, True):
            own = [name for bls, name in same if (bls >= 50) == women]
            others = [
                name for bls, name in same if (bls >= 50) != women and (occupations[name][1] >= 50) != women
            ]
            partner_of |= {name: others[i * len(others) // len(own)] for i, name in enumerate(own) if others}
    return partner_of


def of_roles(example: Example) -> tuple[Twin, ...] | str:
    """The twin in which the two occupations change places, letter case and a/an by place, or the reason why
    there is none.
    """
    own, other = example.word, str(example.meta["other"])
    if not places(example.prompt, own) or not places(example.prompt, other):
        return "the prompt does not name both occupations"
    return (Twin(exchanged(example.prompt, {own: other, other: own})[0], other),)


def of_polarity(example: Example, others: Mapping[str, Sequence[Example]]) -> tuple[Twin, ...] | str:
    """The twins that ask the other question of its pair, or the reason why there is none. `others`:
    `together` → the examples of the set.
    """
    questions = {e.prompt: str(e.meta["polarity"]) for e in others[example.together]}
    twins = [Twin(text, kind) for text, kind in questions.items() if kind != example.meta["polarity"]]
    return tuple(twins) or "the other question of its pair is missing"


def _occupations(dataset: Dataset, seed: int, length: Length) -> Callable[[Example], Candidates]:
    """Another occupation on the other side of 50 per cent of women, of as many tokens."""
    everything = dataset.whole or dataset.examples
    facts = {
        e.word: (float(e.meta["bls_pct_female"]), float(e.meta["bergsma_pct_female"])) for e in everything
    }
    chosen = partners(facts, lru_cache(None)(length))
    missing = f"no occupation of as many tokens{_where(dataset)}"
    return lambda e: of_occupation(e, chosen[e.word]) if e.word in chosen else missing


def _terms_of_a_class(dataset: Dataset, seed: int, length: Length) -> Callable[[Example], Candidates]:
    """StereoSet's rules: another term of the same class, none that belongs to another part of the data."""
    outside = {stereoset_twins.written(word) for word in dataset.outside}
    terms: dict[str, set[str]] = defaultdict(set)
    for e in dataset.whole or dataset.examples:
        terms[e.bias_type].add(e.word)

    def candidates(e: Example) -> Candidates:
        twins = stereoset_twins.of_sentence(e, terms[e.bias_type], seed)
        if isinstance(twins, str) or not outside:
            return twins
        return tuple(t for t in twins if t.partner not in outside) or f"no counterpart{_where(dataset)}"

    return candidates


def _where(dataset: Dataset) -> str:
    return " in its half" if dataset.outside else ""


def _sides(dataset: Dataset, seed: int, length: Length) -> Callable[[Example], Candidates]:
    """The other of two prompts: each side's twin is the other side's."""
    return lambda e: (Twin(e.anti_prompt, ""),) if e.anti_prompt else e.flaw or "it has one prompt"


def _given(dataset: Dataset, seed: int, length: Length) -> Callable[[Example], Candidates]:
    """The counterfactual prompt that the data give."""
    return lambda e: (Twin(e.twin, ""),) if e.twin else "no twin is given for it"


def _none(dataset: Dataset, seed: int, length: Length) -> Callable[[Example], Candidates]:
    """No twin."""
    return lambda e: f"{dataset.name} defines no counterfactual twins"


def _roles(dataset: Dataset, seed: int, length: Length) -> Callable[[Example], Candidates]:
    """The two occupations of the prompt change places."""
    return of_roles


def _polarity(dataset: Dataset, seed: int, length: Length) -> Callable[[Example], Candidates]:
    """The other question of the pair."""
    sets: dict[str, list[Example]] = defaultdict(list)
    for e in dataset.whole or dataset.examples:
        sets[e.together].append(e)
    return lambda e: of_polarity(e, sets)


@dataclass(frozen=True)
class Rule:
    """How twins are made."""

    make: Callable[[Dataset, int, Length], Callable[[Example], Candidates]]
    """Of a dataset, a seed and the length of words: the candidates of an example."""
    between_groups: bool = False
    """Whether one group is exchanged for another, so that two which only meet each other are one cluster."""
    unfit: str = "no twin of as many tokens"
    """The reason where no candidate has the prompt's tokens."""


RULES = {
    "occupation": Rule(_occupations, between_groups=True),
    "stereoset": Rule(_terms_of_a_class, between_groups=True),
    "roles": Rule(_roles),
    "polarity": Rule(_polarity, unfit="the two questions differ in length"),
    "sides": Rule(_sides, unfit="its two prompts differ in length"),
    "given": Rule(_given, unfit="its twin has not as many tokens"),
    "none": Rule(_none),
}
