"""`biasscope patch`."""

from enum import StrEnum
from typing import Annotated

from biasscope import options

EXAMPLES = (
    "biasscope patch --method attribution",
    "biasscope patch --model gpt2 --dataset winogender --source zero",
    "biasscope patch --method exact --dataset winogender",
    "biasscope patch --json | jq '.summary[0]'",
)


class Method(StrEnum):
    """How effects are found."""

    ATTRIBUTION = "attribution"
    EXACT = "exact"


def patch(
    o: options.Measure,
    method: Annotated[Method, options.option("--method", "attribution: gradient estimates; exact: each site replaced in turn")] = (
        Method.ATTRIBUTION
    ),
    source: Annotated[options.Source, options.option("--source", "What the activations are replaced by")] = options.Source.MEAN,
) -> None:
    """Effect of replacing every head, MLP, attention output and residual site: estimated by gradients, or exact."""
    from biasscope import running
    from biasscope.engine import stats

    run = running.start("patch", o, {"method": method.value, "source": source.value})
    for each in run.scans(method=method.value, source=source.value):
        if not each.complete:
            from biasscope.engine import attribution, interventions

            single = interventions.sites(run.lm, attribution.COMPONENTS)
            if method is Method.EXACT:
                forest = each.forest()
                replacement = each.source(source.value, forest, single)
                units = interventions.units(run.lm, forest, single, replacement, metrics=("target",), batch=each.batch)
            else:
                forest = each.forest(share="example")
                sites = list(dict.fromkeys([*single, *map(interventions.whole, single)]))
                units = attribution.units(run.lm, forest, sites, each.source(source.value, forest, sites))
            names = each.measure(units, f"{method.value} ({source.value})")
            each.close(forest.examples, names, forest.dropped, forest.partly)
        effects, shares = each.table("effects"), each.dataset.share_of_men()
        with run.phase("statistics"):
            summary = stats.summarise(effects, model=run.slug, method=method.value, share_of_men=shares, seed=o.seed)
        each.save(summary)
    run.finish()
