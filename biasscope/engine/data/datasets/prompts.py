"""Prompts of one's own: a FILE of CSV, TSV, JSON lines, JSON or Parquet, or a table in memory; one record an
example.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from biasscope.engine.data import datasets, prompt_columns, prompt_records, reading, sheets
from biasscope.engine.data.prompt_columns import Columns
from biasscope.engine.data.prompt_records import Parsed
from biasscope.engine.data.reading import Origin
from biasscope.engine.data.sheets import Sheet
from biasscope.engine.settings import Loaded, Measure
from biasscope.engine.store import digests
from biasscope.engine.types import Covariate, Dataset, Example

# No names: these are read by the path of the file.
NAMES: tuple[str, ...] = ()
ORIGIN = Origin(name="file", credit="the user's file", licence="the user's", host="file")
NOUNS = ("cluster", "occupation")
"""Names of the group's column that say what a group is."""
TEMPLATE = "template"
"""The column of one's own that names the sentence frame which prompts of several groups share."""

SHORT = 20
"""Characters of a continuation that names a side in a sentence."""
EXAMPLES = Path(__file__).parent / "example_prompts"
"""A folder with a file of examples for each form."""


def read(name: str, data_dir: Path, *, skip_invalid: bool = False, no_space: bool = False) -> Dataset:
    """The examples of a file, in its order; `name` is its path.

    DataError, with every fault and its line, where columns or, without `skip_invalid`, records cannot be
    used.
    """
    path = Path(name)
    sheet = sheets.read(path)
    dataset = of_sheet(sheet, path.stem, skip_invalid=skip_invalid, no_space=no_space)
    return replace(dataset, record={**ORIGIN.record(), "file": path.name})


def of_table(table: Any, name: str, *, skip_invalid: bool = False, no_space: bool = False) -> Dataset:
    """The examples of a table in memory, as a data set of that name, or of a file by its path."""
    how = {"skip_invalid": skip_invalid, "no_space": no_space}
    if not isinstance(table, str | Path):
        return of_sheet(sheets.of_rows(table, name), name, **how)
    folder = Measure().data_dir
    data = datasets.read(str(table), folder, **how)
    content = digests.of_examples(data.examples, data.covariates)
    return replace(data, loaded=Loaded(str(table), folder, 0, content, **how))


def of_sheet(sheet: Sheet, name: str, *, skip_invalid: bool = False, no_space: bool = False) -> Dataset:
    """The examples of a table, as a data set of that name."""
    columns = prompt_columns.columns(sheet)
    parsed = prompt_records.parse(sheet, columns, no_space=no_space)
    total = len(sheet.records)
    dropped = reading.refuse(parsed.problems, sheet.origin, total, skip=skip_invalid)
    called = free(name)
    examples = tuple(replace(example, dataset=called) for example in parsed.examples)
    covariates, notes = _covariates(columns, parsed)
    return Dataset(
        called,
        examples,
        digests.of_examples(examples, covariates),
        total,
        dropped,
        (*_notes(columns, examples), *notes),
        covariates=covariates,
        templates={e.id: str(e.meta[TEMPLATE]) for e in examples if TEMPLATE in e.meta},
        noun=_noun(columns),
        sides=_sides(columns, examples),
        bias="the stereotypes that the file names" if _stereotyped(columns) else "",
        rule=_rule(columns, examples),
    )


def free(name: str) -> str:
    """A name for data that is safe in file names and that no other data set has."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:80] or "prompts"
    return f"prompts_{safe}" if safe in datasets.names() else safe


def _covariates(columns: Columns, parsed: Parsed) -> tuple[tuple[Covariate, ...], tuple[str, ...]]:
    """The covariate where it takes two values or more, and a note where it does not."""
    if "covariate" not in columns.names:
        return (), ()
    name, unit = columns.covariate
    values = {group: value for group, (value, _) in parsed.values.items()}
    if len(set(values.values())) > 1:
        return (Covariate(name, unit, values),), ()
    what = f"is {next(iter(values.values())):.6g} in every group" if values else "is empty throughout"
    return (), (f"{name} {what}: there is no slope, the mean ranks",)


def _notes(columns: Columns, examples: Sequence[Example]) -> list[str]:
    notes = []
    if "group" not in columns.names:
        notes.append("without a column `group` each distinct prompt is one: prompts count as independent")
    if columns.others:
        notes.append(f"other columns, kept for --group-by: {', '.join(columns.others)}")
    if 0 < (each := sum(e.per_token for e in examples)) < len(examples):
        notes.append(
            f"{each} of {len(examples)} rows are per token, the others sums: a mean over both mixes two "
            "units; give each kind a file of its own"
        )
    same = len(examples) - len({repr(replace(example, id="")) for example in examples})
    return [*notes, *([f"{same} rows are equal to another one but for the id"] if same else [])]


def _noun(columns: Columns) -> str:
    group = columns.names.get("group", "prompt")
    return group if group in (*NOUNS, "prompt") else "group"


def _sides(columns: Columns, examples: Sequence[Example]) -> tuple[str, str]:
    """What the sides are called: by their text where all have one, a stereotype only where the file says
    so.
    """
    if columns.two_prompts:
        return "the first prompt", "the second prompt"
    if _stereotyped(columns):
        return "the stereotype", "the anti-stereotype"
    first, second = ({e.stereo.strip() for e in examples}, {e.anti.strip() for e in examples})
    if len(first) == len(second) == 1 and max(map(len, (*first, *second))) <= SHORT:
        return f"“{first.pop()}”", f"“{second.pop()}”"
    return "side a", "side b"


def _stereotyped(columns: Columns) -> bool:
    """Whether the file itself calls its sides a stereotype."""
    two = columns.two_prompts
    return not two and (columns.names["stereo"], columns.names["anti"]) == ("stereo", "anti")


def _rule(columns: Columns, examples: Sequence[Example]) -> str:
    if columns.two_prompts:
        return "sides"
    return "given" if any(example.twin for example in examples) else "none"
