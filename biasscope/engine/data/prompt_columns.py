"""Columns of prompts of one's own: what each may be called, which there must be, which are close to one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from biasscope.engine.data import reading
from biasscope.engine.data.sheets import Sheet
from biasscope.engine.errors import DataError

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "prompt_a"),
    "stereo": ("stereo", "a"),
    "anti": ("anti", "b"),
    "prompt_b": ("prompt_b",),
    "continuation": ("continuation", "shared"),
    "unrelated": ("unrelated",),
    "suffix": ("suffix",),
    "group": ("group", "cluster", "occupation"),
    "covariate": ("covariate", "share", "share_of_men"),
    "twin": ("twin",),
    "term": ("term",),
    "together": ("together",),
    "per_token": ("per_token",),
    "bias_type": ("bias_type", "category"),
    "id": ("id",),
}
"""Column → what it may be called."""
KNOWN = {name: column for column, names in NAMES.items() for name in names}
COVARIATE = re.compile(r"covariate:\s*(?P<name>[^\[\]]*[^\[\]\s])\s*(?:\[(?P<unit>[^\[\]]*)\])?\s*")
"""The header that gives a covariate its name and unit: "covariate: share of men [%]"."""
ONE, TWO = ("stereo", "anti"), ("prompt_b", "continuation")
"""What the two forms need beside `prompt`: two continuations of it, or another prompt of one continuation."""
NOT_WITH_TWO = {"twin": "each prompt is the other's", "unrelated": "there is one continuation"}


EMPTY = "{} holds no record; one row of column names and one of texts is the least"


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are."""

    names: Mapping[str, str]
    """Column of `NAMES` → what it is called."""
    others: tuple[str, ...]
    """Columns that are kept as text."""

    @property
    def two_prompts(self) -> bool:
        """Whether the sides differ in the prompt, not in the continuation."""
        return "prompt_b" in self.names

    @property
    def required(self) -> tuple[str, ...]:
        """The columns in which no cell may be empty."""
        form = TWO if self.two_prompts else ONE
        return ("prompt", *form, *(["group"] if "group" in self.names else []))

    @property
    def covariate(self) -> tuple[str, str]:
        """Name and unit of the covariate."""
        header = self.names["covariate"]
        match = COVARIATE.fullmatch(header)
        return (match["name"], match["unit"] or "") if match else (header.replace("_", " "), "")


def columns(sheet: Sheet) -> Columns:
    """What the columns of the table are; DataError, with each fault in a line, where that cannot be told."""
    if not sheet.columns:
        raise DataError(EMPTY.format(sheet.origin))
    names: dict[str, str] = {}
    others, faults = [], []
    for name, where in sheet.columns.items():
        column = "covariate" if COVARIATE.fullmatch(name) else KNOWN.get(name)
        if column is None and (near := _meant(name)):
            faults.append(f"{where}: unknown column `{name}` (did you mean `{near}`?)")
        elif column is None:
            others.append(name)
        elif column in names:
            faults.append(f"{where}: `{names[column]}` and `{name}` are one column; give one of them")
        else:
            names[column] = name
    faults = faults or _missing(names, sheet)
    if faults:
        raise DataError("\n".join(faults[: reading.SHOWN]))
    if not sheet.records:
        raise DataError(EMPTY.format(sheet.origin))
    return Columns(names, tuple(others))


def _missing(names: Mapping[str, str], sheet: Sheet) -> list[str]:
    """What is wrong with the columns taken together."""
    first, seen = next(iter(sheet.columns.values())), ", ".join(sheet.columns)
    one, two = ([names[column] for column in form if column in names] for form in (ONE, TWO))
    faults = []
    if "prompt" not in names:
        faults.append(f"{first}: no column `prompt`; found {seen}; rename the one that holds the prompts")
    elif one and two:
        both = f"{', '.join(one)} and {', '.join(two)}"
        faults.append(f"{first}: both forms are given ({both}); a file has one of them")
    elif not one and not two:
        faults.append(
            f"{first}: no columns `stereo` and `anti` (or `a` and `b`, or `prompt_b` and `continuation`); "
            f"found {seen}; rename those that hold the two continuations"
        )
    else:
        lacking = [column for column in (ONE if one else TWO) if column not in names]
        faults += [
            f"{first}: no column `{column}`; found {seen}; rename the one that holds it" for column in lacking
        ]
    if two:
        reasons = [(names[column], why) for column, why in NOT_WITH_TWO.items() if column in names]
        faults += [f"{first}: with {two[0]} there is no column `{name}`: {why}" for name, why in reasons]
    return faults


def _meant(name: str) -> str | None:
    """The known column that an unknown one is close to: written in another way, or one slip of the hand
    away.
    """
    plain = re.sub(r"[\s_-]+", "_", name.strip().casefold())
    if plain.startswith("covariate"):
        return "covariate: NAME [UNIT]" if ":" in name else "covariate"
    return next(
        (known for known in KNOWN if plain == known or (len(known) > 3 and _slip(plain, known))), None
    )


def _slip(first: str, second: str) -> bool:
    """Whether two words differ in one letter more, less or other, or in two that changed places."""
    at = next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        return abs(len(first) - len(second)) <= 1
    a, b = first[at:], second[at:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
