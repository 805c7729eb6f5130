"""Labelled sentences that differ in one run of words, as a prompt and its continuations."""

import re
from collections.abc import Mapping

from biasscope.engine.data.terms import shared

WORD = re.compile(r"\s*(?:\w+|[^\w\s])")
"""A word or a mark, with the space before it."""
COLUMNS = {
    "stereotype": "stereo",
    "anti-stereotype": "anti",
    "unrelated": "unrelated",
    "male": "a",
    "female": "b",
}
"""Label of a sentence → the column that its own words are in."""


def divided(labelled: Mapping[str, str]) -> dict[str, str] | str:
    """Column → text of an example whose sentences are given by their labels, or the reason why there is
    none.
    """
    both = [
        pair
        for pair in (("stereotype", "anti-stereotype"), ("male", "female"))
        if labelled.keys() >= set(pair)
    ]
    if not both or not labelled.keys() <= COLUMNS.keys():
        return "its labels are not those of two sides"
    words = [WORD.findall(sentence.strip()) for sentence in labelled.values()]
    start = shared(*words)
    end = min(shared(*(line[::-1] for line in words)), min(map(len, words)) - start - 1)
    if start == 0 or end < 0:
        return "its sentences do not begin alike and then differ"
    own = ["".join(line[start : len(line) - end]) for line in words]
    return {
        "prompt": "".join(words[0][:start]),
        **dict(zip((COLUMNS[label] for label in labelled), own, strict=True)),
        "suffix": "".join(words[0][len(words[0]) - end :]),
    }
