"""Workers of a Ray cluster give the bytes of one process, and no fault of theirs loses a unit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from biasscope.engine.errors import PartialError
from biasscope.engine.experiments import ablate, baseline, circuit, encode, patch
from biasscope.engine.settings import Held, Measure
from biasscope.engine.store import journal
from tests.support import faulty
from tests.support.edits import without_a_decoy

# all of it listens on this machine alone, and notices a dead node soon
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
ray = pytest.importorskip("ray", reason="Ray not found; pip install 'biasscope[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

from biasscope.engine.experiments.parallel import workers  # noqa: E402

STORE = {"object_store_memory": 100 * 2**20}
FIVE_TIMES = pytest.mark.parametrize(
    "again", [0, *(pytest.param(n, marks=pytest.mark.torture) for n in range(1, 5))]
)
"""Once in the default suite, five times under torture."""
DEADLINE = 120.0


def started() -> Cluster:
    """Two raylets on this machine, each with one core."""
    head = {"num_cpus": 1, "include_dashboard": False, **STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, **STORE)
    return cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two raylets on this machine, each with one core."""
    patch = pytest.MonkeyPatch()
    patch.setenv("BIASSCOPE_FAULTS", str(tmp_path_factory.mktemp("faults")))
    patch.setenv("OMP_NUM_THREADS", "1")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **STORE}
    )
    cluster.add_node(num_cpus=1, **STORE)
    yield cluster
    cluster.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Iterator["Kept"]:
    """One engine for all runs, so that its workers are started once."""
    engine = Kept(2, cluster.address, worker=faulty.Faulty, deadline=DEADLINE)
    yield engine
    workers.Ray.close(engine)


class Kept(workers.Ray):
    """An engine whose workers outlive a run."""

    def close(self) -> None:
        """Stay."""


def settings(folder: Path, engine: Any = None, **more: Any) -> Measure:
    """A small run into a folder."""
    return Measure(
        model="planted:single",
        dataset=["occupations"],
        cache_dir=folder / "cache",
        output_dir=folder / "results",
        held=Held(engine=engine),
        **{"assess": False, "limit": 24} | more,
    )


def tables(folder: Path) -> dict[str, bytes]:
    """All tables of a folder of results, by their path."""
    root = folder / "results"
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*.parquet"))}


RUNS: dict[str, Any] = {
    "ablate": lambda s: ablate.ablate(s, source="all", layers="1-2"),
    "top": lambda s: ablate.ablate(s, top=3),
    "adaptive": lambda s: ablate.ablate(replace(s, assess=True), adaptive=True, top=2),
    "patch": lambda s: patch.patch(s, components="z", calibrate=2),
    "edited": lambda s: ablate.ablate(replace(s, assess=True), layers="1-2"),
    "baseline": lambda s: baseline.baseline(s, given="1.2"),
    "encode": lambda s: encode.encode(s, site="z"),
    "circuit": lambda s: circuit.circuit(
        s, str(ablate.ablate(s).record.datasets[0].path), sizes="1,2", minimal=True
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_workers_give_the_bytes_of_one_process(run: str, engine: Kept, tmp_path: Path):
    edit = without_a_decoy(tmp_path) if run == "edited" else None
    for name, by in (("one", None), ("many", engine)):
        RUNS[run](settings(tmp_path / name, by, edit=edit))
    assert tables(tmp_path / "one") == tables(tmp_path / "many") != {}


@FIVE_TIMES
@pytest.mark.slow
def test_no_fault_of_a_worker_loses_a_unit_and_what_cannot_be_had_is_named(
    again: int, engine: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ablate.ablate(settings(tmp_path / "one"))
    units = [line for line in stored(tmp_path / "one") if line.startswith("mean-")]
    faulty.plan(dies=units[0], hangs=units[1], raises=units[2], poison=units[3])
    monkeypatch.setattr(engine, "deadline", 20.0)
    asked = settings(tmp_path / "many", engine)
    with pytest.raises(PartialError, match=f"2 of {len(units)} parts could not be measured") as failed:
        ablate.ablate(asked)
    assert f"cannot compute {units[2]}" in str(failed.value) and "3 workers died with it" in str(failed.value)
    assert set(units) - set(stored(tmp_path / "many")) == {units[2], units[3]}
    for kind, unit in (("raises", units[2]), ("poison", units[3])):
        (faulty.folder() / kind / unit).unlink()
    ablate.ablate(asked)
    assert tables(tmp_path / "one") == tables(tmp_path / "many")


def stored(folder: Path) -> list[str]:
    """The names of the units in the one journal of a cache."""
    (run,) = journal.folders(folder / "cache" / "runs")
    return list(journal.Journal.read(run).units)


@FIVE_TIMES
@pytest.mark.slow
def test_a_dead_node_and_then_a_dead_coordinator_lose_nothing(again: int, tmp_path: Path):
    many = tmp_path / "many"
    options = ["--model", "planted:single", "--dataset", "occupations", "--limit", 96, "--engine", "ray"]
    options += ["--cache-dir", many / "cache", "--output-dir", many / "results", "--workers", 3]
    cluster = started()
    try:
        node = cluster.add_node(num_cpus=1, **STORE)
        command = [*options, "--ray-address", cluster.address]
        with subprocess.Popen(
            [sys.executable, "-m", "biasscope", "ablate", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            wait_for(many, process, 3)
            cluster.remove_node(node, allow_graceful=False)
            wait_for(many, process, 8)
            os.kill(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
    finally:
        cluster.shutdown()
    assert out == b"", "stdout is for the result alone"
    assert len(stored(many)) >= 8
    for folder in (tmp_path / "one", many):
        ablate.ablate(settings(folder, limit=96))
    assert tables(tmp_path / "one") == tables(many)


def wait_for(folder: Path, process: "subprocess.Popen[bytes]", parts: int) -> None:
    """Wait until so many parts of a run are stored."""
    while process.poll() is None and len(list(folder.rglob("mean-*.effects.parquet"))) < parts:
        time.sleep(0.02)
