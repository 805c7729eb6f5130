"""`biasscope report`."""

from pathlib import Path
from typing import Annotated

import typer

from biasscope import options

PANEL = "Conclude"
EXAMPLES = (
    "biasscope report",
    "biasscope report --model gpt2 --out gpt2.md",
    "biasscope report --pdf --card",
    "biasscope report 34a1f100 7bc02e19 --format json | jq '.used[].reproduce'",
)


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders of finished runs, or the first characters of their keys (default: all)",
            autocompletion=options.usage.runs,
        ),
    ] = None,
    model: Annotated[str | None, options.option("--model", "Only runs of this model", "-m")] = None,
    out: Annotated[
        Path | None,
        options.option(
            "--out", "Markdown file; page and figures stand beside it (default: report.md in --output-dir)"
        ),
    ] = None,
    pdf: Annotated[
        bool, options.option("--pdf", "Also print the page as PDF; needs Chromium or Chrome")
    ] = False,
    card: Annotated[
        bool, options.option("--card", "Also a card for the model's page: Markdown with model-index")
    ] = False,
    open_: Annotated[bool, options.option("--open", "Show the page in the browser")] = False,
    fail_if: options.FailIf = None,
    fail_if_untestable: options.FailIfUntestable = False,
    output_dir: options.OutputDir = Path("results"),
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn finished runs into a report: Markdown with figures, and one HTML page. Measures nothing."""
    from biasscope.console import Screen
    from biasscope.report import gate
    from biasscope.report.page import document, gather, pairing

    gates = gate.Gates.parse(fail_if, fail_if_untestable)
    gathered = gather.gather(output_dir, runs or [], model, cache_dir)
    pairs = pairing.of_parts(gathered.parts)
    chosen = options.Format.JSON if json else format
    extras = document.Extras(pdf=pdf, card=card, open=open_, quiet=quiet)
    try:
        document.write(gathered, pairs, out or output_dir / "report.md", chosen, extras)
    finally:  # after the report, and before what is missing in it
        gates.judge(gate.of_runs(gathered.used, pairs), Screen(quiet))
