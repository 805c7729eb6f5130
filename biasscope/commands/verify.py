"""`biasscope verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from biasscope import options

if TYPE_CHECKING:
    from biasscope.engine.guarantees import Finding

PANEL = "Conclude"
EXAMPLES = ("biasscope verify", "biasscope verify --json | jq '.[] | select(.holds | not)'")
# where a terminal is narrow, columns leave from the right
SHOWN = {"model": "model", "how": "how", "about": "site", "verdict": "verdict", "statistic": "statistic", "worked": "by hand"}
SHOWN |= {"found": "found", "auroc": "AUROC"}


def verify(
    limit: Annotated[int, options.option("--limit", "Prompts of `occupations` per model", panel=options.DATA, min=60)] = 120,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run the commands on models whose effects are known, and show what they find and must miss; exit 1 if a guarantee breaks."""
    import tempfile
    from dataclasses import asdict

    from biasscope import show
    from biasscope.console import Screen
    from biasscope.engine import planted
    from biasscope.engine.errors import BiasScopeError
    from biasscope.tables import NONE

    found: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="biasscope-verify-") as folder:
        for kind in Screen(quiet).track(list(planted.KINDS), "planted models"):
            found += _of_kind(kind, limit, Path(folder))

    def cell(value: Any) -> str:
        if isinstance(value, str) or value is None:
            return value or NONE
        return f"{value:.2f}".replace("-", "−").replace("−0.00", "0.00")

    rows = [asdict(finding) for finding in found]
    # people see what is found or missed, and what is broken; that all else holds is one line
    told = [row for row in rows if row["verdict"] in ("found", "missed", "BROKEN") or row["statistic"] in ("specificity", "Spearman")]
    cells = [[cell(row[name]) for name in SHOWN] for row in told]
    title = "planted models: effects worked out by hand and found, nats (slopes: nats/SD)"
    show.listing(title, rows, cells, options.Format.JSON if json else format, columns=list(SHOWN.values()))
    if broken := [finding for finding in found if not finding.holds]:
        first = broken[0]
        raise BiasScopeError(f"{len(broken)} of {len(found)} guarantees broken, first: {first.model}, {first.how}, {first.about}")
    Screen(quiet).note(f"all {len(found)} guarantees hold: {len(told)} shown, the others (no effect where there is none) in --json")


def _of_kind(kind: str, limit: int, folder: Path) -> "list[Finding]":
    """The findings of every run on one planted model."""
    from biasscope.commands import ablate, patch
    from biasscope.engine.guarantees import How, of_control, of_run
    from biasscope.engine.types import TOTAL

    o = options.Measure(
        model=f"planted:{kind}",
        dataset=["occupations"],
        limit=limit,
        cache_dir=folder / "cache",
        output_dir=folder / kind,
        format=options.Format.JSON,
        quiet=True,
    )
    corrupt, zero = patch.Source.CORRUPT, patch.Source.ZERO
    attribution, sites = patch.Method.ATTRIBUTION, {"components": "z,mlp_out"}
    control = ablate.Control.DEFINITIONAL if kind == "single" else None
    _silently(ablate.ablate, o, source=ablate.Source.ALL, control=control)
    for source in (zero, patch.Source.MEAN, corrupt):
        _silently(patch.patch, o, method=attribution, source=source, **sites)
    _silently(patch.patch, o, method=patch.Method.EXACT, **sites)
    if kind == "masked":
        _silently(patch.patch, o, method=attribution, steps=4, **sites)
    if kind == "backup":
        _silently(ablate.ablate, o, source=ablate.Source.ZERO, given="1.2")
    found: list[Finding] = []
    for record, summary, twins, shares in _finished(folder / kind):
        asked = record.params
        for (source, dataset), rows in summary.partition_by("source", "dataset", as_dict=True, maintain_order=True).items():
            how = How(kind, asked.get("method", "exact"), source, asked.get("steps"), bool(asked.get("given")))
            if dataset == "definitional" or (source == "resample" and kind not in ("single", "graded")):
                continue
            found += of_run(how, rows.filter(rows["component"] != TOTAL), twins, shares)
            if asked.get("control"):
                found += of_control(how, rows, summary.filter(summary["dataset"] == "definitional", summary["source"] == source))
    return found


def _silently(command: Any, o: options.Measure, **asked: Any) -> None:
    """Nothing: runs a command as a user would, without its output."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        command(o, **asked)


def _finished(folder: Path) -> "list[tuple[Any, Any, dict[str, str], dict[str, float]]]":
    """Record, SUMMARY, each occupation's twin and share of men of the finished runs, in the order in which they were made."""
    import polars as pl

    from biasscope.engine import datasets, measured, runs

    shares = datasets.load("occupations", Path()).share_of_men() or {}
    found = []
    for file in sorted(folder.rglob("run.json"), key=lambda file: file.stat().st_mtime_ns):
        record = runs.read(file.parent)
        effects = pl.scan_parquet(file.parent / "effects.parquet").select("group").unique().collect()["group"]
        pairs = file.parent / "twins.parquet"
        twins = measured.partners(pl.read_parquet(pairs)) if pairs.is_file() else {}
        found.append((record, pl.read_parquet(file.parent / "summary.parquet"), twins, {group: shares[group] for group in effects}))
    return found
