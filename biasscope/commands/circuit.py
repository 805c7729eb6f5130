"""`biasscope circuit`."""

from typing import Annotated

from biasscope import options

PANEL = "Conclude"
EXAMPLES = (
    "biasscope circuit --from 34a1f100",
    "biasscope circuit --from 34a1f100 --sizes 1,2,5,10 --minimal --target 0.8",
    "biasscope circuit --from graph.json --model gpt2 --dataset winogender",
)


def circuit(
    o: options.Measure,
    source_run: Annotated[
        str,
        options.option(
            "--from",
            "Run of ablate or patch that ranks sites or edges, or a graph of MIB",
            metavar="RUN",
            autocompletion=options.usage.runs,
        ),
    ],
    sizes: Annotated[
        str | None,
        options.option("--sizes", "How many of the strongest to keep, or remove", metavar="1,2,5"),
    ] = None,
    minimal: Annotated[
        bool, options.option("--minimal", "Also a smallest set that keeps --target, by greedy removal")
    ] = False,
    target: Annotated[
        float,
        options.option("--target", "Share of the statistic that --minimal has to keep", min=0.0, max=1.0),
    ] = 0.8,
    mib: options.Mib = None,
) -> None:
    """Keep or remove only the strongest sites: how much of the bias is theirs, on groups held out."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import circuit as experiment
    from biasscope.report import formats

    voice = Screen(o.quiet, o.verbose)
    formats.result(
        experiment.circuit(o, source_run, sizes=sizes, minimal=minimal, target=target, mib=mib, voice=voice),
        o,
    )
