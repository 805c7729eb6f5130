"""Conditions under which a command fails: a number beyond a value."""

import operator
import re
from dataclasses import dataclass

from biasscope.engine.errors import UsageError

GATED = ("slope", "mean", "ss", "icat", "lms", "difference")
"""Numbers that a gate can be on: of the clean model over all examples, or between two models."""


GRAMMAR = (
    "write [DATASET.]NUMBER[.ci_low|.ci_high], then >, >=, < or <=, then a value, such as "
    "winogender.slope > 0.5; "
    f"NUMBER is one of {', '.join(GATED)}"
)
"""How a gate is written."""


_GATE = re.compile(
    rf"(?:(?P<dataset>[\w-]+)\.)?(?P<number>{'|'.join(GATED)})(?:\.(?P<end>ci_low|ci_high))?"
    r"\s*(?P<sign>[<>]=?)\s*(?P<value>[-+−]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)",
    re.ASCII | re.IGNORECASE,
)
_SIGNS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Gate:
    """A condition under which a command fails: that a number is beyond a value."""

    text: str
    dataset: str | None
    """None: any."""
    number: str
    """One of GATED."""
    end: str
    """`estimate`, or an end of its interval."""
    sign: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """The condition of "winogender.slope > 0.5". UsageError, with the grammar, where it is none."""
        match = _GATE.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--fail-if '{text}' cannot be read; {GRAMMAR}")
        end = (match["end"] or "estimate").lower()
        value = float(match["value"].replace("−", "-"))
        return cls(text.strip(), match["dataset"], match["number"].lower(), end, match["sign"], value)

    def fails(self, number: float) -> bool:
        """Whether the number is beyond the value."""
        return bool(_SIGNS[self.sign](number, self.value))
