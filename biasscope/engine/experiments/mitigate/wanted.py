"""What a mitigation is asked to try: options read and checked before anything is loaded."""

import pydoc_data.topics
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from biasscope.engine.data import datasets
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments.scans import selection
from biasscope.engine.settings import KINDS, Measure
from biasscope.engine.statistics.mitigate import FACTUAL
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset

STEERED = "-1,-0.5,0.5,1"
DOSES = "0.25,0.5,0.75,1"
FEW_TOKENS, MANY_TOKENS = 2_000, 20_000
TRANSFER = {"winogender": "occupations", "occupations": "winogender"}
"""Data set → the one that an edit is judged on too, unless another is named."""
PLACES = ("term", "last")
SHORTEST = 200
"""Characters that a paragraph of prose is longer than."""
LONGEST = 16 * 2**20
"""Bytes of a text."""
OTHER = "name other data"
"""What to do where data are not to be judged on."""


@dataclass(frozen=True)
class Wanted:
    """The edits to try, and what to judge them by."""

    kind: str | None = None
    """Some of `KINDS`; None: mean, and erase where the data have a covariate."""
    sizes: str = "1,2,5,10"
    doses: str | None = None
    layers: str | None = None
    """None: a third, two thirds and nine tenths of the depth."""
    at: str = "term"
    transfer: str | None = None
    text: Path | None = None
    tokens: int | None = None
    random: int = 20
    all_doses: bool = False
    audit: int = 5
    """How many heads of each model that is judged in full are measured anew; 0: none."""

    def __post_init__(self) -> None:
        if self.at not in PLACES:
            raise UsageError(f"--at '{self.at}' is none of: {', '.join(PLACES)}")
        selection.parse_words("--kind", self.kind or "mean", tuple(KINDS))
        selection.parse_sizes(self.sizes)
        if self.layers is not None:
            selection.parse_layers(self.layers)
        if self.doses is not None:
            selection.parse_doses(self.doses, real=self.kind == "steer")
        counts = {"--random": self.random, "--audit": self.audit, "--tokens": self.tokens or 0}
        if wrong := [f"{name} {n}" for name, n in counts.items() if n < 0]:
            raise UsageError(f"{wrong[0]} is no number; take 0 or more")

    def kinds(self, data: Dataset) -> tuple[str, ...]:
        """The kinds to fit. UsageError where one needs a covariate and the data have none."""
        graded = data.covariate is not None
        if data.name == FACTUAL:
            raise UsageError(f"gender is a fact in {FACTUAL}: there is no stereotype to take away; {OTHER}")
        if self.kind is None:
            return ("mean", "erase") if graded else ("mean",)
        kinds = selection.parse_words("--kind", self.kind, tuple(KINDS))
        if wrong := [kind for kind in kinds if KINDS[kind].graded and not graded]:
            raise UsageError(
                f"--kind {wrong[0]} is fitted to a number of each group, and {data.name} has none; take "
                "--kind mean, zero or project, or give your file a column `covariate`"
            )
        return kinds

    def doses_of(self, kind: str) -> tuple[float, ...]:
        """The doses of a kind, ascending."""
        text = self.doses or (STEERED if kind == "steer" else DOSES)
        return selection.parse_doses(text, real=kind == "steer")

    def main(self, kind: str) -> tuple[float, ...]:
        """The doses that are judged in full: the largest to either side, or all."""
        doses = self.doses_of(kind)
        most = max(map(abs, doses))
        return tuple(d for d in doses if d and (self.all_doses or abs(d) == most))

    def depths(self, layers: int) -> tuple[int, ...]:
        """The layers at which the stream is edited. UsageError outside the model."""
        if self.layers is None:
            return tuple(sorted({min(layers - 1, round(layers * part)) for part in (1 / 3, 2 / 3, 9 / 10)}))
        chosen = selection.parse_layers(self.layers)
        if chosen[-1] >= layers:
            there = f"it has layers 0-{layers - 1}"
            raise UsageError(f"--layers {self.layers}: layer {chosen[-1]} is not in the model; {there}")
        return chosen

    @property
    def count(self) -> int:
        """How many tokens of the text are scored."""
        return self.tokens or (MANY_TOKENS if self.all_doses else FEW_TOKENS)

    @cached_property
    def paragraphs(self) -> list[str]:
        """The text by paragraphs: the file's, or prose that every CPython ships. DataError: it has none."""
        if self.text is None:
            topics = pydoc_data.topics.topics
            text = "\n\n".join(topics[name] for name in sorted(topics, key=digests.digest))
        else:
            if self.text.stat().st_size > LONGEST:
                raise DataError(f"--text {self.text} is larger than {LONGEST >> 20} MiB; give a part of it")
            try:
                text = self.text.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as problem:
                raise DataError(f"--text {self.text} cannot be read as UTF-8: {problem}") from problem
        parts = [" ".join(part.split()) for part in text.split("\n\n")]
        # rules, tables and headings are no prose
        prose = [part for part in parts if len(part) > SHORTEST and _words(part)]
        if not prose:
            raise DataError(
                f"--text {self.text} has no paragraph of prose (more than {SHORTEST} characters between "
                "empty lines, nine tenths of them letters); give a text with some"
            )
        return prose

    def elsewhere(self, data: Dataset, options: Measure) -> Dataset | None:
        """The data that the edits are judged on too, as many examples as those; None: there are none."""
        name = self.transfer or TRANSFER.get(data.name, "none")
        if name == "none":
            return None
        try:
            other = datasets.read(name, options.data_dir, skip_invalid=options.skip_invalid)
        except DataError:
            if self.transfer is not None:
                raise
            return None  # it was not downloaded, and nobody named it
        if other.name == data.name:
            raise UsageError(f"--transfer {name} is the run's own data, or called so; {OTHER}, or none")
        if (other.covariate is None) != (data.covariate is None):
            has, lacks = (other, data) if data.covariate is None else (data, other)
            raise UsageError(
                f"--transfer {name}: {has.name} has a slope and {lacks.name} has not; name data of its kind"
            )
        if other.name == FACTUAL:
            raise UsageError(f"--transfer {name}: gender is a fact there, measured anyway; {OTHER}, or none")
        return datasets.drawn(other, min(len(data.examples), len(other.examples)), options.seed)

    def identity(self, data: Dataset, other: Dataset | None, facts: Dataset | None) -> Mapping[str, Any]:
        """All of it that decides a number."""
        kinds = self.kinds(data)
        asked: dict[str, Any] = {"kinds": kinds, "doses": {kind: self.doses_of(kind) for kind in kinds}}
        asked |= {"sizes": selection.parse_sizes(self.sizes), "layers": self.layers, "at": self.at}
        asked |= {"random": self.random, "all_doses": self.all_doses, "tokens": self.count}
        asked |= {"audit": self.audit}
        asked["text"] = digests.digest(self.paragraphs)
        for name, part in (("transfer", other), ("facts", facts)):
            asked[name] = None if part is None else [part.name, part.digest, [e.id for e in part.examples]]
        return asked

    def options(self) -> dict[str, Any]:
        """The options as the record has them."""
        asked = {f.name: getattr(self, f.name) for f in fields(self)}
        return asked | {"text": None if self.text is None else str(self.text)}


def _words(text: str) -> bool:
    """Whether a text is of words, not of numbers or marks."""
    return sum(c.isalpha() or c == " " for c in text) > 0.9 * len(text)
