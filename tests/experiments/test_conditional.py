"""Conditional scans find the heads that no single ablation shows, in planted models of both kinds."""

from pathlib import Path

import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from biasscope.engine.errors import UsageError
from biasscope.engine.experiments.ablate import ablate
from biasscope.engine.model import planted
from biasscope.engine.settings import Measure
from biasscope.engine.store import shards
from biasscope.engine.types import Site


@pytest.fixture(scope="module")
def scan(tmp_path_factory, few_draws):
    """(kind, source) → SUMMARY alone and CONDITIONAL of a scan of the heads."""
    folder = tmp_path_factory.mktemp("conditional")
    places = {"cache_dir": folder / "cache", "output_dir": folder / "results"}

    def run(kind: str, source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        settings = Measure(f"planted:{kind}", ["occupations"], 60, device="cpu", assess=False, **places)
        heads = ",".join(f"{layer}.{head}" for layer in range(4) for head in range(4))
        result = ablate(settings, source=source, heads=heads, conditional=True, rounds=2)
        part = result.record.datasets[0]
        return result.summaries[0], pl.read_parquet(Path(part.path) / "conditional.parquet")

    return run


def auroc(sizes: dict[Site, float], real: list[Site]) -> float:
    return float(roc_auc_score([site in real for site in sizes], list(sizes.values())))


@pytest.mark.parametrize("kind", ["redundant", "backup"])
def test_heads_that_stand_in_for_each_other_are_found_only_once_one_is_gone(kind, scan):
    summary, found = scan(kind, "zero")
    assert found.schema == shards.SCHEMAS["conditional"]
    planted_heads = [planted.SITES["first"], planted.SITES["second"]]
    own = summary.filter(method="exact", statistic="slope", metric="target", component="z")
    alone = {
        Site(r["layer"], "z", r["head"]): round(abs(r["estimate"]), 4) for r in own.iter_rows(named=True)
    }
    assert all(alone[site] < 1e-3 for site in planted_heads)
    assert auroc(alone, planted_heads) <= 0.5
    changes = dict.fromkeys(alone, 0.0)
    for row in found.iter_rows(named=True):
        site = Site(row["layer"], "z", row["head"])
        changes[site] = max(changes[site], abs(row["estimate"]))
    behind = [planted_heads[1]] if kind == "backup" else planted_heads
    assert auroc({s: v for s, v in changes.items() if s in behind or s not in planted_heads}, behind) == 1.0
    second = found.filter(layer=2, head=1, gone_layer=1, gone_head=2).row(0, named=True)
    assert second["star"] and second["round"] == 1 and not second["alone_star"]
    assert abs(second["estimate"]) > 0.5 and abs(second["alone"]) < 1e-3


def test_where_nothing_stands_in_no_effect_changes(scan):
    _, found = scan("single", "zero")
    first = found.filter(gone_layer=1, gone_head=2)
    assert first.height and (first["estimate"].abs() < 0.02).all()


def test_conditional_scans_take_no_other_choice_of_sites(tmp_path):
    settings = Measure("planted:single", ["occupations"], 60, output_dir=tmp_path, cache_dir=tmp_path)
    with pytest.raises(UsageError, match="--conditional measures one source"):
        ablate(settings, conditional=True, top=3)
