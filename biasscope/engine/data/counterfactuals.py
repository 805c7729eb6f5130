"""Counterfactual twins, as text: a prompt with its term replaced by another of the same class, in order of
preference.

A twin is a pure function of the prompt's text and the seed, so equal prompts have equal twins. It measures
what is specific to the term against another of its class; the twin has stereotypes of its own and is no
neutral point.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from biasscope.engine.types import Dataset, Example


def _terms(text: str) -> tuple[str, ...]:
    """Words or phrases divided by bars."""
    return tuple(text.split("|"))


COUNTRIES = _terms(
    "Afghanistan|Bangladesh|Britain|Cameroon|Cape "
    "Verde|Ecuador|Eriteria|Ethiopia|Iraq|Italy|Jordan|Lebanon|Morocco|Norway|"
    "Sierra Leon|Somalia|Spain|Syria|Vietnam|Yemen"
)
PEOPLES = _terms(
    "African|Arab|Bengali|Columbian|Crimean|Eritrean|Ethiopian|Ghanaian|Hispanic|Iranian|Japanese|Norweigan|Persian|Russian|"
    "Saudi Arabian|Ukrainian"
)
_ALIKE = (
    "Eritrean|Ethiopian|African|Ghanaian",
    "Crimean|Russian|Ukrainian",
    "Arab|Saudi Arabian",
    "Eriteria|Ethiopia",
)
NOT_TOGETHER = tuple(frozenset(_terms(group)) for group in _ALIKE)
"""Terms that may mean the same people or place are never each other's twin. (Spelling is StereoSet's.)"""
RELIGION = {
    "Muslim": _terms("Christian|Hindu|Buddhist|Catholic|Jew"),
    "Bible": _terms("Quran|Torah|Koran|Talmud"),
    "Brahmin": _terms("Dalit|Sudra|Rajput|Hindu"),
}
_PAIRS = {"male": "female", "schoolgirl": "schoolboy", "himself": "herself"}
GENDER = {
    "mother": ("father",),
    "grandfather": ("grandmother",),
    "sister": ("brother",),
    "mommy": _terms("daddy|papa|dad"),
    "gentlemen": _terms("ladies|gentlewomen"),
    **{one: (other,) for pair in _PAIRS.items() for one, other in (pair, pair[::-1])},
}
"""Term → its counterparts, best first."""
MEN_ONLY = ("delivery man", "policeman")
HIS, HER = ("he", "his", "him"), ("she", "her")
"""The pronouns of each gender."""
MALE_NOUNS = _terms(
    "man|men|boy|boys|father|fathers|dad|daddy|papa|son|sons|brother|brothers|uncle|husband|husbands|grandfather|grandpa|king|gentleman|"
    "gentlemen|guy|guys|male|males|schoolboy|schoolboys|boyfriend|mr|sir|nephew"
)
FEMALE_NOUNS = _terms(
    "woman|women|girl|girls|mother|mothers|mom|mommy|mama|daughter|daughters|sister|sisters|aunt|wife|wives|grandmother|grandma|queen|"
    "lady|ladies|female|females|schoolgirl|schoolgirls|girlfriend|mrs|ms|miss|niece|gentlewomen"
)
AFTER_HIM = _terms(
    "and|or|but|because|that|as|if|when|while|than|so|to|in|on|at|by|for|from|with|without|of|about|after|before|into|over|under|up|down|"
    "out|off|through|during|until|since|around|against|between|was|is|were|are"
)
"""Before one of these, or a mark, `her` is an object (him); before any other word it is a possessive
(his).
"""


@dataclass(frozen=True)
class Twin:
    """A candidate."""

    prompt: str
    partner: str
    """What stands in the term's place."""


def of_occupation(example: Example, partner: str) -> tuple[Twin, ...] | str:
    """The twin of a prompt about an occupation, or the reason why there is none."""
    if partner == example.meta.get("participant"):
        return f"its twin's occupation is the participant, {partner}"
    prompt, named = _replaced(example.prompt, example.word, partner)
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


