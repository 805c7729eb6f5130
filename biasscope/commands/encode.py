"""`biasscope encode`."""

from biasscope import options

PANEL = "Measure"
EXAMPLES = (
    "biasscope encode --dataset winogender",
    "biasscope encode --model gpt2 --site z --position term",
    """duckdb -c "SELECT layer, count(*) FROM 'results/*/*/encode/*/activations.parquet' GROUP BY layer" """,
)


def encode(
    o: options.Measure,
    site: options.SiteOption = "resid",
    position: options.PositionOption = "last",
    given: options.Given = None,
) -> None:
    """Write the activations of every prompt as Parquet, for probes and other tools."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import encode as experiment
    from biasscope.report import formats

    formats.result(
        experiment.encode(o, site=site, position=position, given=given, voice=Screen(o.quiet, o.verbose)), o
    )
