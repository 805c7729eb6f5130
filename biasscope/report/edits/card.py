"""The card beside an exported edit: what it does, what it costs, what the files hold, what is not known."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from biasscope.engine.schemas import NONE, number
from biasscope.engine.settings import KINDS
from biasscope.engine.statistics.inference.resampling import plural
from biasscope.engine.statistics.mitigate import CHOOSING, FACTS, JUDGED, LOSS, TEXT, TRANSFER
from biasscope.engine.store import files
from biasscope.engine.store.runs import DatasetPart, Result
from biasscope.report import markdown
from biasscope.report.edits.judged import Judged, Row, edits, loss, sentences
from biasscope.report.edits.tables import audited, cell, head, transferred
from biasscope.report.numbers import digits, span, two
from biasscope.report.tables import escaped

FILE = "card.md"
LIMITS = (
    "It was measured on these prompts, in their language, with the two pronouns or continuations that they "
    "have; what it does in other text is not known.",
    "What it takes away can often still be read: `biasscope probe --edit` says where, and `biasscope ablate "
    "--edit` what carries the rest.",
    "A smaller number here says nothing about people, or about harm in use; no model is free of bias by it.",
    "Competence may rise and the loss on text hardly move: both bound harm, neither shows a good trade.",
)
OF_FORM = {
    "ia3": "PEFT's `unmerge` of zeros divides by zero: merge into a copy. bfloat16 was not measured.",
    "weights": "bfloat16 was not measured.",
    "vector": "It is added at every position, the first one too; it was measured so.",
    "gguf": "llama.cpp itself was not run: the numbering of blocks follows its loader's source.",
}


class Exported(Protocol):
    """An edit that was written."""

    @property
    def target(self) -> Any:
        """Its name, the forms and the folder."""

    @property
    def recipe(self) -> Any:
        """The edit itself, with its model and digest."""

    @property
    def row(self) -> Mapping[str, Any]:
        """Its row in EDITS."""

    @property
    def holds(self) -> Mapping[str, str]:
        """File → what it holds."""

    @property
    def apart(self) -> Mapping[str, float]:
        """Form → largest difference of target when it was read back, nats."""


def write(left: Exported, result: Result) -> Path:
    """Write the card into the folder of the edit; its path."""
    (summary,), (part,) = result.summaries, result.record.datasets
    edit = next(edit for edit in edits(summary) if edit.name == left.target.name)
    path: Path = left.target.folder / FILE
    text = "\n".join(_lines(left, edit, summary, part)) + "\n"
    files.write_bytes(path, text.encode())
    return path


def _lines(left: Exported, edit: Judged, summary: pl.DataFrame, part: DatasetPart) -> Iterator[str]:
    """The card, line by line."""
    model, row = left.recipe.model, left.row
    yield f"# {edit.name}: {KINDS[edit.kind].noun} in {escaped(model['name'])}"
    yield ""
    yield " ".join(sentences(edit, part, transferred(summary)))
    yield ""
    yield f"- model: {escaped(model['name'])}, weights sha256 {model['digest']}"
    yield f"- edit: kind {edit.kind}, dose {row['dose']:g}, at {row['sites']}, sha256 {left.recipe.digest}"
    fitted = f", read at the {row['at']} token" if row["at"] else ""
    halves = f"fitted on half of the {plural(part.noun)} of {escaped(part.name)}{fitted}"
    yield f"- {halves}, judged on the other half"
    yield f"- seed {left.recipe.about['seed']}; measured by `{left.recipe.about['command']}`"
    yield ""
    yield "## What it takes and what it costs"
    yield from _table(["measured", "judged half", "choosing half"], _numbers(edit, summary))
    yield ""
    yield "## Random edits beside it (judged half)"
    yield from _table(
        ["control", f"{edit.statistic} left, 5 to 95 % of draws", "draws", "rank"], _controls(edit)
    )
    yield ""
    yield "The rank is (1 + draws that leave as little) / (1 + draws); above 0.05 nothing is shown."
    yield ""
    yield "## Who carries it now"
    yield from _audit(edit, summary)
    yield ""
    yield "## What is in this folder"
    for name, text in left.holds.items():
        yield f"- `{name}`: {text}"
    for form, apart in left.apart.items():
        yield f"- {form}: read back by transformers, target differs by {apart:.1g} nats from the measured one"
    yield ""
    yield "It holds no data and no measurement; `edit.safetensors` refuses another model."
    yield ""
    yield "## Limits"
    yield from (f"- {text}" for text in [*LIMITS, *(OF_FORM[f] for f in left.target.forms if f in OF_FORM)])


def _numbers(edit: Judged, summary: pl.DataFrame) -> Iterator[list[str]]:
    """The rows of the table of costs."""

    def both(name: str, statistic: str, metric: str = "target") -> list[str]:
        halves = (edit.row(subset, statistic, metric) for subset in (JUDGED, CHOOSING))
        return [name, *map(_span, halves)]

    def alone(name: str, row: Row | None) -> list[list[str]]:
        return [] if row is None else [[name, _span(row), NONE]]

    yield both(f"{edit.statistic} left, share of the clean one", "left")
    yield both(f"{edit.statistic} after it, {edit.change['unit']}", "value")
    if edit.statistic == "slope":
        yield both("shift of the base rate, nats", "mean")
    yield both("kl of the next token, nats", "mean", "kl")
    yield both("competence, nats", "mean", "competence")
    elsewhere = transferred(summary)
    yield from alone(f"{edit.statistic} left on {elsewhere}", edit.left(TRANSFER))
    accuracy = edit.row(FACTS, "accuracy")
    clean = {row["statistic"]: row for row in summary.filter(position="clean").to_dicts()}
    if accuracy is not None and "accuracy" in clean:
        name = f"right pronoun where gender is a fact (clean {two(clean['accuracy']['estimate'])})"
        yield from alone(name, accuracy)
        gap = number(clean["gap"]["estimate"])
        yield from alone(f"factual gap left (clean gap {gap} nats)", edit.left(FACTS))
    if (row := loss(edit)) is not None:
        before = clean.get(f"{LOSS}_clean")
        text = f"{TEXT}: loss per token, nats (clean {number(before['estimate']) if before else NONE})"
        yield from alone(text, row)


def _controls(edit: Judged) -> Iterator[list[str]]:
    """The rows of the table of controls."""
    for role, rank in edit.ranks.items():
        band = edit.band(role)
        ends = NONE if band is None or band["ci_low"] is None else span(band)
        yield [role, ends, str(rank["n"]), two(rank["estimate"])]


def _audit(edit: Judged, summary: pl.DataFrame) -> Iterator[str]:
    """What an audit of the edited model found, or the command for one."""
    found = next((each for each in audited(summary) if each.name == edit.name), None)
    if found is None:
        yield "Not audited: `biasscope ablate --edit edit.safetensors` says which heads carry the rest."
        return
    yield found.sentence
    yield ""
    body = ([head(row), cell(row), cell(found.was(row))] for row in found.now)
    yield from _table(["head", f"{edit.statistic} when it is replaced", "before the edit"], body)
    yield ""
    yield "Judged half; measured exactly: the heads that an estimate puts first, and those first before."


def _span(row: Row | None) -> str:
    """A number with its interval, to three digits."""
    if row is None or row["estimate"] is None:
        return NONE
    return f"{number(row['estimate'])} {digits(row)}".rstrip()


def _table(columns: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    """A Markdown table; a line where it has no row."""
    body = list(rows)
    if not body:
        yield "None was drawn."
        return
    yield markdown.table(columns, body).rstrip()
