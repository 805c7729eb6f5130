"""Words in a prompt: where a term stands, the prompt with another in its place, what texts have in common."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

MOST = 4
"""Bias types that a sentence names."""


@dataclass(frozen=True)
class Twin:
    """A candidate."""

    prompt: str
    partner: str
    """What stands in the term's place."""


def cases(text: str) -> dict[str, Callable[[str], str]]:
    """How a term may be written → how its partner is written then."""
    ways: list[Callable[[str], str]] = [str, str.lower, str.upper, lambda s: s[:1].upper() + s[1:], str.title]
    return {way(text): way for way in reversed(ways)}


def places(prompt: str, term: str) -> list[tuple[int, int, str]]:
    """Start, end and ending ("", "s", "'s") of every place where the term stands as a whole word."""
    written = "|".join(sorted(map(re.escape, cases(term)), key=len, reverse=True))
    return [
        (m.start(), m.end(), m[2] or "") for m in re.finditer(rf"(?<!\w)({written})('s|s)?(?!\w)", prompt)
    ]


def replaced(prompt: str, term: str, partner: str) -> tuple[str, bool]:
    """The prompt with the term replaced wherever it stands, and whether it stood anywhere."""
    return exchanged(prompt, {term: partner})


def exchanged(prompt: str, partner_of: Mapping[str, str]) -> tuple[str, bool]:
    """The prompt with terms replaced by their partners wherever they stand, the article before each
    corrected, and whether any stood there.
    """
    ways = {text: (way, partner_of[term]) for term in partner_of for text, way in cases(term).items()}
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


def shared(*lines: Sequence[Any]) -> int:
    """How many words, or tokens, all of them begin with."""
    return sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*lines, strict=False)))


def stereotypes(kinds: Iterable[str]) -> str:
    """What a data set of these bias types is about, as a sentence names it; of many no type is named."""
    names = [name.replace("_", " ").replace("-", " ") for name in dict.fromkeys(kinds)]
    if not 0 < len(names) <= MOST:
        return "stereotypes"
    return f"stereotypes about {' and '.join([', '.join(names[:-1])] * (len(names) > 1) + names[-1:])}"
