"""`biasscope patch`."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from biasscope import options

if TYPE_CHECKING:
    from biasscope.scan import Scan

PANEL = "Measure"
EXAMPLES = (
    "biasscope patch --dataset winogender",
    "biasscope patch --method exact --components resid_post --positions term,between,readout",
    "biasscope patch --model gpt2 --dataset winogender --source zero --calibrate 20",
    "biasscope patch --json | jq '.summary[0] | {layer, head, estimate, recovered}'",
)


class Method(StrEnum):
    """How effects are found."""

    ATTRIBUTION = "attribution"
    EXACT = "exact"


class Source(StrEnum):
    """What replaces the activation of a site."""

    CORRUPT = "corrupt"
    MEAN = "mean"
    ZERO = "zero"
    RESAMPLE = "resample"


class Direction(StrEnum):
    """Which run is patched with the other's activations."""

    NOISING = "noising"
    DENOISING = "denoising"


def patch(
    o: options.Measure,
    method: Annotated[Method, options.option("--method", "attribution: gradient estimates; exact: each site replaced in turn")] = (
        Method.ATTRIBUTION
    ),
    source: Annotated[Source, options.option("--source", "What the activations are replaced by; corrupt: the twin's")] = Source.CORRUPT,
    direction: Annotated[
        Direction, options.option("--direction", "noising: the twin's into the clean run; denoising: the clean ones into the twin's run")
    ] = Direction.NOISING,
    components: Annotated[
        str, options.option("--components", "Some of z, attn_out, mlp_out, resid_pre, resid_post", metavar="NAME,…")
    ] = "z,attn_out,mlp_out,resid_pre,resid_post",
    layers: Annotated[str | None, options.option("--layers", "Only these layers", metavar="0-5,11")] = None,
    positions: Annotated[
        str, options.option("--positions", "Where: all, or some of term, between, readout one at a time", metavar="all|NAME,…")
    ] = "all",
    steps: Annotated[int | None, options.option("--steps", "Mean gradient over N steps towards the twin (integrated)", min=1)] = None,
    calibrate: Annotated[
        int | None, options.option("--calibrate", "Also measure exactly the first N and N random sites of each kind", min=1)
    ] = None,
    plot: options.Plot = False,
) -> None:
    """Effect of replacing every head, MLP, attention output and residual site: estimated by gradients, or exact."""
    from biasscope import aggregation, choice, running
    from biasscope.engine.errors import UsageError
    from biasscope.engine.types import COMPONENTS, POSITIONS

    if source is not Source.CORRUPT and (direction is Direction.DENOISING or steps):
        raise UsageError(f"--direction denoising and --steps go from a prompt to its twin: they need --source corrupt, not {source.value}")
    if method is Method.EXACT and (steps or calibrate):
        raise UsageError("--steps and --calibrate are about estimates: they need --method attribution")
    where = {
        "components": choice.parse_words("--components", components, COMPONENTS),
        "layers": choice.Choice.parse(None, layers).layers,
        "positions": choice.parse_words("--positions", positions, POSITIONS),
    }
    own = {"method": method.value, "source": source.value, "direction": direction.value, "steps": steps, "calibrate": calibrate}
    run = running.start("patch", o, own | {"components": components, "layers": layers, "positions": positions})
    for each in run.scans(**own, **where):
        if not each.complete:
            _measure(each, own, where)
        each.save(*(aggregation.calibrated(each, calibrate) if calibrate else aggregation.aggregated(each, "effects", method.value)))
    run.plot = plot
    run.finish()


def _measure(each: "Scan", own: dict[str, Any], where: dict[str, Any]) -> None:
    """Nothing: measures what is not stored yet."""
    from dataclasses import replace

    from biasscope.engine import attribution, interventions

    lm, name, positions, exact = each.run.lm, own["source"], where["positions"], own["method"] == "exact"
    single = interventions.sites(lm, where["components"], where["layers"])
    everywhere = positions == ("all",)
    forest = each.forest(share="all" if exact and everywhere else "example", twins=name == "corrupt", positions=not everywhere)
    if own["direction"] == "denoising":
        forest, name = replace(forest, blocks=tuple(block.swapped() for block in forest.blocks)), "clean"
    sites = single if exact else list(dict.fromkeys([*single, *map(interventions.whole, single)]))
    replacement = each.source(name, forest, sites)
    if exact:
        units = interventions.units(lm, forest, sites, replacement, positions=positions, metrics=("target",), batch=each.batch)
    else:
        units = attribution.units(lm, forest, sites, replacement, positions=positions, steps=own["steps"])
    names = each.measure(units, f"{own['method']} ({name})")
    if own["calibrate"]:
        names += each.calibrated(names, own["calibrate"], forest, replacement, positions)
    each.close(forest.examples, names, forest.dropped, forest.partly)
