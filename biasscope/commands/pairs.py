"""`biasscope pairs`."""

from pathlib import Path
from typing import Annotated

from biasscope import options

PANEL = "Prepare"
EXAMPLES = (
    "biasscope pairs --dataset winogender",
    "biasscope pairs --model gpt2 --dataset stereoset_race --json | jq '.[] | select(.kept | not) | .reason'",
    "biasscope pairs --dataset stereoset_gender --acdc pairs/",
)


def pairs(
    o: options.Unedited,
    acdc: Annotated[
        Path | None,
        options.option(
            "--acdc",
            "Also write the pairs that fit as the original study's ACDC files into this folder",
            panel=options.OUTPUT,
        ),
    ] = None,
    mib: Annotated[
        Path | None,
        options.option(
            "--mib",
            "Also write the pairs as task files of EAP-IG and MIB's circuit track into this folder",
            panel=options.OUTPUT,
        ),
    ] = None,
) -> None:
    """Show every prompt with its counterfactual twin, or why it has none with this model's tokenizer."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import pairs as experiment
    from biasscope.report import formats

    rows = experiment.pairs(o, acdc=acdc, mib=mib, voice=Screen(o.quiet, o.verbose))
    cells = [[row["clean"], row["twin"] or f"– {row['reason']}"] for row in rows]
    chosen = options.Format.JSON if o.json else o.format
    formats.listing("clean prompt and twin", rows, cells, chosen, columns=["clean", "twin"])
