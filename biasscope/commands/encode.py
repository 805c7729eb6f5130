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
    site: options.SiteOption = options.Component.RESID,
    position: options.PositionOption = options.Position.LAST,
) -> None:
    """Write the activations of every prompt as Parquet, for probes and other tools."""
    from biasscope.console import Screen
    from biasscope.engine.experiments import encode as experiment
    from biasscope.report import formats

    formats.result(experiment.encode(o, site=site.value, position=position.value, voice=Screen(o.quiet, o.verbose)), o)
