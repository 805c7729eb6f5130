"""`biasscope patch`."""

from enum import StrEnum
from typing import Annotated, Any

from biasscope import options

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
    from biasscope.console import Screen
    from biasscope.engine.experiments import patch as experiment
    from biasscope.report import formats

    asked: dict[str, Any] = {"method": method.value, "source": source.value, "direction": direction.value, "components": components}
    asked |= {"layers": layers, "positions": positions, "steps": steps, "calibrate": calibrate}
    formats.result(experiment.patch(o, **asked, voice=Screen(o.quiet, o.verbose)), o, plot=plot)