def of_sentence(example: Example, terms: Iterable[str], seed: int) -> tuple[Twin, ...] | str:
    """The twins of a StereoSet prompt, best first, or the reason why there is none. `terms`: all of the
    example's bias type.
    """
    prompt = example.prompt
    if example.flaw:
        return example.flaw
    if not prompt or not example.stereo.startswith(" "):
        return "no prefix with a space before BLANK"
    term = written(example.word)
    classes = {
        "race": (*COUNTRIES, *PEOPLES),
        "religion": tuple(RELIGION),
        "gender": tuple(GENDER),
        "profession": tuple(terms),
    }
    if example.bias_type not in classes:
        return f"no counterpart is defined for {example.bias_type}"
    if term not in classes[example.bias_type]:
        return "no counterpart is defined for its term"
    if not _places(prompt, term):
        return (
            "its term stands after BLANK"
            if _places(example.suffix, term)
            else "its prefix does not name the term as a whole word"
        )
    if any(
        re.match(r" [A-Z](?!\b)", prompt[end:]) and not prompt[start:end].isupper()
        for start, end, _ in _places(prompt, term)
    ):
        return "its term is part of a name"
    makers = {"race": _race, "profession": _profession, "religion": _religion, "gender": _gender}
    return makers[example.bias_type](prompt, term, sorted(terms), seed)


def written(term: str) -> str:
    """What of a term is replaced, and stands in the twins of others: "Persian" of StereoSet's "Persian
    people".
    """
    return "Persian" if term == "Persian people" else term


def _race(prompt: str, term: str, _: Sequence[str], seed: int) -> tuple[Twin, ...] | str:
    if term == "Japanese" and any(
        re.match(r" (are|were|have)\b|$", prompt[end:]) for _, end, _ in _places(prompt, term)
    ):
        return "Japanese as a plural noun has no twin of the same form"
    kind = COUNTRIES if term in COUNTRIES else PEOPLES
    fits = [p for p in kind if p != term and not any({p, term} <= group for group in NOT_TOGETHER)]
    return _seeded(prompt, term, fits, seed)


def _profession(prompt: str, term: str, terms: Sequence[str], seed: int) -> tuple[Twin, ...] | str:
    plural = any(suffix == "s" for _, _, suffix in _places(prompt, term))
    if plural and term in MEN_ONLY:
        return f"no plural of {term}"
    women = plural or re.search(r"\b(she|her|woman|female)\b", prompt, re.IGNORECASE)
    return _seeded(prompt, term, [p for p in terms if p != term and not (women and p in MEN_ONLY)], seed)


def _religion(prompt: str, term: str, _: Sequence[str], __: int) -> tuple[Twin, ...] | str:
    return tuple(Twin(_replaced(prompt, term, partner)[0], partner) for partner in RELIGION[term])


def _seeded(prompt: str, term: str, fits: Iterable[str], seed: int) -> tuple[Twin, ...]:
    """Twins in an order that only the seed, the prompt and the partner decide."""
    order = sorted(
        fits, key=lambda partner: hashlib.sha256(repr((seed, prompt, partner)).encode()).hexdigest()
    )
    return tuple(Twin(_replaced(prompt, term, partner)[0], partner) for partner in order)


def _gender(prompt: str, term: str, _: Sequence[str], __: int) -> tuple[Twin, ...] | str:
    """Twins in which the pronouns that mean the term follow it."""
    male = term in ("grandfather", "male", "schoolboy", "gentlemen", "himself")
    own, reflexive = (HIS if male else HER), term in ("himself", "herself")
    places = _places(prompt, term)
    words = [(m.start(), m[0].lower()) for m in re.finditer(r"[A-Za-z]+", prompt)]
    before = [at for at, word in words if word in own and at < places[0][0]]
    after = [at for at, word in words if word in own and at > places[0][0]]
    if reflexive and not before and not after:
        return f"{term} without a pronoun that it refers to"
    if not reflexive and before and after:
        return "pronouns of the term's gender before and after it"
    if any(
        word in (MALE_NOUNS if male else FEMALE_NOUNS) and not any(s <= at < e for s, e, _ in places)
        for at, word in words
    ):
        return "another noun of the term's gender"
    if any(word in GENDER[term] for _, word in words):
        return "the counterpart is already there"
    follow = {*before, *after} if reflexive else set(after)
    return tuple(Twin(_followed(prompt, term, partner, follow), partner) for partner in GENDER[term])


