"""How an edit of a finished run leaves: as a recipe always, and in the forms that were asked for."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.data import datasets
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments.mitigate.fitting import OWN, edits_of
from biasscope.engine.experiments.scans import selection
from biasscope.engine.model.edits import recipe
from biasscope.engine.settings import Measure, Voice
from biasscope.engine.store import files, reproduce, runs
from biasscope.engine.types import Edit, Example

RECIPE = "recipe"
FORMS = (RECIPE, "weights", "ia3", "vector", "gguf")
CHECKED = 24
"""Prompts with which what was written is compared with the hooked model."""


@dataclass(frozen=True)
class Target:
    """Which edit is to leave, in which forms, where to."""

    name: str
    forms: tuple[str, ...]
    folder: Path

    @classmethod
    def of(cls, name: str | None, forms: str, folder: Path | None) -> "Target | None":
        """The target as options name it; None: nothing is to leave. UsageError, before a measurement."""
        chosen = selection.parse_words("--as", forms, FORMS)
        if name is None and folder is None and chosen == (RECIPE,):
            return None
        if name is None or folder is None:
            raise UsageError("--export NAME and --to FOLDER go together; --as says in which forms")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "not empty" if folder.is_dir() else "a file"
            raise UsageError(f"--to {folder} is {what}; give a new folder")
        if "ia3" in chosen:
            from biasscope.engine.model.edits import saving

            saving.check_peft()
        return cls(name, chosen, folder)


@dataclass(frozen=True)
class Left:
    """What was written."""

    target: Target
    recipe: recipe.Recipe
    row: Mapping[str, Any]
    """The edit's row in EDITS."""
    holds: dict[str, str] = field(default_factory=dict)
    """File or folder → what it holds."""
    apart: dict[str, float] = field(default_factory=dict)
    """Form → largest difference of target when it was read back, nats."""

    @property
    def files(self) -> list[str]:
        """The names of the files and folders."""
        return list(self.holds)


def leave(options: Measure, result: runs.Result, target: Target, voice: Voice) -> Left:
    """The edit of a finished run, written. UsageError: no such edit; DataError: a form cannot hold it."""
    (part,) = result.record.datasets
    folder, model = Path(part.path), result.record.model
    assert model is not None  # noqa: S101  a run of mitigate measured one
    known = pl.read_parquet(folder / "edits.parquet").filter(role=OWN)
    edits = {edit.name: edit for edit in edits_of(pl.read_parquet(folder / "fits.parquet"), known)}
    if target.name not in edits:
        raise UsageError(datasets.unknown("edit", target.name, list(edits)))
    row = known.row(by_predicate=pl.col("name") == target.name, named=True)
    place, kind = None, ""
    if set(target.forms) - {RECIPE}:
        place = _place(options, result, edits[target.name], voice)
        kind = place.lm.bridge.original_model.config.model_type
    about = {"data": part.name, "seed": result.record.seed, "command": _command(result)}
    facts: dict[str, Any] = {"name": files.slug(model.name), "digest": model.digest, "type": kind}
    facts |= {"layers": model.layers, "heads": model.heads}
    left = Left(target, recipe.of(edits[target.name], facts, about), row)
    if left.recipe.digest != row["digest"]:
        raise DataError(f"{folder} holds another {target.name} than it measured; run the command again")
    target.folder.mkdir(parents=True, exist_ok=True)
    if place is not None:
        with voice.hushed(), _whole(left):
            _forms(left, place)
    recipe.write(left.recipe, target.folder / recipe.FILE)
    left.holds[recipe.FILE] = "the edit itself, for biasscope: --edit FILE"
    return left


def _command(result: runs.Result) -> str:
    """The command that measured it, without folders of this machine."""
    return reproduce.of(result.record, document=True)


def _place(options: Measure, result: runs.Result, edit: Edit, voice: Voice) -> Any:
    """The edit with its model, booted anew, and where the plain weights are."""
    from biasscope.engine.model import loading, weights
    from biasscope.engine.model.edits import saving

    params = result.record.params
    if reproduce.in_memory(result.record):
        raise UsageError("a model in memory has no folder to export from; give --model a name or a folder")
    with voice.hushed():
        found = weights.locate(
            params["model"],
            revision=params["revision"],
            cache_dir=options.cache_dir,
            offline=options.offline,
        )
        lm = loading.boot(found, device="cpu", dtype=params["dtype"])
    return saving.Place(lm, edit, found.folder)


def _forms(left: Left, place: Any) -> None:
    """Write the forms beside the recipe, and read back those that are models."""
    from biasscope.engine.model.edits import readback, saving

    for name in left.target.forms:
        if name == RECIPE:
            continue
        form = saving.FORMS[name]
        to = left.target.folder / form.file
        left.holds[form.file] = form.holds
        form.write(place, to)
        if name in ("weights", "ia3"):
            left.apart[name] = readback.check(place, to, name, _examples())


@contextlib.contextmanager
def _whole(left: Left) -> Iterator[None]:
    """What is written within, or none of it: the folder is empty again where a form is refused."""
    try:
        yield
    except BaseException:
        for written in map(left.target.folder.joinpath, left.holds):
            if written.is_dir():
                shutil.rmtree(written)
            else:
                written.unlink(missing_ok=True)
        raise


def _examples() -> Sequence[Example]:
    """Some prompts that every installation has."""
    return datasets.load("occupations", Path(), limit=CHECKED).examples
