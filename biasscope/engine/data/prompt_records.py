"""Records of prompts of one's own: what is wrong with each, and which example it is."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from biasscope.engine.data.prompt_columns import ONE, TWO, Columns
from biasscope.engine.data.reading import Problem
from biasscope.engine.data.sheets import CONTROL, Record, Sheet
from biasscope.engine.types import Example

LONGEST = 20_000
"""Characters of a text."""
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class _RecordError(Exception):
    """Why a record cannot be used: for all records with this fault, and of this one."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(reason)
        self.text = text or reason


@dataclass
class Parsed:
    """The records of a table, as far as they have been read."""

    examples: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    values: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Group → the value of its covariate, and where it was first given."""
    ids: dict[str, str] = field(default_factory=dict)
    """Id → where it stands."""
    prompts: dict[tuple[str, str | None], str] = field(default_factory=dict)
    """Prompt or prompts → the id of the first example that has them: its group where no column says one."""


def parse(sheet: Sheet, columns: Columns, *, no_space: bool = False) -> Parsed:
    """The examples of a table's records, and what is wrong with the others: of each its first fault.

    `no_space`: no continuation gets a space before it.
    """
    parsed = Parsed()
    for number, record in enumerate(sheet.records, 1):
        try:
            texts = _texts(record, columns)
            example = _example(columns, texts, no_space)
            own = example.id or str(number)
            group = example.group or parsed.prompts.get((example.prompt, example.anti_prompt), own)
            example = replace(example, id=own, group=group, per_token=_flag(record, columns))
            value = _value(record, columns, sheet.decimals)
            _check(example, value, parsed, columns)
            _check_characters(texts)
        except _RecordError as fault:
            parsed.problems.append(Problem(str(fault), record.where, fault.text))
            continue
        parsed.examples.append(example)
        parsed.ids[own] = record.where
        parsed.prompts.setdefault((example.prompt, example.anti_prompt), own)
        if value is not None:
            parsed.values.setdefault(group, (value, record.where))
    return parsed


def _texts(record: Record, columns: Columns) -> dict[str, str]:
    """What a column is called → the text in it, for those that hold texts."""
    names = columns.names
    others = {names.get("covariate"), names.get("per_token")}
    return {name: _text(name, cell) for name, cell in record.cells.items() if name not in others}


def _text(name: str, cell: Any) -> str:
    """A cell as text; line breaks are those of a text file."""
    if isinstance(cell, bool | int | float):
        return json.dumps(cell)
    if not isinstance(cell, str):
        raise _RecordError(f"{name} is no text", f"{name} must be a text, found {type(cell).__name__}")
    return cell.replace("\r\n", "\n").replace("\r", "\n")


def _example(columns: Columns, texts: Mapping[str, str], no_space: bool) -> Example:
    """The example of a record, its id and group empty where it gives none."""
    own = {column: texts.get(name, "") for column, name in columns.names.items()}
    for column in columns.required:
        if not own[column]:
            raise _RecordError(f"{columns.names[column]} is empty")

    def stripped(column: str) -> str:
        text = own.get(column, "").removesuffix(" ")
        if text.endswith(" "):
            raise _RecordError(f"{columns.names[column]} ends with more than one space")
        return text

    def after(continuation: str) -> str:
        """The continuation with the one space that stands before it."""
        moved = any(own.get(column, "").endswith(" ") for column in ("prompt", "prompt_b"))
        wanted = not no_space and continuation[:1].isalnum() and not own["prompt"][-1:].isspace()
        return f" {continuation}" if (moved or wanted) and continuation[:1] not in ("", " ") else continuation

    prompt, other, twin = stripped("prompt"), stripped("prompt_b"), stripped("twin")
    form = TWO[1:] * 2 if columns.two_prompts else ONE
    stereo, anti = (after(own[column]) for column in form)
    if prompt == other:
        raise _RecordError("both prompts are the same", f"both prompts are {_quoted(prompt)}")
    if stereo == anti and not columns.two_prompts:
        raise _RecordError("both continuations are the same", f"both continuations are {_quoted(stereo)}")
    return Example(
        id=own.get("id", ""),
        dataset="",
        bias_type=own.get("bias_type") or "user",
        group=own.get("group", ""),
        prompt=prompt,
        stereo=stereo,
        anti=anti,
        unrelated=after(own.get("unrelated", "")) or None,
        suffix=own.get("suffix", ""),
        meta={name: texts[name] for name in columns.others if name in texts},
        # without a group there is no word that the prompt is about
        term=own.get("term") or (None if "group" in columns.names else ""),
        anti_prompt=other or None,
        together=own.get("together", ""),
        twin=twin or None,
    )


def _flag(record: Record, columns: Columns) -> bool:
    cell = record.cells.get(columns.names.get("per_token", ""), False)
    flag = cell if isinstance(cell, bool) else {"true": True, "false": False}.get(str(cell).strip().lower())
    if flag is None:
        raise _RecordError(
            "per_token is neither true nor false", f"per_token must be true or false, found {cell!r}"
        )
    return flag


def _value(record: Record, columns: Columns, decimals: str) -> float | None:
    """The covariate's number; None where the cell is empty."""
    cell = record.cells.get(columns.names.get("covariate", ""))
    if cell is None:
        return None
    name, _ = columns.covariate
    if isinstance(cell, str) and decimals:
        text = cell.strip()
        text = text if "." in text else text.replace(",", ".") if "," in decimals else text
        number = float(text) if NUMBER.fullmatch(text) else None
    else:
        number = cell if isinstance(cell, int | float) and not isinstance(cell, bool) else None
    if number is None:
        raise _RecordError(f"{name} is no number", f"{name} must be a number, found {_shown(cell)}")
    if not abs(number) <= sys.float_info.max:
        raise _RecordError(f"{name} is not finite", f"{name} must be finite, found {_shown(cell)}")
    return float(number)


def _check(example: Example, value: float | None, before: Parsed, columns: Columns) -> None:
    """Refuse what does not go with the records before, and a twin that is none."""
    other, where = before.values.get(example.group, (value, ""))
    if value is not None and value != other:
        name, _ = columns.covariate
        raise _RecordError(
            f"{name} differs within its group",
            f"{name} {value:.15g}, but {other:.15g} at {where} for the same group {_shown(example.group)}",
        )
    if example.twin == example.prompt:
        raise _RecordError("its twin is the prompt itself")
    if example.id in before.ids:
        raise _RecordError("id twice", f"id {_shown(example.id)} stands at {before.ids[example.id]} too")


def _check_characters(texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        if match := CONTROL.search(text):
            code = f"U+{ord(match[0]):04X}"
            raise _RecordError(
                f"{name} holds a control character", f"{name} holds the control character {code}"
            )
    for name, text in texts.items():
        if len(text) > LONGEST:
            reason = f"{name} has more than {LONGEST:,} characters"
            raise _RecordError(reason, f"{name} has {len(text):,} characters, at most {LONGEST:,} are read")


def _quoted(text: str) -> str:
    """A text in double quotes, on one line."""
    return json.dumps(_cut(text), ensure_ascii=False)


def _shown(cell: Any) -> str:
    """A cell as Python writes it, on one line."""
    return repr(_cut(cell) if isinstance(cell, str) else cell)[:100]


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
