"""`biasscope runs`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biasscope import options

if TYPE_CHECKING:
    from biasscope.engine.store.cache import Stored

PANEL = "Manage"
EXAMPLES = (
    "biasscope runs ls",
    "biasscope runs show 34a1f100",
    "biasscope runs show 34a1f100 --json | jq .reproduce",
    "biasscope runs merge 34a1f100",
)


class Action(StrEnum):
    """What to do with the runs."""

    LS = "ls"
    SHOW = "show"
    MERGE = "merge"


def runs(
    action: Annotated[Action, typer.Argument(help="ls, show, merge")],
    run: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folder of a run, or the first characters of its key (show); of shards (merge)",
            autocompletion=options.usage.runs,
        ),
    ] = None,
    output_dir: options.OutputDir = Path("results"),
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List the finished runs, show how one was made, or join the shards of one."""
    from biasscope.engine.errors import UsageError
    from biasscope.engine.store import cache, reproduce
    from biasscope.report import formats, tables

    chosen = options.Format.JSON if json else format
    if action is Action.MERGE and run:
        from biasscope.console import Screen
        from biasscope.engine.experiments.parallel import merge

        result = merge.merge(run, output_dir, cache_dir, Screen(quiet, False))
        return formats.result(result, options.Measure(format=chosen, quiet=quiet))
    if len(run or []) != (action is not Action.LS):
        raise UsageError("`runs merge` takes the shards, `runs show` one RUN, `runs ls` none")
    if run:
        shown, record = cache.load(output_dir, run[0], cache_dir)
        record = reproduce.renewed(record)
        return formats.record(record, tables.record(record), shown.seal, chosen)
    stored = cache.finished(output_dir, cache_dir)
    models = cache.models(stored)
    names = cache.names(stored)
    rows = [_row(each, models[each.folder]) | {"name": names.get(each.named)} for each in stored]
    columns = ["run", "command", "model", "dataset", "how", "created"]
    cells = [[*(str(row[name]) for name in columns[:-1]), _minute(row["created"])] for row in rows]
    for cell, row in zip(cells, rows, strict=True):
        cell[2] = row["name"] or cell[2]  # by which the user knows it
    return formats.listing(str(output_dir), rows, cells, chosen, columns=columns)


def _row(stored: "Stored", model: str) -> dict[str, Any]:
    """A run as programs read it; its first fields are what people see."""
    from biasscope.engine.store.seals import Seal

    record, (_, dataset, command, key) = stored.record, stored.folder.parts[-4:]
    row: dict[str, Any] = {"run": key, "command": command, "model": model, "dataset": dataset}
    if record is None:
        how = "edited" if stored.seal is Seal.EDITED else "damaged or older"
        row |= {"how": how, "created": None, "used": None, "layers": None, "limit": None}
    else:
        params = record.params
        told = [str(params[n]) for n in ("method", "source", "direction", "task", "site") if params.get(n)]
        told += [
            f"--{n} {params[n]}"
            for n in ("layers", "heads", "top", "given", "edit", "steps", "limit")
            if params.get(n)
        ]
        told += [f"--{n}" for n in ("adaptive", "conditional") if params.get(n)]
        told += [] if record.complete else ["stopped"]
        row |= {"how": " ".join(told), "created": record.created, "used": record.datasets[0].used}
        row |= {"layers": params.get("layers"), "limit": params.get("limit")}
    return {**row, "intact": record is not None, "seal": stored.seal, "path": str(stored.folder)}


def _minute(created: str | None) -> str:
    return "–" if created is None else created[5:16].replace("T", " ")
