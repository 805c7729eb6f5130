"""One prompt, its twin and the heads behind it, for people: an anecdote, and called so."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import polars as pl

from biasscope.engine.schemas import number
from biasscope.engine.settings import Format
from biasscope.report import formats
from biasscope.report.drawing import columns
from biasscope.report.page.odds import exact
from biasscope.report.tables import Table

PLACED = {"corrupt": "what it writes after the twin", "zero": "zeros"}
"""Source → what stands in a head's place."""
ANECDOTE = (
    "One prompt is an anecdote: other words may turn it round, and no interval can be given. "
    "`biasscope baseline --dataset occupations` measures 720 prompts."
)


def show(document: Mapping[str, Any], chosen: Format | None) -> None:
    """Write an answer of `ask` (see `experiments.ask.document`) to stdout."""
    chosen = formats.form(chosen)
    if chosen is Format.TABLE:
        for table in tables(document):
            columns.draw(table, sys.stdout)
    elif chosen is Format.JSON:
        formats.write_json(document)
    else:
        formats.rows(pl.DataFrame(document["heads"]), chosen)
    sys.stdout.flush()


def tables(document: Mapping[str, Any]) -> list[Table]:
    """The answer as tables: what is likelier, after the twin too, and the heads."""
    both = [(name, said) for name in ("prompt", "twin") if (said := document[name])]
    rows = []
    for name, said in both:
        for side in said["continuations"]:
            pieces = " ".join(f"[{piece}]" for piece in side["tokens"])
            rows.append([name, side["text"], pieces, f"{100 * math.exp(side['logp']):.3g} %"])
    notes = [f"{name}: “{said['prompt']} ___”: {preference(said)}" for name, said in both]
    notes += [f"twin: {document['why']}" if document["twin"] else f"no twin: {document['why']}"]
    notes.append(f"tokens of the prompt: {' '.join(f'[{piece}]' for piece in document['prompt']['tokens'])}")
    title = f"{document['model']}: one prompt"
    first = Table(title, ["after", "continuation", "tokens", "probability"], [rows], notes)
    return [first, _heads(document)]


def preference(said: Mapping[str, Any]) -> str:
    """Which continuation is likelier, and how many times."""
    first, second = (side["text"] for side in said["continuations"])
    likely, other = (first, second) if said["target"] >= 0 else (second, first)
    times = exact(abs(said["target"]))
    return f"“{likely}” is {times} times as likely as “{other}” (target {number(said['target'])} nats)"


def _heads(document: Mapping[str, Any]) -> Table:
    """The heads that are estimated to move the preference most."""
    total = document["total"]
    rows = [
        [h["site"], number(h["effect"]), *([number(h["effect"] / total)] if total else [])]
        for h in document["heads"]
    ]
    placed = PLACED[document["source"]]
    notes = [f"change: of target, nats, with {placed} in its place; estimated from one gradient"]
    notes += [f"share: of {number(total)} nats, the change of the whole prompt for its twin"] if total else []
    columns = ["head", "change", *(["share"] if total else [])]
    return Table("heads, by attribution", columns, [rows], [*notes, ANECDOTE])
