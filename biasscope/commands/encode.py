"""`biasscope encode`."""

from enum import StrEnum
from typing import Annotated

from biasscope import options

PANEL = "Measure"
EXAMPLES = (
    "biasscope encode --dataset winogender",
    "biasscope encode --model gpt2 --site z --position term",
    """duckdb -c "SELECT layer, count(*) FROM 'results/*/*/encode/*/activations.parquet' GROUP BY layer" """,
)


class Site(StrEnum):
    """What is written."""

    RESID = "resid"
    Z = "z"
    MLP_OUT = "mlp_out"


class Position(StrEnum):
    """Where in the prompt."""

    LAST = "last"
    TERM = "term"
    MEAN = "mean"


def encode(
    o: options.Measure,
    site: Annotated[Site, options.option("--site", "resid: the stream into every layer and out of the last; z: heads")] = Site.RESID,
    position: Annotated[
        Position, options.option("--position", "Last token, last token of the term, or mean over the prompt")
    ] = Position.LAST,
) -> None:
    """Write the activations of every prompt as Parquet, for probes and other tools."""
    from biasscope import running
    from biasscope.engine.types import SUMMARY

    run = running.start("encode", o, {"site": site.value, "position": position.value})
    for each in run.scans(site=site.value, position=position.value):
        if not each.complete:
            each.encode(site.value, position.value)
        each.table("activations")
        each.save(SUMMARY.to_frame())
    run.finish()
