"""The rankings of named runs, for `compare` and the API. Measures nothing and loads no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.errors import DataError
from biasscope.engine.statistics import comparison
from biasscope.engine.statistics.cells import sites_of
from biasscope.engine.store import cache, reproduce
from biasscope.report import edges

COMPARED = ("baseline", "ablate", "patch")


def rankings(
    names: Sequence[str], output_dir: Path, cache_dir: Path | None = None
) -> tuple[list[comparison.Ranking], list[dict[str, Any]]]:
    """The rankings of those runs that rank sites, and all runs as a document shows them. DataError: one is of
    another kind.
    """
    ranked: list[comparison.Ranking] = []
    used: list[dict[str, Any]] = []
    named = {
        stored.folder: (stored, record)
        for stored, record in (cache.load(output_dir, name, cache_dir) for name in names)
    }
    models = cache.models([stored for stored, _ in named.values()])
    for folder, (stored, record) in named.items():
        if record.command not in COMPARED:
            raise DataError(
                f"{folder} is a run of `{record.command}`; compare runs of {', '.join(COMPARED)}: of one "
                "kind for two models, or rankings of sites"
            )
        if record.command != "baseline":
            summary = pl.read_parquet(folder / "summary.parquet").with_columns(model=pl.lit(models[folder]))
            layers = 0 if record.model is None else record.model.layers
            ranked += comparison.rankings(folder.name, layers, summary)
        used.append(
            {"run": folder.name, "path": str(folder), "seal": stored.seal, "reproduce": reproduce.of(record)}
        )
    return ranked, used


def refuse_one(ranked: Sequence[comparison.Ranking], why: Sequence[str]) -> None:
    """Raise DataError: there is nothing to compare; `why` no two runs pair up."""
    alone = f"one ranking alone cannot be compared: {', '.join(comparison.labels(ranked))}" if ranked else ""
    reasons = "; ".join([*([alone] if alone else []), *why]) or "no two runs are of one kind on one data set"
    raise DataError(f"{reasons}; give two runs or more of the same data")


def named(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of SUMMARY about sites, or of EDGES, as people read them: the site or edge by its name, its marks,
    and what differs between rows.
    """
    what, of = ("edge", edges.ends) if "edge" in rows.columns else ("site", None)
    names = sites_of(rows) if of is None else map(of, rows.iter_rows(named=True))
    marks = [schemas.mark(row) for row in rows.iter_rows(named=True)]
    differ = [n for n in ("dataset", "method", "source", "position") if n in rows.columns]
    shown: list[str] = [name for name in differ if rows[name].n_unique() > 1]
    shown += ["statistic", "unit", "n", "clusters", "estimate", "ci_low", "ci_high", "p_family", "carried_by"]
    shown += [name for name in ("recovered", "specificity", "exact") if name in rows.columns]
    first = pl.DataFrame({what: list(map(str, names)), "mark": marks}, {what: pl.String, "mark": pl.String})
    return pl.concat([first, rows.select(shown)], how="horizontal")
