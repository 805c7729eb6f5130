"""Runs and journals as the store holds them, written without a model."""

from pathlib import Path

import polars as pl

from biasscope.engine.schemas import SCORES, SUMMARY
from biasscope.engine.store import journal, runs

ASKED = {
    "model": {"name": "gpt2", "revision": None, "digest": "aa"},
    "tokenizer": "bb",
    "dtype": "float32",
    "device": "cpu",
    "batch_size": "auto",
    "max_memory": None,
    "seed": 0,
    "dataset": "winogender",
    "content": "cc",
    "examples": ["a", "b"],
    "source": "mean",
    "method": "exact",
    "sites": {"heads": None, "layers": [1]},
}


OCCUPATIONS = {"noun": "occupation", "sides": ("“he”", "“she”"), "covariate": ("share of men", "%")}
STEREOSET = {"noun": "term", "sides": ("the stereotype", "the anti-stereotype")}
FACTS = {"sides": ("the gender that the noun has", "the other gender than the noun has")}
WORDS = {"winogender": OCCUPATIONS, "occupations": OCCUPATIONS, "definitional": FACTS}


def part(name: str, **changes: object) -> runs.DatasetPart:
    """What a run on the data set of that name gave, with the words for its groups and sides."""
    counts = {"found": 240, "used": 240, "not_drawn": 0, "dropped": {}, "partly": {}, "groups": 60}
    words = STEREOSET if name.startswith("stereoset") else WORDS.get(name, {})
    of = {"name": name, "digest": "d", "source": {}}
    return runs.DatasetPart.model_validate({**of, **counts, **words, **changes})


def record(path: Path, **changes: object) -> runs.RunRecord:
    """A record of one dataset whose folder is `path`."""
    part = {
        "name": "d",
        "digest": "0",
        "source": {"source": "d"},
        "found": 5,
        "used": 3,
        "not_drawn": 1,
        "dropped": {"why": 1},
        "partly": {},
    }
    values = {
        "command": "ablate",
        "model": None,
        "params": {},
        "seed": 0,
        "versions": runs.versions(),
        "created": runs.now(),
        "reproduce": "biasscope ablate",
        "timing": {},
        "peak_rss_bytes": runs.peak_rss_bytes(),
        "warnings": [],
        "datasets": [{**part, "groups": 2, "run_key": "ab" * 32, "path": str(path)}],
    }
    return runs.RunRecord.model_validate(values | changes)


def save(of: runs.RunRecord, **tables: pl.DataFrame) -> None:
    """Nothing: writes a run, its record last."""
    path = Path(of.datasets[0].path)
    sums = {name: runs.digests.of_file(runs.write(path, name, [frame])) for name, frame in tables.items()}
    runs.close(of.model_copy(update={"datasets": [of.datasets[0].model_copy(update={"tables": sums})]}))


def rows(*values: dict[str, object]) -> pl.DataFrame:
    """SUMMARY rows."""
    base = {"subset": "all", "metric": "target", "statistic": "mean", "position": "all"}
    return pl.DataFrame([base | value for value in values], schema=SUMMARY)


def scores(number: int) -> pl.DataFrame:
    """A unit's SCORES, unlike any other's."""
    rows = [(f"e{number}.{i}", "g", "d", "target", number + i / 7) for i in range(40)]
    return pl.DataFrame(rows, schema=SCORES, orient="row")


def filled(root: Path, units: int = 6) -> Path:
    """The folder of a run with some units and a fact."""
    with journal.opened(root, journal.identity("baseline", **ASKED)) as found:
        found.decide("batch_size", 2048)
        for number in range(units):
            found.put(f"B{number:05}", {"scores": scores(number)})
        return found.folder
