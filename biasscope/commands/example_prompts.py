"""`biasscope example-prompts`."""

from typing import Annotated

from biasscope import options

PANEL = "Prepare"
EXAMPLES = (
    "biasscope example-prompts > prompts.csv",
    "biasscope example-prompts --form twins > prompts.csv",
)


def example_prompts(
    form: Annotated[
        options.Form,
        options.option(
            "--form",
            "pronouns, a number per group; fillers, also of nonsense; paired prompts of one text; phrases of "
            "several words; twins of your own",
        ),
    ] = "pronouns",
    cache_dir: options.CacheDir = options.Measure.cache_dir,  # unused: one set of options for all commands
) -> None:
    """Write a file of prompts to stdout, to start your own from."""
    import sys

    from biasscope.engine.data.datasets import prompts

    sys.stdout.write((prompts.EXAMPLES / f"{form}.csv").read_text(encoding="utf-8"))
    sys.stdout.flush()
