"""`biasscope probe`."""

from enum import StrEnum
from typing import Annotated

from biasscope import options

PANEL = "Measure"
EXAMPLES = (
    "biasscope probe --dataset winogender",
    "biasscope probe --dataset stereoset_race --negatives unrelated",
    "biasscope probe --dataset winogender --task lean --causal",
)


class Task(StrEnum):
    """What a probe is asked."""

    AUTO = "auto"
    STEREOTYPE = "stereotype"
    OCCUPATION = "occupation"
    LEAN = "lean"


class Negatives(StrEnum):
    """What the stereotype's filler is told apart from."""

    ANTI = "anti"
    UNRELATED = "unrelated"


class Split(StrEnum):
    """How groups are held out."""

    KFOLD = "kfold"
    HOLDOUT = "holdout"


def probe(
    o: options.Measure,
    task: Annotated[Task, options.option("--task", "auto: occupation where there are labour statistics, else stereotype")] = Task.AUTO,
    negatives: Annotated[Negatives, options.option("--negatives", "stereotype: which filler is label 0")] = Negatives.ANTI,
    site: options.SiteOption = options.Component.RESID,
    position: options.PositionOption = options.Position.LAST,
    split: Annotated[Split, options.option("--split", "Grouped 5 folds, or one grouped 80/20 split")] = Split.KFOLD,
    causal: Annotated[bool, options.option("--causal", "Also remove each layer's direction and measure what changes")] = False,
    plot: options.Plot = False,
) -> None:
    """Where bias is linearly readable, layer by layer: held-out accuracy, AUC and selectivity, against shuffled labels."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import probe as experiment
    from biasscope.report import formats

    asked = {"task": task.value, "negatives": negatives.value, "site": site.value, "position": position.value, "split": split.value}
    formats.result(experiment.probe(o, **asked, causal=causal, voice=Screen(o.quiet, o.verbose)), o, plot=plot)
