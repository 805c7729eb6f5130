"""`biasscope ablate`."""

from typing import Annotated

import typer

from biasscope import options

PANEL = "Measure"
EXAMPLES = (
    "biasscope ablate --top 20 --by attribution",
    "biasscope ablate --model gpt2 --dataset winogender --layers 0-5,11",
    "biasscope ablate --heads 5.3,10.12 --source zero --json | jq '.summary[0]'",
    "biasscope ablate --dataset winogender --source all",
    "biasscope ablate --dataset winogender --control definitional",
    "biasscope ablate --dataset winogender --given 26.2,25.2",
    "biasscope ablate --dataset winogender --layers 20-29 --conditional",
)


def ablate(
    o: options.Measure,
    source: Annotated[
        options.Replaced,
        options.option("--source", "What the activations are replaced by; all: each in turn"),
    ] = "mean",
    heads: Annotated[
        str | None, options.option("--heads", "Only these heads, LAYER.HEAD", metavar="5.3,10.12")
    ] = None,
    layers: Annotated[
        str | None, options.option("--layers", "Only the heads and MLPs of these layers", metavar="0-5,11")
    ] = None,
    top: Annotated[
        int | None, options.option("--top", "Only the N sites that --by ranks first", min=1)
    ] = None,
    by: Annotated[options.Ranking, options.option("--by", "What ranks the sites of --top")] = "attribution",
    given: Annotated[
        str | None,
        options.option("--given", "Ablated all the while: LAYER.HEAD or LAYER.mlp", metavar="5.3,10.mlp"),
    ] = None,
    adaptive: Annotated[
        bool,
        options.option("--adaptive", "All sites on a few groups, on all those that may be in the --top (10)"),
    ] = False,
    miss: Annotated[
        float,
        options.option("--miss", "Chance to give up a site of the top (--adaptive)", min=0.001, max=0.5),
    ] = 0.02,
    conditional: options.Conditional = False,
    rounds: options.Rounds = 3,
    control: Annotated[
        options.Control | None,
        options.option("--control", "Scan prompts where gender is a fact, too: each site's specificity"),
    ] = None,
    plot: options.Plot = False,
) -> None:
    """Replace each head and MLP in turn; measure what changes, exactly: target, competence, distribution."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import ablate as experiment
    from biasscope.report import formats

    if heads is not None and layers is not None:
        raise typer.BadParameter("give --heads or --layers, not both")
    with formats.showing_stopped(o, plot=plot):
        result = experiment.ablate(
            o,
            source=source,
            heads=heads,
            layers=layers,
            top=top,
            by=by,
            given=given,
            adaptive=adaptive,
            miss=miss,
            conditional=conditional,
            rounds=rounds,
            control=control,
            voice=Screen(o.quiet, o.verbose),
        )
    formats.result(result, o, plot=plot)
