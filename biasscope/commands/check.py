"""`biasscope check`."""

from pathlib import Path
from typing import Annotated

import typer

from biasscope import options

PANEL = "Prepare"
EXAMPLES = (
    "biasscope check prompts.csv",
    "biasscope check prompts.csv --model gpt2",
    "biasscope check prompts.csv --json | jq .[0].dropped",
)


def check(
    dataset: Annotated[
        str,
        typer.Argument(
            help="FILE of prompts of your own, or the name of a dataset",
            autocompletion=options.usage.datasets,
        ),
    ],
    model: Annotated[
        str | None,
        options.option(
            "--model", "Also what its tokenizer makes of them", "-m", autocompletion=options.usage.models
        ),
    ] = None,
    revision: options.Revision = None,
    seed: options.Seed = 0,
    data_dir: options.DataDir = Path("data"),
    skip_invalid: options.SkipInvalid = False,
    no_space: options.NoSpace = False,
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    offline: options.Offline = False,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what can be measured with prompts, what is left out and why, without loading a model.

    Exit code 4 where records cannot be used.
    """
    from biasscope.engine.experiments import check as experiment
    from biasscope.report.prompt import check as report

    facts, refused = experiment.check(
        options.Measure(
            model=model or "",
            dataset=[dataset],
            seed=seed,
            revision=revision,
            data_dir=data_dir,
            skip_invalid=skip_invalid,
            no_space=no_space,
            cache_dir=cache_dir,
            offline=offline,
        )
    )
    report.show(facts, dataset, options.Format.JSON if json else format)
    if refused is not None:
        raise refused
