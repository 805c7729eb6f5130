"""Two commits on one machine: the same commands on both, and every byte that they leave compared but for the
clock's.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from . import record, steps

LEFT_OUT = re.compile(r"(^cache/digests/|\.lock$|/lock$|/holder\.json$|^tiny-)")
"""Files about the folder and its process, not about results."""
FIGURE = (r"-[0-9a-f]{12}(?=[-.])", "-‹digest›")
"""A figure's name hangs on the text of the code that draws it; its content is compared. No name in the cache
is one of a figure.
"""
REUSED = (r'"reused": \d+', '"reused": "‹units›"')
SHOWN, SHARDS = 3, 20
"""Lines of a text, and files of the cache, that are shown."""


def differences(commit: str) -> list[str]:
    """What the working tree gives otherwise than `commit`, and what it does not take over of what `commit`
    has measured.
    """
    data = steps.real_data()
    with tempfile.TemporaryDirectory(prefix="golden-") as work:
        tree, here, there = Path(work) / "tree", Path(work) / "here", Path(work) / "there"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            for folder in (there, here):
                steps.prepare(folder)
            with ThreadPoolExecutor() as pool:
                runs = [pool.submit(_perform, *pair, data) for pair in ((there, tree), (here, steps.ROOT))]
                for run in runs:
                    run.result()
        finally:
            _git("worktree", "remove", "--force", str(tree))
        found = list(unlike(there, here))
        # last: it changes what `commit` has left
        return found + [
            f"going on from {commit}: {line}" for line in onward(there, Path(work) / "onward", data)
        ]


def _git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=steps.ROOT, check=True, capture_output=True)


def _perform(folder: Path, tree: Path, data: Path | None) -> None:
    call = steps.outside(folder, tree)

    def told(arguments: list[str]) -> tuple[int, str, str]:
        sys.stderr.write(f"{folder.name}: biasscope {' '.join(arguments)}\n")
        return call(arguments)

    steps.perform(folder, told, data)


def onward(there: Path, folder: Path, data: Path | None) -> Iterator[str]:
    """What differs where the working tree goes on from the cache and the results of a commit: every other run
    cut to half of its units and without its results, the others finished and to be answered as they stand.
    """
    shutil.copytree(there, folder)
    expected: dict[str, int] = {}
    for number, run in enumerate(_runs(folder)):
        expected[run] = _units(folder / run)
        if number % 2:
            expected[run] = steps.cut(folder, run)
            shutil.rmtree(folder / run)
    for name in ("stdout", "results/report_figures"):
        shutil.rmtree(folder / name)
    _perform(folder, steps.ROOT, data)
    for part in _parts(folder):
        if part["path"] in expected and part["reused"] != expected[part["path"]]:
            yield f"{part['path']}: {part['reused']} units taken over, not {expected[part['path']]}"
    yield from unlike(there, folder, ("results/", "stdout/"), REUSED)


def _parts(folder: Path) -> Iterator[dict[str, Any]]:
    """The datasets of every run that a step printed, in the order of the steps."""
    for step in steps.STEPS:
        file = folder / "stdout" / f"{step.name}.json"
        document = json.loads(file.read_bytes()) if file.is_file() else []
        yield from document["run"]["datasets"] if isinstance(document, dict) and "run" in document else []


def _runs(folder: Path) -> list[str]:
    """The folders of runs that no other step cuts."""
    return [part["path"] for part in _parts(folder) if part["path"].startswith("results/")]


def _units(run: Path) -> int:
    return int(json.loads((run / "run.json").read_bytes())["datasets"][0]["units"])


def unlike(one: Path, other: Path, under: tuple[str, ...] = ("",), *rules: tuple[str, str]) -> Iterator[str]:
    """One line for each file that is in one folder alone, or is not the same but for the clock."""
    left, right = (_contents(folder, under, rules) for folder in (one, other))
    names = [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]
    # last, and not all of them: most of what they say is said above
    shards = [name for name in names if name.startswith("cache/")]
    for name in [*(name for name in names if name not in shards), *shards[:SHARDS]]:
        if name not in left or name not in right:
            yield f"{name}: {'new' if name in right else 'gone'}"
        else:
            yield f"{name}: {_explained(one / name, other / name, left[name], right[name])}"
    if len(shards) > SHARDS:
        yield f"cache: {len(shards)} files differ in all"


def _contents(
    folder: Path, under: tuple[str, ...], rules: tuple[tuple[str, str], ...]
) -> dict[str, list[str]]:
    """Name → content, masked where it is text, else its sha256; figures of one kind under one name."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    # a record holds the time: so does its sha256
    records = {
        hashlib.sha256(file.read_bytes()).hexdigest(): "sha256 of a record"
        for file in files
        if file.name == "run.json"
    }
    contents = defaultdict(list)
    for file in files:
        name = file.relative_to(folder).as_posix()
        figure = () if name.startswith("cache/") else (FIGURE,)
        if name.startswith(under) and not LEFT_OUT.search(name):
            contents[record.masked(name, figure)].append(
                _content(file, (*record.CLOCK, *figure, *rules), records)
            )
    return {name: sorted(content) for name, content in contents.items()}


def _content(file: Path, rules: tuple[tuple[str, str], ...], records: dict[str, str]) -> str:
    try:
        return record.masked(file.read_text(encoding="utf-8"), rules, records)
    except UnicodeDecodeError:
        return hashlib.sha256(file.read_bytes()).hexdigest()


def _explained(one: Path, other: Path, left: list[str], right: list[str]) -> str:
    """Where a table or text differs, in a line or a few."""
    if one.suffix == ".parquet":
        return _tables(pl.read_parquet(one), pl.read_parquet(other))
    before, after = "\n".join(left).split("\n"), "\n".join(right).split("\n")
    pairs = [(a.strip(), b.strip()) for a, b in zip(before, after, strict=False) if a != b]
    lines = [f"\n    base: {a[:200]}\n    here: {b[:200]}" for a, b in pairs[:SHOWN]]
    return f"{len(pairs)} lines differ, {len(before)} and {len(after)} in all{''.join(lines)}"


def _tables(one: pl.DataFrame, other: pl.DataFrame) -> str:
    if one.schema != other.schema:
        return f"columns {dict(other.schema)}; base {dict(one.schema)}"
    if one.height != other.height:
        return f"{other.height} rows; base {one.height}"
    changed = {name: (one[name].ne_missing(other[name])).sum() for name in one.columns}
    said = [
        f"{count} of {one.height} in {name}{_largest(one[name], other[name])}"
        for name, count in changed.items()
        if count
    ]
    return ", ".join(said) or "the same rows in other bytes"


def _largest(one: pl.Series, other: pl.Series) -> str:
    return f" (by up to {(one - other).abs().max():.2g})" if one.dtype.is_float() else ""
