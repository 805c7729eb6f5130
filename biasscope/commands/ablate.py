"""`biasscope ablate`."""

from enum import StrEnum
from typing import Annotated

import typer

from biasscope import options

EXAMPLES = (
    "biasscope ablate --top 20 --by attribution",
    "biasscope ablate --model gpt2 --dataset winogender --layers 0-5,11",
    "biasscope ablate --heads 5.3,10.12 --source zero --json | jq '.summary[0]'",
)


class By(StrEnum):
    """What chooses the sites of --top."""

    ATTRIBUTION = "attribution"


def ablate(
    o: options.Measure,
    source: Annotated[options.Source, options.option("--source", "What the activations are replaced by")] = options.Source.MEAN,
    heads: Annotated[str | None, options.option("--heads", "Only these heads, LAYER.HEAD", metavar="5.3,10.12")] = None,
    layers: Annotated[str | None, options.option("--layers", "Only the heads and MLPs of these layers", metavar="0-5,11")] = None,
    top: Annotated[int | None, options.option("--top", "Only the N sites that --by ranks first", min=1)] = None,
    by: Annotated[By, options.option("--by", "What ranks the sites of --top")] = By.ATTRIBUTION,
) -> None:
    """Replace every head and MLP in turn and measure what changes, exactly: target, competence, distribution."""
    from biasscope import choice, session
    from biasscope.engine import attribution, interventions, stats

    if heads is not None and layers is not None:
        raise typer.BadParameter("give --heads or --layers, not both")
    chosen = choice.Choice.parse(heads, layers)
    own = {"source": source.value, "heads": heads, "layers": layers, "top": top, "by": by.value if top else None}
    run = session.start("ablate", o, own)
    every = chosen.sites(run.lm)
    for dataset in run.datasets:
        sites = every
        if top is not None:
            estimates = run.forest(dataset, share="example")
            with run.phase("attribution"):
                replacement = interventions.source(source.value, run.lm, estimates, every, track=run.screen.track)
                guessed = attribution.estimate(run.lm, estimates, every, replacement, track=run.screen.track)
                ranked = stats.summarise(guessed, model=run.slug, method=by.value, share_of_men=dataset.share_of_men(), seed=o.seed)
            sites = sorted([site for site in stats.top(ranked, ranked.height) if site in every][:top])
            chose = f"the {len(sites)} of {len(every)} sites that attribution chose on the same examples"
            run.warn(f"{dataset.name}: p_family and q are over {chose}")
        forest = run.forest(dataset)
        with run.phase("passes"):
            replacement = interventions.source(source.value, run.lm, forest, sites, track=run.screen.track)
            effects = interventions.sweep(run.lm, forest, sites, replacement, batch=o.units(), track=run.screen.track)
        with run.phase("statistics"):
            summary = stats.summarise(effects, model=run.slug, method="exact", share_of_men=dataset.share_of_men(), seed=o.seed)
        identity = {"source": source.value, "sites": [str(site) for site in sites]}
        run.save(dataset, forest, identity, effects=effects, summary=summary)
    run.finish()
