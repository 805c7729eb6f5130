"""`biasscope baseline`."""

from pathlib import Path
from typing import Annotated

from biasscope import options

PANEL = "Measure"
EXAMPLES = (
    "biasscope baseline",
    "biasscope baseline --model gpt2 --dataset stereoset --dataset winogender",
    "biasscope baseline --dataset prompts.csv --group-by source",
    "biasscope baseline --dataset occupations --fail-if 'occupations.slope.ci_low > 0.5'",
    "biasscope baseline --predictions predictions.json --dataset stereoset",
)


def baseline(
    o: options.Measure,
    predictions: Annotated[
        Path | None,
        options.option(
            "--predictions",
            "Score these per-sentence scores instead of a model",
            panel=options.DATA,
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    given: options.Given = None,
    group_by: Annotated[
        str | None,
        options.option(
            "--group-by", "Also rows by the values of a column kept of your FILE", panel=options.DATA
        ),
    ] = None,
    fail_if: options.FailIf = None,
    fail_if_untestable: options.FailIfUntestable = False,
) -> None:
    """Score the clean model: StereoSet's LMS, SS, ICAT, target and sentence gaps, WinoGender's slope."""
    from biasscope.console import Screen
    from biasscope.engine.errors import UsageError
    from biasscope.engine.experiments import baseline as experiment
    from biasscope.report import formats, gate

    gates = gate.Gates.parse(fail_if, fail_if_untestable)
    if predictions is not None and (given is not None or o.edit is not None):
        option = "--edit" if given is None else "--given"
        raise UsageError(f"{option} does not go with --predictions: no model is loaded that could be edited")
    if predictions is not None and group_by is not None:
        raise UsageError("--group-by does not go with --predictions, whose rows are StereoSet's")
    if gates.conditions and o.shard:
        raise UsageError("--fail-if judges a whole run: leave it out with --shard, and gate what is merged")
    voice = Screen(o.quiet, o.verbose)
    result = (
        experiment.baseline(o, given=given, group_by=group_by, voice=voice)
        if predictions is None
        else experiment.score(o, predictions, voice=voice)
    )
    try:
        formats.result(result, o)
    finally:  # after the output, and before what is missing in it
        gates.judge(gate.of_result(result), voice)
