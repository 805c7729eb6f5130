"""`biasscope probe`."""

from typing import Annotated

from biasscope import options

PANEL = "Measure"
EXAMPLES = (
    "biasscope probe --dataset winogender",
    "biasscope probe --dataset stereoset_race --negatives unrelated",
    "biasscope probe --dataset winogender --task lean --causal",
)


def probe(
    o: options.Measure,
    task: Annotated[
        options.Task,
        options.option("--task", "auto: occupation where there are labour statistics, else stereotype"),
    ] = "auto",
    negatives: Annotated[
        options.Negatives, options.option("--negatives", "stereotype: which filler is label 0")
    ] = "anti",
    site: options.SiteOption = "resid",
    position: options.PositionOption = "last",
    split: Annotated[
        options.Holdout, options.option("--split", "Grouped 5 folds, or one grouped 80/20 split")
    ] = "kfold",
    causal: Annotated[
        bool, options.option("--causal", "Also remove each layer's direction and measure what changes")
    ] = False,
    given: options.Given = None,
    plot: options.Plot = False,
) -> None:
    """Where bias is linearly readable, by layer: held-out accuracy, AUC, selectivity, shuffled labels."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import probe as experiment
    from biasscope.report import formats

    voice = Screen(o.quiet, o.verbose)
    result = experiment.probe(
        o,
        task=task,
        negatives=negatives,
        site=site,
        position=position,
        split=split,
        causal=causal,
        given=given,
        voice=voice,
    )
    formats.result(result, o, plot=plot)
