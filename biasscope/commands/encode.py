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
    from biasscope import running
    from biasscope.engine.types import SUMMARY

    run = running.start("encode", o, {"site": site.value, "position": position.value})
    for each in run.scans(site=site.value, position=position.value):
        if not each.complete:
            each.encode(site.value, position.value)
        each.table("activations")
        each.save(SUMMARY.to_frame())
    run.finish()
