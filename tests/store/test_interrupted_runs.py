"""What ends a run, and that the same command then goes on to the same bytes, with the same number of
threads.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from biasscope.engine.store import journal, runs
from biasscope.engine.store.journal import Journal

ROOT = Path(__file__).parents[2]

LIMIT = 24
UNITS = 40
"""Of the run of so many examples that is disturbed here: 10 row blocks × the tiny model's 4 layers."""
BLOCKS = 10
"""Row blocks of its prompts, whose attention is a unit each."""


@dataclass
class Warm:
    """The process that forks runs, and where they write."""

    process: subprocess.Popen[str]

    def ask(self, **task: Any) -> int:
        """The answer to one request."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return int(json.loads(self.process.stdout.readline()))


@dataclass
class Lab:
    """Commands on one tiny model, one cache and one results folder."""

    warm: Warm
    model: Path
    folder: Path

    def start(self, *more: object, results: str = "results", **task: Any) -> int:
        """The pid of a run that has begun."""
        args = [
            "ablate",
            "--model",
            self.model,
            "--dataset",
            "occupations",
            "--limit",
            LIMIT,
            "--cache-dir",
            self.folder / "cache",
        ]
        args += ["--output-dir", self.folder / results, *more]
        return self.warm.ask(
            args=[str(a) for a in args], err=str(self.folder / "err"), log=str(self.folder / "log"), **task
        )

    def end(self, pid: int) -> int:
        """The exit code of a run, negative for a signal."""
        return self.warm.ask(wait=pid)

    def run(self, *more: object, **task: Any) -> int:
        """The exit code of a whole run."""
        return self.end(self.start(*more, **task))

    def tables(self, results: str = "results") -> dict[str, bytes]:
        """The final tables by name."""
        return {file.name: file.read_bytes() for file in sorted((self.folder / results).rglob("*.parquet"))}

    @property
    def finished(self) -> bool:
        """Whether the run has its record."""
        return any((self.folder / "results").rglob("run.json"))

    @property
    def said(self) -> str:
        """What the runs have written to stderr."""
        return (self.folder / "err").read_text(encoding="utf-8")

    @property
    def measured(self) -> int:
        """Units measured so far, redone ones counted again."""
        log = self.folder / "log"
        return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0

    def journal(self) -> Journal:
        """The one journal of the cache."""
        (folder,) = journal.folders(self.folder / "cache" / "runs")
        return Journal.read(folder)


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """A process with everything imported."""
    command = [sys.executable, "-m", "tests.support.warm"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield Warm(process)
        assert process.stdin
        process.stdin.close()


@pytest.fixture
def lab(warm: Warm, tiny_gpt2: Path, tmp_path: Path) -> Lab:
    """A fresh cache and results folder."""
    return Lab(warm, tiny_gpt2, tmp_path)


@pytest.fixture(scope="module")
def unbroken(warm: Warm, tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab in which one run went through."""
    made = Lab(warm, tiny_gpt2, tmp_path_factory.mktemp("unbroken"))
    assert made.run() == 0, made.said
    return made


def kill_at_random(lab: Lab, kills: int, seed: int) -> None:
    """Kill the run at `kills` random moments; whenever it was quicker, start over with nothing stored."""
    rng, done, here = random.Random(seed), 0, 0
    while done < kills:
        pid, enough = lab.start(pause=0.01), lab.measured + rng.randrange(6)
        while lab.measured < enough and not lab.finished:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.04)
        os.kill(pid, signal.SIGKILL)
        if lab.end(pid) == 0:
            shutil.rmtree(lab.folder / "cache")
            shutil.rmtree(lab.folder / "results")
            (lab.folder / "log").unlink()
            here = 0
        else:
            done, here = done + 1, here + 1
    assert lab.run() == 0, lab.said
    assert lab.measured <= UNITS + here, "a kill costs at most the unit it fell into"


def test_twenty_kills_at_random_moments_change_no_byte(lab, unbroken):
    kill_at_random(lab, 20, seed=1)
    assert lab.tables() == unbroken.tables()


@pytest.mark.torture
def test_a_hundred_kills_at_random_moments_change_no_byte(lab, unbroken):
    kill_at_random(lab, 100, seed=2)
    assert lab.tables() == unbroken.tables()


