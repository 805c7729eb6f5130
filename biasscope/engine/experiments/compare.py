"""The steps of `compare`: the rankings of the named runs. Measures nothing and loads no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.errors import DataError
from biasscope.engine.statistics import comparison
from biasscope.engine.store import cache, reproduce


def rankings(
    names: Sequence[str], output_dir: Path, cache_dir: Path | None = None
) -> tuple[list[comparison.Ranking], list[dict[str, Any]]]:
    """These runs' rankings, and the runs as a document shows them. DataError where rankings are under two."""
    ranked: list[comparison.Ranking] = []
    used: list[dict[str, Any]] = []
    named = {
        stored.folder: (stored, record)
        for stored, record in (cache.load(output_dir, name, cache_dir) for name in names)
    }
    models = cache.models([stored for stored, _ in named.values()])
    for folder, (stored, record) in named.items():
        if record.command not in ("ablate", "patch"):
            raise DataError(
                f"{folder} is a run of `{record.command}`, which ranks no sites; compare runs of ablate and "
                "patch"
            )
        summary = pl.read_parquet(folder / "summary.parquet").with_columns(model=pl.lit(models[folder]))
        ranked += comparison.rankings(
            folder.name, 0 if record.model is None else record.model.layers, summary
        )
        used.append(
            {"run": folder.name, "path": str(folder), "seal": stored.seal, "reproduce": reproduce.of(record)}
        )
    if len(ranked) < 2:
        raise DataError(
            f"one ranking alone cannot be compared: {', '.join(comparison.labels(ranked))}; give two runs or "
            "more"
        )
    return ranked, used
