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
    from biasscope import running
    from biasscope.engine import stats

    run = running.start("patch", o, {"method": method.value, "source": source.value})
    for each in run.scans(method=method.value, source=source.value):
        if not each.complete:
            from biasscope.engine import attribution, interventions

            single = interventions.sites(run.lm, attribution.COMPONENTS)
            sites = list(dict.fromkeys([*single, *map(interventions.whole, single)]))
            forest = each.forest(share="example")
            units = attribution.units(run.lm, forest, sites, each.source(source.value, forest, sites))
            each.close(forest.examples, each.measure(units, f"attribution ({source.value})"), forest.dropped, forest.partly)
        effects, shares = each.table("effects"), each.dataset.share_of_men()
        with run.phase("statistics"):
            summary = stats.summarise(effects, model=run.slug, method=method.value, share_of_men=shares, seed=o.seed)
        each.save(summary)
    run.finish()
