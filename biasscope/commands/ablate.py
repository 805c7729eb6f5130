"""`biasscope ablate`."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biasscope import options

if TYPE_CHECKING:
    from biasscope.engine.types import Dataset, Site
    from biasscope.scan import Scan

PANEL = "Measure"
EXAMPLES = (
    "biasscope ablate --top 20 --by attribution",
    "biasscope ablate --model gpt2 --dataset winogender --layers 0-5,11",
    "biasscope ablate --heads 5.3,10.12 --source zero --json | jq '.summary[0]'",
    "biasscope ablate --dataset winogender --source all",
    "biasscope ablate --dataset winogender --control definitional",
    "biasscope ablate --dataset winogender --given 26.2,25.2",
)


class Source(StrEnum):
    """What replaces the activation of a site."""

    MEAN = "mean"
    ZERO = "zero"
    RESAMPLE = "resample"
    ALL = "all"


class Control(StrEnum):
    """Prompts on which the same sites are measured."""

    DEFINITIONAL = "definitional"


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
    given: Annotated[
        str | None, options.option("--given", "Ablate these all the while, LAYER.HEAD or LAYER.mlp", metavar="5.3,10.mlp")
    ] = None,
    adaptive: Annotated[
        bool, options.option("--adaptive", "Down attribution's ranking until hardly any other site can be among the strongest")
    ] = False,
    miss: Annotated[float, options.option("--miss", "Share of unmeasured sites that may exceed them (--adaptive)", min=0.001, max=0.5)] = (
        0.02
    ),
    control: Annotated[
        Control | None, options.option("--control", "Also scan prompts where gender is a fact: gives each site's specificity")
    ] = None,
    plot: options.Plot = False,
) -> None:
    """Replace every head and MLP in turn and measure what changes, exactly: target, competence, distribution."""
    from biasscope import adapting, aggregation, choice, running
    from biasscope.engine import datasets
    from biasscope.engine.errors import UsageError

    if heads is not None and layers is not None:
        raise typer.BadParameter("give --heads or --layers, not both")
    if adaptive and (given or control or source is Source.ALL):
        raise UsageError("--adaptive measures one source on the whole model: it does not go with --given, --control or --source all")
    chosen = choice.Choice.parse(heads, layers)
    gone = choice.parse_sites("--given", given) if given else ()
    choice.apart(chosen, gone)
    own: dict[str, Any] = {"source": source.value, "heads": heads, "layers": layers, "top": top}
    own["by"] = by.value if top and not adaptive else None
    own |= {"given": given, "adaptive": adaptive, "miss": miss if adaptive else None, "control": control and control.value}
    run = running.start("ablate", o, own)
    asked = {name: own[name] for name in ("top", "by", "adaptive", "miss")}
    asked |= {"heads": chosen.heads, "layers": chosen.layers, "given": list(map(str, gone))}
    facts = datasets.load(control.value, o.data_dir) if control else None
    for each in run.scans(source=source.value, sites=asked, control=facts and [facts.name, facts.digest]):
        if not each.complete:
            sites = choice.without(chosen.sites(run.lm), choice.inside(run.lm, gone))
            if adaptive:
                adapting.measure(each, sites, source.value, top or adapting.STRONGEST, miss)
            else:
                sources = ("mean", "zero", "resample") if source is Source.ALL else (source.value,)
                _measure(each, sites if top is None else each.ranked(sites, sources, top), sources, gone, facts)
        summary, trusted = aggregation.controlled(each) if facts else aggregation.aggregated(each, "effects", "exact")
        each.save(summary, adapting.reported(each, trusted) if adaptive else trusted)
    run.plot = plot
    run.finish()


def _measure(each: "Scan", sites: "list[Site]", sources: tuple[str, ...], gone: "tuple[Site, ...]", facts: "Dataset | None") -> None:
    """Nothing: measures what is not stored yet."""
    from biasscope.engine import interventions

    forest, names = each.forest(), []
    for name in sources:
        replacement = each.source(name, forest, [*sites, *gone])
        units = interventions.units(each.run.lm, forest, sites, replacement, given=gone, batch=each.batch)
        names += each.measure(units, f"ablate ({name})", prefix=f"{name}-")
    if facts:
        names += each.beside(facts).controlled(sites, sources, gone)
    each.close(forest.examples, names, forest.dropped, forest.partly)
