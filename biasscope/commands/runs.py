"""`biasscope runs`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from biasscope import options

PANEL = "Manage"
EXAMPLES = (
    "biasscope runs ls",
    "biasscope runs show 34a1f100",
    "biasscope runs show 34a1f100 --json | jq .reproduce",
)


class Action(StrEnum):
    """What to do with the runs."""

    LS = "ls"
    SHOW = "show"


def runs(
    action: Annotated[Action, typer.Argument(help="ls, show")],
    run: Annotated[
        str | None, typer.Argument(help="Folder of a run, or the first characters of its key (show)")
    ] = None,
    output_dir: options.OutputDir = Path("results"),
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the finished runs, or show how one was made."""
    from biasscope.engine.errors import UsageError
    from biasscope.engine.store import cache, reproduce
    from biasscope.engine.store.seals import Seal
    from biasscope.report import formats, tables

    chosen = options.Format.JSON if json else format
    if (action is Action.SHOW) != (run is not None):
        raise UsageError("`runs show` takes one RUN, `runs ls` takes none")
    if run is not None:
        shown, record = cache.load(output_dir, run, cache_dir)
        record = reproduce.renewed(record)
        return formats.record(record, tables.record(record), shown.seal, chosen)
    rows: list[dict[str, Any]] = []
    cells: list[list[str]] = []
    stored = cache.finished(output_dir, cache_dir)
    models = cache.models(stored)
    for each in stored:
        run_record, (_, dataset, command, key) = each.record, each.folder.parts[-4:]
        how = "edited" if each.seal is Seal.EDITED else "damaged or older"
        row = {
            "run": key,
            "command": command,
            "model": models[each.folder],
            "dataset": dataset,
            "how": how,
            "created": None,
        }
        if run_record is not None:
            how = " ".join(
                str(run_record.params[name])
                for name in ("method", "source", "site")
                if run_record.params.get(name)
            )
            row |= {"how": how, "created": run_record.created}
        cells.append(
            [
                *list(map(str, row.values()))[:5],
                "–" if run_record is None else run_record.created[5:16].replace("T", " "),
            ]
        )
        used = None if run_record is None else run_record.datasets[0].used
        rows.append(
            {
                **row,
                "used": used,
                "intact": run_record is not None,
                "seal": each.seal,
                "path": str(each.folder),
            }
        )
    return formats.listing(str(output_dir), rows, cells, chosen)
