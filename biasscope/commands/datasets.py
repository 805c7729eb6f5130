"""`biasscope datasets`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from biasscope import options

PANEL = "Manage"
EXAMPLES = ("biasscope datasets ls", "biasscope datasets ls --json | jq '.[] | select(.here) | .name'")


class Action(StrEnum):
    """What to do with the data sets."""

    LS = "ls"


def datasets(
    action: Annotated[Action, typer.Argument(help="ls")],
    data_dir: options.DataDir = Path("data"),
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the data sets by name: which are here, where the others come from, and their licences."""
    import re

    from biasscope.engine.data import datasets as known
    from biasscope.report import formats

    rows = []
    for module in known.modules().values():
        origin = module.ORIGIN
        for name in module.NAMES:
            here = origin.host == "package" or module.present(data_dir)
            get = None if here else f"biasscope download {origin.name}"
            about = {"licence": origin.licence, "credit": origin.credit, "url": origin.url or None}
            rows.append(
                {
                    "name": name,
                    "here": here,
                    "get": get,
                    **about,
                    "short": re.split("[,;(]", origin.licence)[0].strip(),
                }
            )
    cells = [[row["name"], "yes" if row["here"] else row["get"], row.pop("short")] for row in rows]
    chosen = options.Format.JSON if json else format
    formats.listing(f"data sets, in {data_dir}", rows, cells, chosen, columns=["name", "here", "licence"])
