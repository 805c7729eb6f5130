"""The settings that all experiments share, independent of the command line, and the voice by which they
report progress.
"""

import contextlib
import io
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import platformdirs

from biasscope.engine.errors import UsageError


class Format(StrEnum):
    """What stdout holds."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MARKDOWN = "markdown"


class Dtype(StrEnum):
    """The numbers a model computes with."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


Method = Literal["attribution", "exact", "edges"]
"""How `patch` finds effects: gradient estimates, each site replaced in turn, or estimates of all edges."""
Replaced = Literal["mean", "zero", "resample", "all"]
"""What `ablate` puts in the place of an activation; all: each of the others in turn."""
Patched = Literal["corrupt", "mean", "zero", "resample"]
"""What `patch` puts in the place of an activation; corrupt: the twin's."""
Direction = Literal["noising", "denoising"]
"""Which run is patched with the other's activations."""
Ranking = Literal["attribution"]
"""What chooses the sites of `ablate --top`."""
Control = Literal["definitional"]
"""Prompts on which the same sites are measured too."""
Task = Literal["auto", "stereotype", "occupation", "lean"]
"""The tasks of a probe."""
Negatives = Literal["anti", "unrelated"]
"""What a probe tells the stereotype's filler apart from."""
Holdout = Literal["kfold", "holdout"]
"""How a probe's groups are held out."""
Form = Literal["pronouns", "fillers", "paired", "phrases", "twins"]
"""The forms that prompts of one's own may have; each has a file of examples."""
EngineName = Literal["serial", "ray"]
"""Who measures a run's parts: this process, or workers of a Ray cluster."""
Stream = Literal["resid", "z", "mlp_out"]
"""What activations are read of."""
Read = Literal["last", "term", "mean"]
"""Where in a text activations are read."""


@dataclass(frozen=True)
class Kind:
    """A way to make an edit, in words; its function stands in `measure.edits`."""

    noun: str
    """In a sentence."""
    heads: bool = False
    """Whether it stands at heads, of which a number is chosen; else at what enters a layer."""
    graded: bool = False
    """Whether it is fitted to a covariate, which the data must have."""


KINDS = {
    "mean": Kind("means in place of heads", heads=True),
    "zero": Kind("heads scaled down", heads=True),
    "project": Kind("heads kept from writing along a direction", heads=True),
    "erase": Kind("a direction erased", graded=True),
    "steer": Kind("a direction added", graded=True),
}
"""Every kind of edit, in the order of tables."""

IN_MEMORY = "a model in memory"
"""The note of a model that no `--model` names."""


@dataclass(frozen=True)
class Loaded:
    """By what a data set was loaded, and what it held then: whether it is still what that name means."""

    name: str
    data_dir: Path
    seed: int
    content: str
    """Content digest of its examples."""
    skip_invalid: bool = False
    no_space: bool = False


@dataclass(frozen=True)
class Held:
    """What is in memory already, and is measured in the place of what the names mean."""

    lm: Any = None
    """An `LM`; its name, dtype and device are those of the settings."""
    datasets: tuple[Any, ...] = ()
    """`Dataset`s; their names are those of the settings."""
    engine: Any = None
    """An `Engine` that measures the parts, whatever the settings say."""


@dataclass(frozen=True)
class Measure:
    """The settings of every measuring experiment; `options` says of each field how it is written in a command
    line.
    """

    model: str = "smollm2-135m"
    dataset: list[str] | None = None
    limit: int | None = None
    seed: int = 0
    name: str | None = None
    """What the model is called in tables, lists and reports; it decides no number."""
    device: str = "auto"
    dtype: Dtype = Dtype.FLOAT32
    batch_size: str = "auto"
    revision: str | None = None
    data_dir: Path = Path("data")
    skip_invalid: bool = False
    no_space: bool = False
    max_memory: str | None = None
    edit: Path | None = None
    cache_dir: Path = Path(platformdirs.user_cache_dir("biasscope", appauthor=False))
    no_cache: bool = False
    fresh: bool = False
    wait: bool = False
    shard: str | None = None
    engine: EngineName = "serial"
    workers: int | None = None
    ray_address: str | None = None
    offline: bool = False
    output_dir: Path = Path("results")
    format: Format | None = None
    json: bool = False
    rows: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    held: Held = Held()
    assess: bool = True
    """Whether it is worked out how far the rankings can be trusted (RELIABILITY); not where the truth is
    known.
    """

    def resolved(self) -> dict[str, Any]:
        """The settings as the record shows them; how the result was printed is no part of it."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in UNRECORDED}
        for name in ("name", "edit"):  # what most runs do not have stands in no record
            if values[name] is None:
                del values[name]
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


OUTPUT = ("format", "json", "rows", "quiet", "verbose", "debug")
"""Settings about what is printed."""
ENGINE = ("shard", "engine", "workers", "ray_address")
"""Settings about who measures."""
UNRECORDED = (*OUTPUT, *ENGINE, "no_cache", "fresh", "wait", "held", "assess")
"""Settings that decide no number."""


def memory(value: str | None) -> int | None:
    """The bytes that "8GiB", "500 MB" or a plain number mean; anything else is a usage error."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", value.strip(), re.ASCII | re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise UsageError(f"'{value}' is no size; write it as 8GiB, 500MB or a number of bytes")
    power = " KMGT".index((match[2] or " ").upper())
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


class Voice:
    """What an experiment says while it works: nothing, unless a console takes its place."""

    verbose: bool = False

    def note(self, text: str) -> None:
        """Show a line to whoever watches."""

    def warn(self, text: str) -> None:
        """Show a warning, which the run's record keeps too."""

    def track(self, units: Collection[Any], label: str) -> Iterable[Any]:
        """The units, with no progress shown."""
        return units

    def standings(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Show what is known so far, a name and its number a row, in the place of what was shown before."""

    @contextlib.contextmanager
    def hushed(self) -> Iterator[None]:
        """Keep libraries from writing to stdout, and from warning on stderr unless verbose."""
        level = logging.WARNING if self.verbose else logging.ERROR
        logging.getLogger().setLevel(level)
        for name in ("transformer_lens", "transformers", "huggingface_hub", "datasets", "pooch"):
            logging.getLogger(name).setLevel(level)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sys.stderr if self.verbose else io.StringIO()),
        ):
            if not self.verbose:
                warnings.simplefilter("ignore")
            yield


SILENT = Voice()


FIRST, ENOUGH = 3, 20.0
"""Parts, or seconds, after which a forecast is made."""
WORTH, LONG = 30.0, 600.0
"""Seconds left from which on it is said, and from which on they are many."""


@dataclass
class Forecast:
    """How long a scan will take, said once its first parts are measured."""

    parts: int
    say: Callable[[str, bool], None]
    """Called with the text, and whether it is long."""
    now: Callable[[], float] = time.monotonic
    done: int = 0
    told: bool = False
    begun: float | None = None

    def __post_init__(self) -> None:
        self.begun = self.now()

    def step(self) -> None:
        """A part is measured. The first parts go through all layers, later ones through fewer: "at most"."""
        self.done += 1
        spent = self.now() - (self.begun or 0.0)
        if self.told or self.done == self.parts or (self.done < FIRST and spent < ENOUGH):
            return
        self.told = True
        left = spent / self.done * (self.parts - self.done)
        if left >= WORTH:
            measured = f"by the first {self.done} of {self.parts} parts"
            self.say(f"about {clock(left)} left at most, {measured}", left > LONG)


def clock(seconds: float) -> str:
    """A duration for people: 42 s, 3:05 min, 1:02:03 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"
