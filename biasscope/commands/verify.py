"""`biasscope verify`."""

from typing import Annotated, Any

from biasscope import options

PANEL = "Conclude"
EXAMPLES = ("biasscope verify", "biasscope verify --json | jq '.[] | select(.holds | not)'")
# where a terminal is narrow, columns leave from the right
SHOWN = {
    "model": "model",
    "how": "how",
    "about": "site",
    "verdict": "verdict",
    "statistic": "statistic",
    "worked": "by hand",
}
SHOWN |= {"found": "found", "auroc": "AUROC"}


def verify(
    limit: Annotated[
        int, options.option("--limit", "Prompts of `occupations` per model", panel=options.DATA, min=60)
    ] = 120,
    cache_dir: options.CacheDir = options.Measure.cache_dir,  # unused: one set of options for all commands
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find the known effects of planted models, miss what must be missed; exit 1 if a guarantee breaks."""
    from dataclasses import asdict

    from biasscope.console import Screen
    from biasscope.engine.errors import BiasScopeError
    from biasscope.engine.experiments import verify as experiment
    from biasscope.engine.schemas import NONE
    from biasscope.report import formats

    findings = experiment.verify(limit, voice=Screen(quiet))

    def cell(value: Any) -> str:
        if isinstance(value, str) or value is None:
            return value or NONE
        return f"{value:.2f}".replace("-", "−").replace("−0.00", "0.00")

    rows = [asdict(finding) for finding in findings]
    # people see what is found or missed, and what is broken; that all else holds is one line
    shown = [
        row
        for row in rows
        if row["verdict"] in ("found", "missed", "BROKEN") or row["statistic"] in ("specificity", "Spearman")
    ]
    cells = [[cell(row[name]) for name in SHOWN] for row in shown]
    title = "planted models: effects worked out by hand and found, nats (slopes: nats/SD)"
    formats.listing(title, rows, cells, options.Format.JSON if json else format, columns=list(SHOWN.values()))
    if broken := [finding for finding in findings if not finding.holds]:
        first = broken[0]
        raise BiasScopeError(
            f"{len(broken)} of {len(findings)} guarantees broken, first: {first.model}, {first.how}, "
            f"{first.about}"
        )
    Screen(quiet).note(
        f"all {len(findings)} guarantees hold: {len(shown)} shown, the others (no effect where there is "
        "none) in --json"
    )