@pytest.mark.parametrize(
    ("by", "code", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_ends_the_run_within_a_unit_and_says_how_to_go_on(lab, unbroken, by, code, word):
    pid = lab.start(pause=0.05)
    while lab.measured < 5:
        time.sleep(0.01)
    os.kill(pid, by)
    begun = lab.measured
    assert lab.end(pid) == code and lab.measured <= begun + 1
    assert word in lab.said and "goes on from there" in lab.said and "Traceback" not in lab.said
    kept = len(lab.journal().units)
    assert kept >= 4 and lab.run() == 0 and f"reused {kept - 1}/{UNITS}" in lab.said
    assert lab.tables() == unbroken.tables()


def test_going_on_with_another_number_of_threads_is_said_and_recorded(lab):
    pid = lab.start(pause=0.05)
    while lab.measured < 5:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    lab.end(pid)
    assert lab.journal().facts["threads"] == [1] and lab.run(threads=2) == 0
    (record,) = (
        json.loads(file.read_text(encoding="utf-8")) for file in (lab.folder / "results").rglob("run.json")
    )
    assert record["datasets"][0]["threads"] == [1, 2] and "measured with 1, 2 threads in turn" in lab.said
    assert any("1, 2 threads" in warning for warning in record["warnings"])


def test_whatever_write_fails_on_a_full_disk_nothing_is_torn_and_the_run_goes_on(lab, unbroken):
    code, n = 1, 0
    while code:
        n += 1
        code = lab.run(fail=n * n)  # a growing distance: every kind of write is hit, and the run gets on
        assert code == 0 or (code == 1 and "disk full: " in lab.said and "Traceback" not in lab.said), (
            lab.said
        )
        for record in (lab.folder / "results").rglob("run.json"):
            assert runs.read(record.parent) is not None
        for name, content in lab.tables().items():
            assert content == unbroken.tables()[name]
    assert n > 5 and lab.tables() == unbroken.tables()


@pytest.mark.slow
def test_each_single_failing_write_of_a_finished_scan_leaves_a_whole_result(lab, unbroken):
    assert lab.run() == 0
    for n in range(1, 30):
        shutil.rmtree(lab.folder / "results")
        code = lab.run(fail=n)
        assert code in (0, 1) and all(
            content == unbroken.tables()[name] for name, content in lab.tables().items()
        )
        if code == 0:
            break
    assert n > 3 and lab.tables() == unbroken.tables()


def test_eight_processes_on_one_run_measure_every_unit_once(lab, unbroken):
    pids = [lab.start("--wait", results=f"r{i}") for i in range(8)]
    assert [lab.end(pid) for pid in pids] == [0] * 8, lab.said
    assert (
        lab.measured == UNITS
        and len((lab.journal().folder / "journal.jsonl").read_bytes().splitlines()) == UNITS + BLOCKS + 5
    )
    assert all(lab.tables(f"r{i}") == unbroken.tables() for i in range(8))


def test_eight_runs_share_one_cache(lab, unbroken):
    pids = [
        lab.start("--seed", i % 4, "--source", ["mean", "zero"][i // 4], results=f"r{i}") for i in range(8)
    ]
    assert [lab.end(pid) for pid in pids] == [0] * 8, lab.said
    assert lab.measured >= 8 * UNITS - 80 and len(list(journal.folders(lab.folder / "cache" / "runs"))) == 8
    assert lab.tables("r0") == unbroken.tables()


def test_a_second_process_on_one_run_ends_at_once_and_names_the_holder(lab):
    pid = lab.start(pause=2)  # were it waited for, the second would end with 0, long after
    while lab.measured < 1:
        time.sleep(0.01)
    assert lab.run() == 11 and not lab.finished
    assert f"process {pid} on" in lab.said and "--wait" in lab.said
    os.kill(pid, signal.SIGKILL)
    lab.end(pid)


def test_flipped_bits_in_shards_and_journal_are_measured_again_with_a_warning(lab, unbroken):
    assert lab.run() == 0
    journal, rng = lab.journal(), random.Random(3)
    names = sorted(journal.units, key=lambda unit: "effects" not in journal.units[unit])
    for unit in [*names[2:5], next(unit for unit in names if unit.startswith("attention-"))]:
        flip(journal.shard(unit, next(iter(journal.units[unit]))), rng)
    flip(journal.folder / "journal.jsonl", rng)
    shutil.rmtree(lab.folder / "results")
    before = lab.measured
    assert lab.run() == 0 and "corrupted (checksum mismatch), measured again" in lab.said
    assert 3 <= lab.measured - before <= 5 and lab.tables() == unbroken.tables()


def flip(file: Path, rng: random.Random) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def test_what_a_killed_process_left_behind_is_swept_and_folders_are_private(lab):
    assert lab.run() == 0
    folder = lab.journal().folder
    (folder / ".B00000-L000.effects.parquet.1.tmp").write_bytes(b"torn")
    shutil.rmtree(lab.folder / "results")
    assert lab.run() == 0 and not list(folder.glob(".*.tmp"))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_no_cache_keeps_no_part_and_fresh_measures_again(lab, unbroken):
    assert lab.run("--no-cache") == 0 and not (lab.folder / "cache" / "runs").exists()
    once = lab.measured
    shutil.rmtree(lab.folder / "results")
    assert lab.run() == 0 and lab.measured == 2 * once
    assert lab.run("--fresh") == 0 and lab.measured == 3 * once
    assert lab.tables() == unbroken.tables()


def test_a_finished_run_is_answered_without_torch_and_within_seconds(lab):
    assert lab.run() == 0
    once = lab.measured
    args = [
        "ablate",
        "--model",
        lab.model,
        "--dataset",
        "occupations",
        "--limit",
        LIMIT,
        "--cache-dir",
        lab.folder / "cache",
    ]
    code = (
        "import sys; from biasscope.cli import main\ntry: main()\nfinally: sys.stderr.write(f'torch: "
        '{"torch" in sys.modules}\')'
    )
    begun = os.times()
    command = [
        sys.executable,
        "-c",
        code,
        *map(str, args),
        "--output-dir",
        str(lab.folder / "results"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # of the processor, so that a busy machine does not matter; importing torch alone would not fit
    spent = os.times()
    assert spent.children_user + spent.children_system - begun.children_user - begun.children_system < 6
    assert "torch: False" in done.stderr and f"reused {UNITS}/{UNITS}" in done.stderr
    assert json.loads(done.stdout)["run"]["datasets"][0]["reused"] == UNITS and lab.measured == once


def merge(lab: Lab, *shards: object) -> int:
    """The exit code of `runs merge` of all shards, or of those named."""
    (key, *_) = {folder.name.split("-")[0][:8] for folder in (lab.folder / "cache" / "runs").glob("*-of-*")}
    where = ["--cache-dir", lab.folder / "cache", "--output-dir", lab.folder / "results"]
    args = [str(a) for a in ("runs", "merge", *(shards or [key]), *where)]
    err, log = str(lab.folder / "err"), str(lab.folder / "log")
    return lab.end(lab.warm.ask(args=args, err=err, log=log))


def test_three_shards_at_once_one_killed_merge_to_the_bytes_of_one_process(lab, unbroken):
    pids = [lab.start("--shard", f"{i}/3", pause=0.02) for i in (1, 2, 3)]
    while lab.measured < 9:
        time.sleep(0.005)
    os.kill(pids[1], signal.SIGKILL)
    codes = [lab.end(pid) for pid in pids]
    assert codes[0] == codes[2] == 0 and not lab.finished
    if codes[1]:
        assert merge(lab) == 3 and "parts are missing: " in lab.said and not lab.finished
        assert lab.run("--shard", "2/3") == 0
    assert UNITS <= lab.measured <= UNITS + 1
    assert merge(lab) == 0 and lab.tables() == unbroken.tables(), lab.said
    assert lab.run() == 0 and lab.measured <= UNITS + 1  # the merged run is the run


def test_what_cannot_be_merged_is_refused_by_name(lab):
    for more in (["--shard", "1/2"], ["--shard", "2/2", "--seed", "1"], ["--shard", "2/3"]):
        assert lab.run(*more) == 0, lab.said
    one, seeded, thirds = (
        next(lab.folder.glob(f"cache/runs/*-{name}")) for name in ("1-of-2", "2-of-2", "2-of-3")
    )
    assert merge(lab, one) == 3 and "there is no shard 2/2" in lab.said
    assert merge(lab, one, seeded) == 2 and "they differ in examples, seed" in lab.said
    assert merge(lab, one, thirds) == 2 and "shards of 2 and of 3" in lab.said
    assert merge(lab, "0000") == 2 and "no shard is called '0000'" in lab.said
    assert not lab.finished
