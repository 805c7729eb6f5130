"""`biasscope compare`."""

from pathlib import Path
from typing import Annotated

import typer

from biasscope import options

PANEL = "Conclude"
EXAMPLES = (
    "biasscope compare 34a1f100 7bc02e19   (two baselines: is the second less stereotyped than the first?)",
    "biasscope compare results/gpt2/winogender/ablate/34a1f100 results/gpt2/occupations/ablate/aa10cd32 "
    "--top 20",
)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of finished runs, or the first characters of their keys",
            autocompletion=options.usage.runs,
        ),
    ],
    top: Annotated[
        int, options.option("--top", "How many of the strongest sites count as the top", min=1)
    ] = 10,
    fail_if: options.FailIf = None,
    fail_if_untestable: options.FailIfUntestable = False,
    output_dir: options.OutputDir = Path("results"),
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare two models (or edits) on the same data, paired; rankings of sites across data and methods."""
    from biasscope.console import Screen
    from biasscope.report import comparison, gate
    from biasscope.report.page import gather, pairing

    gates = gate.Gates.parse(fail_if, fail_if_untestable)
    rankings, used = comparison.measured(runs, output_dir, cache_dir)
    named = gather.named(output_dir, runs, cache_dir)
    pairs, why = pairing.pairs(named)
    compared = comparison.Comparison(pairs, rankings, used, top)
    compared.refuse_empty(why)
    for text in why:
        Screen().warn(text)
    comparison.show(compared, options.Format.JSON if json else format)
    gates.judge(gate.of_runs(named, pairs), Screen())