def _followed(prompt: str, term: str, partner: str, follow: set[int]) -> str:
    """The prompt with the term and the pronouns at some places changed to the other gender."""

    def exchanged(match: re.Match[str]) -> str:
        if match.start() not in follow:
            return match[0]
        word, rest = match[0].lower(), re.match(r"\s*([A-Za-z]*)", prompt[match.end() :])
        following = rest[1].lower() if rest else ""
        object_ = not following or following in AFTER_HIM
        new = {"he": "she", "she": "he", "his": "her", "him": "her"}.get(word) or (
            "him" if object_ else "his"
        )
        return new.capitalize() if match[0][0].isupper() else new

    # longer or shorter pronouns would move the term's place: it is replaced afterwards, by name
    return _replaced(re.sub(r"[A-Za-z]+", exchanged, prompt), term, partner)[0]


def of_roles(example: Example) -> Twin | str:
    """The twin in which the two occupations change places, letter case and a/an by place, or the reason why
    there is none.
    """
    own, other = example.word, str(example.meta["other"])
    if not _places(example.prompt, own) or not _places(example.prompt, other):
        return "the prompt does not name both occupations"
    return Twin(_exchanged(example.prompt, {own: other, other: own})[0], other)


def of_polarity(example: Example, others: Mapping[str, Sequence[Example]]) -> tuple[Twin, ...] | str:
    """The twins that ask the other question of its pair, or the reason why there is none. `others`:
    `together` → the examples of the set.
    """
    questions = {e.prompt: str(e.meta["polarity"]) for e in others[example.together]}
    twins = [Twin(text, kind) for text, kind in questions.items() if kind != example.meta["polarity"]]
    return tuple(twins) or "the other question of its pair is missing"


def _cases(text: str) -> dict[str, Callable[[str], str]]:
    """How a term may be written → how its partner is written then."""
    ways: list[Callable[[str], str]] = [str, str.lower, str.upper, lambda s: s[:1].upper() + s[1:], str.title]
    return {way(text): way for way in reversed(ways)}


def _places(prompt: str, term: str) -> list[tuple[int, int, str]]:
    """Start, end and ending ("", "s", "'s") of every place where the term stands as a whole word."""
    written = "|".join(sorted(map(re.escape, _cases(term)), key=len, reverse=True))
    return [
        (m.start(), m.end(), m[2] or "") for m in re.finditer(rf"(?<!\w)({written})('s|s)?(?!\w)", prompt)
    ]


def _replaced(prompt: str, term: str, partner: str) -> tuple[str, bool]:
    """The prompt with the term replaced wherever it stands, and whether it stood anywhere."""
    return _exchanged(prompt, {term: partner})


def _exchanged(prompt: str, partner_of: Mapping[str, str]) -> tuple[str, bool]:
    """The prompt with terms replaced by their partners wherever they stand, the article before each
    corrected, and whether any stood there.
    """
    ways = {text: (way, partner_of[term]) for term in partner_of for text, way in _cases(term).items()}
    written = "|".join(sorted(map(re.escape, ways), key=len, reverse=True))

    def put(match: re.Match[str]) -> str:
        way, partner = ways[match[2]]
        new, article = way(partner), match[1] or ""
        if article:
            vowel = new[0].lower() in "aeiou"
            article = article[0] + ("n " if vowel else " ")
        return f"{article}{new}{match[3] or ''}"

    new, n = re.subn(rf"(?<!\w)((?:[Aa]n?) )?({written})('s|s)?(?!\w)", put, prompt)
    return new, n > 0


Candidates = tuple[Twin, ...] | str
"""In order of preference, or why there is none."""
Length = Callable[[str], int]
"""How many tokens a word is, after a space."""


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
    outside = {written(word) for word in dataset.outside}
    terms: dict[str, set[str]] = defaultdict(set)
    for e in dataset.whole or dataset.examples:
        terms[e.bias_type].add(e.word)

    def candidates(e: Example) -> Candidates:
        twins = of_sentence(e, terms[e.bias_type], seed)
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


Rule = Callable[[Dataset, int, Length], Callable[[Example], Candidates]]
RULES: dict[str, Rule] = {
    "occupation": _occupations,
    "stereoset": _terms_of_a_class,
    "sides": _sides,
    "given": _given,
    "none": _none,
}
"""How twins are made, by name: of a dataset, a seed and the length of words → the candidates of an
example.
"""
BETWEEN_GROUPS = ("occupation", "stereoset")
"""Rules that exchange one group for another, so that two which only meet each other are one cluster."""
