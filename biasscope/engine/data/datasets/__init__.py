"""The datasets: every module in this folder has ORIGIN, NAMES and read(). Nothing is registered anywhere
else. `prompts` and `study` have no names: they read the user's own files.
"""

import difflib
import importlib
import pkgutil
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from types import ModuleType

from biasscope.engine.data import reading, sheets
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.types import Dataset, Example

# The original study's three, in its order.
FIRST_CHOICE = ("stereoset_race", "stereoset_gender", "winogender")


def modules() -> dict[str, ModuleType]:
    """Module name → module, for every file in this folder."""
    return {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}


def names() -> list[str]:
    """All dataset names, from the modules in this folder."""
    return [name for module in modules().values() for name in module.NAMES]


def default(data_dir: Path) -> list[str]:
    """The original study's datasets as far as they are downloaded, else `occupations`, which ships with the
    package.
    """
    downloaded = [name for name in FIRST_CHOICE if _module(name).present(data_dir)]
    return downloaded or ["occupations"]


def load(
    name: str, data_dir: Path, *, limit: int | None = None, seed: int = 0, skip_invalid: bool = False
) -> Dataset:
    """The dataset of that name or FILE: what `read` gives, of which `limit` draws a sample (see `drawn`)."""
    return drawn(read(name, data_dir, skip_invalid=skip_invalid), limit, seed)


def read(name: str, data_dir: Path, *, skip_invalid: bool = False, no_space: bool = False) -> Dataset:
    """The whole dataset of that name, or of a FILE of the user's.

    UsageError: unknown name. DataError: not downloaded, malformed, not the published content, or empty.
    """
    if name in names():
        dataset = _module(name).read(name, data_dir, skip_invalid=skip_invalid)
    elif _is_prompts(name):
        dataset = modules()["prompts"].read(name, data_dir, skip_invalid=skip_invalid, no_space=no_space)
    elif name.lower().endswith(".json"):
        dataset = modules()["study"].read(name, data_dir, skip_invalid=skip_invalid)
    elif Path(name).is_file():
        raise UsageError(
            f"{name} is no FILE.csv, .tsv, .jsonl, .json or .parquet; save a spreadsheet as CSV (UTF-8)"
        )
    else:
        raise UsageError(unknown("dataset", name, names()))
    if not dataset.examples:
        raise DataError(
            f"dataset '{dataset.name}' has no example left: {dataset.found} found, {dataset.dropped.total()} "
            "refused"
        )
    return dataset


def _is_prompts(name: str) -> bool:
    """Whether a name is that of a file of prompts; a .json file is one where its records have a prompt."""
    suffix = Path(name).suffix.lower()
    if suffix != ".json":
        return suffix in sheets.FORMS
    records = reading.read_list(sheets.checked_size(Path(name)))
    return any(isinstance(r, dict) and not r.keys().isdisjoint(("prompt", "prompt_a")) for r in records)


def drawn(dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    """The dataset, or a seeded sample of `limit` examples of it, spread evenly over groups, in data order.

    UsageError: limit below 1.
    """
    if limit is None:
        return dataset
    if limit < 1:
        raise UsageError(f"limit must be at least 1, found {limit}")
    return replace(dataset, examples=sample(dataset.examples, limit, seed), whole=dataset.examples)


def unknown(noun: str, name: str, known: Sequence[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"unknown {noun} '{name}'{hint}; choose from: {', '.join(known)}"


def sample(examples: Sequence[Example], limit: int, seed: int) -> tuple[Example, ...]:
    """A seeded sample of at most `limit` examples, spread evenly over groups, in data order: whole units of
    those that stand together, one at least. A smaller limit draws a subset.
    """
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    groups: dict[str, dict[object, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, example in enumerate(examples):
        groups[example.group][example.together or index].append(index)
    queues = [list(units.values()) for units in groups.values()]
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    # Round robin: everybody's first, then everybody's second, and so on.
    turns = [
        queue[turn]
        for turn in range(max(map(len, queues), default=0))
        for queue in queues
        if turn < len(queue)
    ]
    sizes = list(accumulate(map(len, turns)))
    drawn = turns[: max(bisect_right(sizes, limit), 1)]
    return tuple(examples[index] for index in sorted(chain.from_iterable(drawn)))


def _module(name: str) -> ModuleType:
    return next(module for module in modules().values() if name in module.NAMES)
