"""Measured texts as a document quotes them: one line, a gap where the two sides differ."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

QUOTED = 150
"""Characters of a quoted text; of a longer one the end is quoted, where the gap is."""


def quoted(row: Mapping[str, Any]) -> str:
    """The text of a row of PROMPTS in one line, with a gap where the sides differ; of a long one the end."""
    if row["anti_prompt"] is None:
        text = " ".join(f"{row['prompt']} ___{row['suffix']}".split())
    else:
        first, second = row["prompt"].split(), row["anti_prompt"].split()
        before = _alike(first, second)
        after = _alike(first[before:][::-1], second[before:][::-1])
        words = [*first[:before], "___", *first[len(first) - after :]]
        text = " ".join(f"{' '.join(words)}{row['stereo']}".split())
    return text if len(text) <= QUOTED else f"… {text[-QUOTED:].partition(' ')[2]}"


def _alike(first: Sequence[str], second: Sequence[str]) -> int:
    """How many words both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
