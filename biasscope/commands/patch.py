"""`biasscope patch`."""

from enum import StrEnum
from typing import Annotated

from biasscope import options

EXAMPLES = (
    "biasscope patch --method attribution",
    "biasscope patch --model gpt2 --dataset winogender --source zero",
    "biasscope patch --json | jq '.summary[0]'",
)


class Method(StrEnum):
    """How effects are found."""

    ATTRIBUTION = "attribution"


def patch(
    o: options.Measure,
    method: Annotated[Method, options.option("--method", "attribution: gradient estimates, one forward and backward pass a block")] = (
        Method.ATTRIBUTION
    ),
    source: Annotated[options.Source, options.option("--source", "What the activations are replaced by")] = options.Source.MEAN,
) -> None:
    """Estimate the effect of every head, MLP and residual site by gradients, signed, per example."""
    from biasscope import session
    from biasscope.engine import attribution, interventions, stats

    run = session.start("patch", o, {"method": method.value, "source": source.value})
    single = interventions.sites(run.lm, attribution.COMPONENTS)
    sites = list(dict.fromkeys([*single, *map(interventions.whole, single)]))
    for dataset in run.datasets:
        forest = run.forest(dataset, share="example")
        with run.phase("passes"):
            replacement = interventions.source(source.value, run.lm, forest, sites, track=run.screen.track)
            effects = attribution.estimate(run.lm, forest, sites, replacement, track=run.screen.track)
        with run.phase("statistics"):
            summary = stats.summarise(effects, model=run.slug, method=method.value, share_of_men=dataset.share_of_men(), seed=o.seed)
        run.save(dataset, forest, {"method": method.value, "source": source.value}, effects=effects, summary=summary)
    run.finish()
