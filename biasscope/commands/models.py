"""`biasscope models`."""

from enum import StrEnum
from typing import Annotated

import typer

from biasscope import options

PANEL = "Manage"
EXAMPLES = ("biasscope models ls", "biasscope models ls --json | jq '.[] | select(.here) | .name'")


class Action(StrEnum):
    """What to do with the models."""

    LS = "ls"


def models(
    action: Annotated[Action, typer.Argument(help="ls")],
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the models that have short names, and which are here; any folder or hub id is a --model too."""
    from biasscope.engine.experiments import check
    from biasscope.report import formats

    rows = check.models()
    cells = [[row["name"], "yes" if row["here"] else row["get"], row["what"]] for row in rows]
    chosen = options.Format.JSON if json else format
    formats.listing("models by short name", rows, cells, chosen, columns=["name", "here", "what"])
