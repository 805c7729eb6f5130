"""StereoSet's counterfactual twins: a term is replaced by another of its class, in order of preference."""

import hashlib
import re
from collections.abc import Iterable, Sequence

from biasscope.engine.data.terms import Twin, places, replaced
from biasscope.engine.types import Example


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
    if not places(prompt, term):
        return (
            "its term stands after BLANK"
            if places(example.suffix, term)
            else "its prefix does not name the term as a whole word"
        )
    if any(
        re.match(r" [A-Z](?!\b)", prompt[end:]) and not prompt[start:end].isupper()
        for start, end, _ in places(prompt, term)
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
        re.match(r" (are|were|have)\b|$", prompt[end:]) for _, end, _ in places(prompt, term)
    ):
        return "Japanese as a plural noun has no twin of the same form"
    kind = COUNTRIES if term in COUNTRIES else PEOPLES
    fits = [p for p in kind if p != term and not any({p, term} <= group for group in NOT_TOGETHER)]
    return _seeded(prompt, term, fits, seed)


def _profession(prompt: str, term: str, terms: Sequence[str], seed: int) -> tuple[Twin, ...] | str:
    plural = any(suffix == "s" for _, _, suffix in places(prompt, term))
    if plural and term in MEN_ONLY:
        return f"no plural of {term}"
    women = plural or re.search(r"\b(she|her|woman|female)\b", prompt, re.IGNORECASE)
    return _seeded(prompt, term, [p for p in terms if p != term and not (women and p in MEN_ONLY)], seed)


def _religion(prompt: str, term: str, _: Sequence[str], __: int) -> tuple[Twin, ...] | str:
    return tuple(Twin(replaced(prompt, term, partner)[0], partner) for partner in RELIGION[term])


def _seeded(prompt: str, term: str, fits: Iterable[str], seed: int) -> tuple[Twin, ...]:
    """Twins in an order that only the seed, the prompt and the partner decide."""
    order = sorted(
        fits, key=lambda partner: hashlib.sha256(repr((seed, prompt, partner)).encode()).hexdigest()
    )
    return tuple(Twin(replaced(prompt, term, partner)[0], partner) for partner in order)


def _gender(prompt: str, term: str, _: Sequence[str], __: int) -> tuple[Twin, ...] | str:
    """Twins in which the pronouns that mean the term follow it."""
    male = term in ("grandfather", "male", "schoolboy", "gentlemen", "himself")
    own, reflexive = (HIS if male else HER), term in ("himself", "herself")
    standing = places(prompt, term)
    words = [(m.start(), m[0].lower()) for m in re.finditer(r"[A-Za-z]+", prompt)]
    before = [at for at, word in words if word in own and at < standing[0][0]]
    after = [at for at, word in words if word in own and at > standing[0][0]]
    if reflexive and not before and not after:
        return f"{term} without a pronoun that it refers to"
    if not reflexive and before and after:
        return "pronouns of the term's gender before and after it"
    if any(
        word in (MALE_NOUNS if male else FEMALE_NOUNS) and not any(s <= at < e for s, e, _ in standing)
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
    return replaced(re.sub(r"[A-Za-z]+", exchanged, prompt), term, partner)[0]
