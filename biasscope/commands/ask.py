"""`biasscope ask`."""

from typing import Annotated

import typer

from biasscope import options

PANEL = "Conclude"
EXAMPLES = (
    'biasscope ask "The nurse said that" he she',
    'biasscope ask "The plumber said that" he she --model gpt2 --json | jq .twin.target',
)


def ask(
    prompt: Annotated[str, typer.Argument(help="The text before what is compared")],
    first: Annotated[str, typer.Argument(help="A continuation")],
    second: Annotated[str, typer.Argument(help="Another one")],
    model: Annotated[
        str,
        options.option(
            "--model",
            "Short name, hub id, local folder or .gguf file",
            "-m",
            autocompletion=options.usage.models,
        ),
    ] = options.Measure.model,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = options.Measure.dtype,
    seed: options.Seed = 0,
    no_space: options.NoSpace = False,
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    offline: options.Offline = False,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Ask one prompt: which of two continuations is likelier, after its twin too, and which heads do it."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import ask as experiment
    from biasscope.report.prompt import ask as report

    settings = options.Measure(
        model=model,
        revision=revision,
        device=device,
        dtype=dtype,
        seed=seed,
        no_space=no_space,
        cache_dir=cache_dir,
        offline=offline,
    )
    answer = experiment.ask(settings, prompt, first, second, voice=Screen(quiet))
    report.show(experiment.document(answer), options.Format.JSON if json else format)
