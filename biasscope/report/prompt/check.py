"""What can be measured with a data set, as a table of two columns."""

from collections.abc import Iterator, Mapping
from typing import Any

from biasscope.engine.schemas import number
from biasscope.engine.settings import Format
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS
from biasscope.report import formats

RULES = {
    "none": "none: patch with --source mean, or ablate",
    "given": "given for {n}",
    "sides": "the other prompt",
}
"""Rule → what it makes of twins; of others, what the command `pairs` shows."""


def show(facts: Mapping[str, Any], name: str, chosen: Format | None) -> None:
    """Write what was found to stdout."""
    cells = [list(line) for line in _lines(facts)]
    formats.listing(f"{name}: what can be measured", [dict(facts)], cells, chosen, ["what", "found"])


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "usable", f"{facts['usable']} of {facts['found']} records"
    yield from (("left out", f"{n}: {reason}") for reason, n in facts["dropped"].items())
    yield "contrast", f"{facts['sides'][0]} − {facts['sides'][1]}"
    if len(facts["bias_types"]) > 1:
        yield "bias types", ", ".join(f"{kind} {n}" for kind, n in facts["bias_types"].items())
    yield "groups", f"{facts['groups']} ({facts['noun']}), {_range(facts['group_sizes'])} each"
    if covariate := facts["covariate"]:
        unit = f" [{covariate['unit']}]" if covariate["unit"] else ""
        known = f"{_range(covariate)}, in {covariate['groups']} of {facts['groups']} groups"
        yield f"{covariate['name']}{unit}", known
    yield "ranks", f"slope of target on {covariate['name']}" if covariate else "mean of target"
    yield "intervals", "yes" if facts["intervals"] else f"none: they need {MIN_CLUSTERS} groups"
    yield "twins", RULES.get(facts["rule"], "by rule, see `biasscope pairs`").format(n=facts["twins"])
    if tokens := facts["tokens"]:
        yield from _of_tokens(tokens, facts)
    yield from (("note", note) for note in facts["notes"])


def _of_tokens(tokens: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield (
        "tokenizer",
        f"{tokens['model']}: {tokens['usable']} of {facts['usable']} examples, {tokens['nodes']} nodes",
    )
    yield from (("left out", f"{n}: {reason}") for reason, n in tokens["dropped"].items())
    names = dict(zip(("stereo", "anti", "unrelated"), (*facts["sides"], "unrelated"), strict=True))
    for side, lengths in tokens["lengths"].items():
        yield f"tokens of {names[side]}", _range(lengths)
    if facts["rule"] != "none":
        yield "twins that fit", f"{tokens['twins']} of {facts['usable']}"
        yield from (("no twin", f"{n}: {reason}") for reason, n in tokens["without_twin"].items())


def _range(spread: Mapping[str, float]) -> str:
    """Lowest to highest, and the median where they differ."""
    low, middle, high = (_short(spread[name]) for name in ("low", "median", "high"))
    return low if low == high else f"{low} to {high} (median {middle})"


def _short(value: float) -> str:
    return str(round(value)) if value == round(value) else number(value)
