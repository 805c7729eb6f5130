"""`biasscope compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from biasscope import options

PANEL = "Conclude"
EXAMPLES = (
    "biasscope compare 34a1f100 7bc02e19",
    "biasscope compare results/gpt2/winogender/ablate/34a1f100 results/gpt2/occupations/ablate/aa10cd32 --top 20",
)


def compare(
    runs: Annotated[list[str], typer.Argument(help="Folders of finished runs, or the first characters of their keys")],
    top: Annotated[int, options.option("--top", "How many of the strongest sites count as the top", min=1)] = 10,
    output_dir: options.OutputDir = Path("results"),
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare rankings of sites: across datasets, sources and methods of a model, and by relative depth across models."""
    import polars as pl

    from biasscope import comparing, repeating
    from biasscope.engine import comparison, upkeep
    from biasscope.engine.errors import DataError

    found: list[comparison.Ranking] = []
    used: list[dict[str, Any]] = []
    named = {stored.folder: (stored, record) for stored, record in (upkeep.load(output_dir, run, cache_dir) for run in runs)}
    models = upkeep.models([stored for stored, _ in named.values()])
    for folder, (stored, record) in named.items():
        if record.command not in ("ablate", "patch"):
            raise DataError(f"{folder} is a run of `{record.command}`, which ranks no sites; compare runs of ablate and patch")
        summary = pl.read_parquet(folder / "summary.parquet").with_columns(model=pl.lit(models[folder]))
        found += comparison.rankings(folder.name, 0 if record.model is None else record.model.layers, summary)
        used.append({"run": folder.name, "path": str(folder), "seal": stored.seal, "reproduce": repeating.of(record)})
    if len(found) < 2:
        raise DataError(f"one ranking alone cannot be compared: {', '.join(comparison.labels(found))}; give two runs or more")
    comparing.show_comparison(found, used, top, options.Format.JSON if json else format)
