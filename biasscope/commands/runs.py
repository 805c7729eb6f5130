"""`biasscope runs`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from biasscope import options

PANEL = "Keep house"
EXAMPLES = ("biasscope runs ls", "biasscope runs show 34a1f100", "biasscope runs show 34a1f100 --json | jq .reproduce")


class Action(StrEnum):
    """What to do with the runs."""

    LS = "ls"
    SHOW = "show"


def runs(
    action: Annotated[Action, typer.Argument(help="ls, show")],
    run: Annotated[str | None, typer.Argument(help="Folder of a run, or the first characters of its key (show)")] = None,
    output_dir: options.OutputDir = Path("results"),
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the finished runs, or show how one was made."""
    from biasscope import show, tables
    from biasscope.engine import runs as engine
    from biasscope.engine import upkeep
    from biasscope.engine.errors import DamagedError, UsageError

    chosen = options.Format.JSON if json else format
    if (action is Action.SHOW) != (run is not None):
        raise UsageError("`runs show` takes one RUN, `runs ls` takes none")
    if run is not None:
        folder = upkeep.find(output_dir, run)
        record = engine.read(folder)
        if record is None:
            raise DamagedError(f"{folder} is not what was written; the command that made it makes it again")
        return show.record(record, tables.record(record), chosen)
    rows: list[dict[str, Any]] = []
    cells: list[list[str]] = []
    for folder, found in upkeep.finished(output_dir).items():
        model, dataset, command, key = folder.parts[-4:]
        row = {"run": key, "command": command, "model": model, "dataset": dataset, "how": "damaged or older", "created": None}
        if found is not None:
            how = " ".join(str(found.params[name]) for name in ("method", "source", "site") if found.params.get(name))
            row |= {"how": how, "created": found.created}
        cells.append([*list(map(str, row.values()))[:5], "–" if found is None else found.created[5:16].replace("T", " ")])
        used = None if found is None else found.datasets[0].used
        rows.append({**row, "used": used, "intact": found is not None, "path": str(folder)})
    return show.listing(str(output_dir), rows, cells, chosen)
