"""Odds, e^x with as many digits as tell them from 1, and measured texts, as a document words them."""

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from biasscope.engine.schemas import number

MOST = 50.0
"""Nats beyond which the odds say nothing more."""
QUOTED = 150
"""Characters of a quoted text; of a longer one the end is quoted, where the gap is."""
LARGEST = 1000.0
"""Odds above this are said to be more."""
LEAST = 0.01
"""Odds below this are said to be less."""


def odds(row: Mapping[str, Any]) -> str:
    """e^|estimate| with its interval in the same direction: "1.8 times (1.4 to 2.3)"."""
    sign = 1 if row["estimate"] >= 0 else -1
    size = factor(abs(row["estimate"]))
    if row["ci_low"] is None or row["ci_high"] is None:
        return f"{size} (no interval)"
    low, high = map(times, sorted((sign * row["ci_low"], sign * row["ci_high"])))
    return f"{size} ({low} to {high})"


def factor(nats: float) -> str:
    """A number of times: "1.8 times"."""
    return f"{times(nats)} times"


def exact(nats: float) -> str:
    """e^nats with three digits, to be put beside another, as far as it is said at all (see `times`)."""
    return number(math.exp(nats)) if abs(nats) <= math.log(LARGEST) else times(nats)


def times(nats: float) -> str:
    """e^nats without a unit: 0.93, 1.05, 2.3, 12."""
    value = math.exp(max(-MOST, min(nats, MOST)))
    if value > LARGEST:
        return f"more than {LARGEST:.0f}"
    if value < LEAST:
        return f"less than {LEAST}"
    return f"{value:.2f}" if value < 1.195 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


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
