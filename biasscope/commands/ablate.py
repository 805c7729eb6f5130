"""`biasscope ablate`."""

from enum import StrEnum
from typing import Annotated

import typer

from biasscope import options

EXAMPLES = (
    "biasscope ablate --top 20 --by attribution",
    "biasscope ablate --model gpt2 --dataset winogender --layers 0-5,11",
    "biasscope ablate --heads 5.3,10.12 --source zero --json | jq '.summary[0]'",
    "biasscope ablate --dataset winogender --source all",
)


class Source(StrEnum):
    """What replaces the activation of a site."""

    MEAN = "mean"
    ZERO = "zero"
    RESAMPLE = "resample"
    ALL = "all"


class By(StrEnum):
    """What chooses the sites of --top."""

    ATTRIBUTION = "attribution"


def ablate(
    o: options.Measure,
    source: Annotated[Source, options.option("--source", "What the activations are replaced by; all: each in turn")] = Source.MEAN,
    heads: Annotated[str | None, options.option("--heads", "Only these heads, LAYER.HEAD", metavar="5.3,10.12")] = None,
    layers: Annotated[str | None, options.option("--layers", "Only the heads and MLPs of these layers", metavar="0-5,11")] = None,
    top: Annotated[int | None, options.option("--top", "Only the N sites that --by ranks first", min=1)] = None,
    by: Annotated[By, options.option("--by", "What ranks the sites of --top")] = By.ATTRIBUTION,
) -> None:
    """Replace every head and MLP in turn and measure what changes, exactly: target, competence, distribution."""
    from biasscope import choice, running

    if heads is not None and layers is not None:
        raise typer.BadParameter("give --heads or --layers, not both")
    chosen = choice.Choice.parse(heads, layers)
    own = {"source": source.value, "heads": heads, "layers": layers, "top": top, "by": by.value if top else None}
    run = running.start("ablate", o, own)
    asked = {"heads": chosen.heads, "layers": chosen.layers, "top": top, "by": own["by"]}
    sources = ("mean", "zero", "resample") if source is Source.ALL else (source.value,)
    for each in run.scans(source=source.value, sites=asked):
        if not each.complete:
            from biasscope.engine import interventions
            from biasscope.engine.types import Unit

            sites = chosen.sites(run.lm)
            if top is not None:
                sites = each.ranked(sites, sources[0], top)
            forest, names = each.forest(), []
            for name in sources:
                units = interventions.units(run.lm, forest, sites, each.source(name, forest, sites), batch=each.batch)
                names += each.measure([Unit(f"{name}-{unit.name}", unit.compute) for unit in units], f"ablate ({name})")
            each.close(forest.examples, names, forest.dropped, forest.partly)
        each.save(*each.aggregated("effects", "exact"))
    run.finish()
