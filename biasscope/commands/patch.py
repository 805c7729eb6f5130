"""`biasscope patch`."""

from typing import Annotated

from biasscope import options

PANEL = "Measure"
EXAMPLES = (
    "biasscope patch --dataset winogender",
    "biasscope patch --method exact --components resid_post --positions term,between,readout",
    "biasscope patch --model gpt2 --dataset winogender --source zero --calibrate 20",
    "biasscope patch --method edges --dataset winogender --calibrate 50",
    "biasscope patch --components q,k,v --calibrate 20",
    "biasscope patch --json | jq '.summary[0] | {layer, head, estimate, recovered}'",
)


def patch(
    o: options.Measure,
    method: Annotated[
        options.Method,
        options.option(
            "--method",
            "attribution: gradient estimates; exact: each site replaced in turn; edges: estimates of what "
            "heads and MLPs read of each other",
        ),
    ] = "attribution",
    source: Annotated[
        options.Patched,
        options.option("--source", "What the activations are replaced by; corrupt: the twin's"),
    ] = "corrupt",
    direction: Annotated[
        options.Direction,
        options.option("--direction", "noising: the twin's into the clean run; denoising: the reverse"),
    ] = "noising",
    components: Annotated[
        str,
        options.option(
            "--components",
            "Of z, attn_out, mlp_out, resid_pre, resid_post, and inside them q, k, v, pattern, neuron",
            metavar="NAME,…",
        ),
    ] = "z,attn_out,mlp_out,resid_pre,resid_post",
    layers: Annotated[str | None, options.option("--layers", "Only these layers", metavar="0-5,11")] = None,
    positions: Annotated[
        str,
        options.option("--positions", "Some of term, between, readout, one at a time", metavar="all|NAME,…"),
    ] = "all",
    given: options.Given = None,
    steps: options.Steps = None,
    calibrate: options.Calibrate = None,
    mib: options.Mib = None,
    plot: options.Plot = False,
) -> None:
    """Effect of replacing each head, MLP, attention output and residual site, estimated or exact."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import patch as experiment
    from biasscope.report import formats

    result = experiment.patch(
        o,
        method=method,
        source=source,
        direction=direction,
        components=components,
        layers=layers,
        positions=positions,
        given=given,
        steps=steps,
        calibrate=calibrate,
        mib=mib,
        voice=Screen(o.quiet, o.verbose),
    )
    formats.result(result, o, plot=plot)
