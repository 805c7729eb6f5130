"""Shards of a run, measured by themselves, merge to the bytes of one process."""

from pathlib import Path
from typing import Any

import pytest

from biasscope.engine.errors import UsageError
from biasscope.engine.experiments import ablate, baseline, patch
from biasscope.engine.experiments.parallel import merge
from biasscope.engine.settings import Measure
from biasscope.engine.store import journal
from tests.support.cli import biasscope
from tests.support.edits import without_a_decoy

pytestmark = pytest.mark.usefixtures("few_draws")

RUNS: dict[str, Any] = {
    "all sources": lambda s: ablate.ablate(s, source="all", layers="1-2"),
    "top and control": lambda s: ablate.ablate(s, top=3, control="definitional"),
    "twins": lambda s: patch.patch(s, components="z"),
    "given": lambda s: baseline.baseline(s, given="1.2"),
}


def settings(folder: Path, **more: Any) -> Measure:
    """A small run into a folder."""
    small: dict[str, Any] = {"model": "planted:single", "dataset": ["occupations"], "limit": 24}
    return Measure(**small, cache_dir=folder / "cache", output_dir=folder / "results", **more)


def tables(folder: Path) -> dict[str, bytes]:
    """All tables of a folder of results, by their path."""
    root = folder / "results"
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*.parquet"))}


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_two_shards_merge_to_the_bytes_of_one_process(run: str, edited: bool, tmp_path: Path):
    edit = without_a_decoy(tmp_path) if edited else None
    RUNS[run](settings(tmp_path / "one", edit=edit))
    two = tmp_path / "two"
    for shard in ("1/2", "2/2"):
        RUNS[run](settings(two, edit=edit, shard=shard))
    (key,) = {folder.name.split("-")[0] for folder in journal.folders(two / "cache" / "runs")}
    merge.merge([key[:8]], two / "results", two / "cache")
    assert tables(tmp_path / "one") == tables(two) != {}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard", "3/2"], "no share; write i/n"),
        (["--shard", "1/2", "--adaptive"], "--adaptive measures what all shards together found"),
        (["--shard", "1/2", "--conditional"], "--conditional measures what all shards together found"),
        (["--shard", "1/2", "--no-cache"], "does not go with --no-cache"),
        (["--shard", "1/2", "--engine", "ray"], "a share for one process"),
        (["--workers", "2"], "they need --engine ray"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_before_anything_is_read(more, message, tmp_path):
    missing = ["-m", tmp_path / "nothing", "-d", "occupations"]
    code, _, err = biasscope("ablate", *missing, *more, ok=False)
    assert code == 2 and message in err


def test_commands_whose_parts_hang_together_take_no_shard(tmp_path: Path):
    from biasscope.engine.experiments import probe

    with pytest.raises(UsageError, match="`probe` measures in one process"):
        probe.probe(settings(tmp_path, shard="1/2"))
