"""A model is its weights, and a record is what was written: told apart, sealed, and never repeated from an
edited text.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from biasscope import cli
from biasscope.engine.errors import DamagedError
from biasscope.engine.schemas import number
from biasscope.engine.store import reproduce, runs, seals
from biasscope.engine.store.seals import Seal
from biasscope.report.page import gather
from tests.support.cli import SMALL, biasscope

pytestmark = pytest.mark.usefixtures("few_draws")

ONE, TWO = "9f6e" + "0" * 60, "a1c2" + "0" * 60


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models in folders of one name: a planted one, and the same with its last norm doubled."""
    home = tmp_path_factory.mktemp("home")
    biasscope("baseline", "-m", "planted:single", *SMALL, "-o", home / "made", "--cache-dir", home / "cache")
    planted = next(path for path in (home / "cache" / "models").iterdir() if path.is_dir())
    found = [Path(shutil.copytree(planted, home / name / "ckpt")) for name in "ab"]
    tensors = load_file(found[1] / "model.safetensors")
    tensors["transformer.ln_f.weight"] *= 2
    save_file(tensors, found[1] / "model.safetensors", {"format": "pt"})
    return found


@pytest.fixture(scope="module")
def made(copies: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `results` and `cache`: the baseline and one ablated head of both models."""
    folder = tmp_path_factory.mktemp("sealed")
    for model in copies:
        where = ["-m", model, *SMALL, "-o", folder / "results", "--cache-dir", folder / "cache", "-q"]
        biasscope("baseline", *where)
        biasscope("ablate", "--layers", 1, *where)
    return folder


@pytest.fixture
def lab(made: Path, tmp_path: Path) -> Path:
    """The same results in a folder of the test's own; the cache remembers the records as they were there."""
    shutil.copytree(made, tmp_path / "lab")
    lab = tmp_path / "lab"
    for run in sealed(lab):
        seals.seal(
            run, seals.digests.of_file(run / "run.json"), next((lab / "cache/runs").glob(f"{run.name}*"))
        )
    return lab


def sealed(lab: Path, pattern: str = "*/*/*/*") -> list[Path]:
    """The folders of runs."""
    return [file.parent for file in sorted((lab / "results").glob(f"{pattern}/run.json"))]


def edit(run: Path, **changes: object) -> None:
    """Write other values into a record."""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | changes))


# A model is its weights


def test_two_models_that_start_at_once_share_no_name_and_each_finds_its_own_again(tmp_path: Path):
    assert [seals.claim(tmp_path, "ckpt", digest) for digest in (ONE, TWO, ONE, TWO)] == [
        "ckpt",
        "ckpt·a1c2",
        "ckpt",
        "ckpt·a1c2",
    ]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"ckpt", "ckpt-a1c2"}
    assert seals.claim(tmp_path, "ckpt", TWO[:4] + "f" * 60) == "ckpt·a1c2ffff"
    long = [seals.claim(tmp_path, "x" * 200, digest) for digest in (ONE, TWO)]
    assert len({seals.safe_name(name) for name in long}) == 2
    shutil.rmtree(tmp_path / "ckpt")
    assert seals.claim(tmp_path, "ckpt", "b" * 64) == "ckpt"


def test_without_an_index_a_folder_belongs_to_the_model_of_its_earliest_run(tmp_path: Path):
    assert "." in runs.now()  # two small runs end within one second
    for key, digest, second in (("aaaa", TWO, "01.5"), ("bbbb", ONE, "01")):
        folder = tmp_path / "ckpt/d/baseline" / key
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(
            json.dumps({"created": f"2026-01-01T00:00:{second}+00:00", "model": {"digest": digest}})
        )
    assert [seals.claim(tmp_path, "ckpt", digest) for digest in (TWO, ONE)] == ["ckpt·a1c2", "ckpt"]


def test_two_folders_of_one_name_are_two_models_everywhere(made: Path, copies: list[Path]):
    listed = json.loads(
        biasscope("runs", "ls", "-o", made / "results", "--cache-dir", made / "cache", "--json")[1]
    )
    names = {row["model"] for row in listed}
    (second,) = names - {"ckpt"}
    assert (
        "ckpt" in names
        and second.startswith("ckpt·")
        and len(listed) == 4
        and {row["seal"] for row in listed} == {"sealed"}
    )
    folders = [made / "results" / name for name in ("ckpt", second.replace("·", "-"))]
    slopes = [json.loads((folder / "summary.json").read_text())["occupations"]["slope"] for folder in folders]
    assert slopes[1] == pytest.approx(2 * slopes[0], rel=1e-3)
    assert all((folder / "head_ablations_occupations.json").is_file() for folder in folders)
    assert {pl.read_parquet(file)["model"][0] for file in folders[1].rglob("summary.parquet")} == {second}
    document = json.loads(
        biasscope("report", "-o", made / "results", "--json", "--cache-dir", made / "cache")[1]
    )
    assert {row["model"] for row in document["used"]} == names and document["left_out"] == []
    text = (made / "results/report.md").read_text()
    assert all(number(slope) in text for slope in slopes) and second in text
    again = json.loads(
        biasscope(
            "baseline",
            "-m",
            copies[1],
            *SMALL,
            "-o",
            made / "results",
            "--cache-dir",
            made / "cache",
            "--json",
        )[1]
    )
    assert (
        again["run"]["datasets"][0]["path"].startswith(str(folders[1]))
        and again["run"]["datasets"][0]["reused"] > 0
    )


def test_results_of_two_models_in_one_folder_of_an_older_version_are_told_apart(lab: Path):
    """The older version wrote both models' runs into `ckpt` and kept no index."""
    (second,) = (
        path for path in (lab / "results").iterdir() if path.is_dir() and path.name.startswith("ckpt-")
    )
    for run in sealed(lab, f"{second.name}/*/*/*"):
        shutil.copytree(run, lab / "results/ckpt" / run.relative_to(second))
        file = lab / "results/ckpt" / run.relative_to(second) / "summary.parquet"
        pl.read_parquet(file).with_columns(model=pl.lit("ckpt")).write_parquet(file)
        tables = json.loads((run / "run.json").read_text())["datasets"]
        tables[0]["tables"]["summary"] = seals.digests.of_file(file)
        edit(file.parent, datasets=tables)
    shutil.rmtree(second)
    (lab / "results/index.json").unlink()
    parts = gather.gather(lab / "results", [], None).parts
    assert [part.model for part in parts] == ["ckpt", second.name.replace("-", "·")]
    rankings = biasscope("compare", *sealed(lab, "*/*/ablate/*"), "-o", lab / "results", "--json")[1]
    assert json.loads(rankings)["pairs"] == [] and json.loads(rankings)["depths"]


def test_a_run_that_is_named_is_always_shown(lab: Path, copies: list[Path]):
    where = ["-m", copies[0], "-o", lab / "results", "--cache-dir", lab / "cache", "-q"]
    biasscope("baseline", "-d", "occupations", "--limit", 60, *where)
    biasscope("ablate", "--heads", "1.1", *SMALL, *where)
    keys = [run.name for run in sealed(lab, "ckpt/*/*/*")]
    alone = json.loads(biasscope("report", "-o", lab / "results", "--model", "ckpt", "--json", "-q")[1])
    assert len(alone["left_out"]) == 2
    named = json.loads(biasscope("report", *keys, "-o", lab / "results", "--json", "-q")[1])
    assert {row["run"] for row in named["used"]} == set(keys) and named["left_out"] == []
    text = (lab / "results/report.md").read_text()
    assert all(
        row["path"].split("results/")[1] in text for row in named["used"] if row["command"] == "baseline"
    )
    assert all(f"(run {row['run']})" in text for row in named["used"] if row["command"] == "ablate")


# A record is what was written


def test_a_record_is_sealed_in_the_index_and_in_the_cache_and_either_finds_an_edit(lab: Path):
    run, cache = sealed(lab)[0], lab / "cache"
    assert seals.state(run) is seals.state(run, cache) is Seal.SEALED
    edit(run, seed=7)
    assert seals.state(run) is Seal.EDITED
    index = lab / "results/index.json"
    index.write_text(
        index.read_text().replace(seals.read(lab / "results").runs["/".join(run.parts[-4:])], "0" * 64)
    )
    assert seals.state(run, cache) is Seal.EDITED
    index.unlink()
    assert seals.state(run) is Seal.NOT_SEALED and seals.state(run, cache) is Seal.EDITED
    index.write_text("{torn")
    with pytest.raises(DamagedError, match="move it away"):
        seals.state(run)


def test_an_edited_record_is_refused_by_every_command_and_mended_by_its_own(lab: Path, copies: list[Path]):
    (run, *_), where = sealed(lab, "ckpt/*/ablate/*"), ["-o", lab / "results", "--cache-dir", lab / "cache"]
    edit(run, reproduce="rm -rf /")
    for command in (
        ["runs", "show", run],
        ["compare", run, run],
        ["circuit", "--from", run],
        ["report", run],
    ):
        code, out, err = biasscope(*command, *where, ok=False)
        assert (code, out) == (12, "") and "was edited after it was written" in err, command
    code, _, err = biasscope("report", *where, ok=False)
    text = (lab / "results/report.md").read_text()
    assert (
        code == 3
        and "edited after it was written" in err
        and "edited after it was written" in text
        and "rm -rf" not in text
    )
    biasscope("ablate", "--layers", 1, "-m", copies[0], *SMALL, *where)
    assert json.loads(biasscope("runs", "show", run, *where, "--json")[1])["seal"] == "sealed"


def test_a_record_of_an_older_version_is_not_sealed_and_its_command_comes_from_its_parameters(
    lab: Path,
):
    (lab / "results/index.json").unlink()
    shutil.rmtree(lab / "cache/runs")
    where = ["-o", lab / "results", "--cache-dir", lab / "cache"]
    ablations = sealed(lab, "*/*/ablate/*")
    for run in sealed(lab):
        edit(run, reproduce="rm -rf /")
    outputs = [
        biasscope(*command, *where)[1]
        for command in (["runs", "show", ablations[0], "--json"], ["compare", *ablations, "--json"])
    ]
    outputs.append(biasscope("report", *where, "--json")[1])
    outputs.append((lab / "results/report.md").read_text())
    for out in outputs:
        assert "not sealed" in out and "rm -rf" not in out and "biasscope ablate --model" in out
    assert "biasscope ablate" in biasscope("runs", "show", ablations[0], *where, "--format", "table")[1]


def test_a_circuit_of_a_run_says_that_it_is_not_sealed_and_refuses_other_weights(
    lab: Path, copies: list[Path]
):
    (lab / "results/index.json").unlink()
    first, second = sealed(lab, "*/*/ablate/*")
    record = json.loads((second / "run.json").read_text())
    edit(second, params=record["params"] | {"model": str(copies[0])})
    where = ["-o", lab / "results", "--cache-dir", lab / "other", "--sizes", 1, "-q"]
    assert f"run {first.name} is not sealed" in biasscope("circuit", "--from", first, *where)[2]
    code, _, err = biasscope("circuit", "--from", second, *where, ok=False)
    assert code == 4 and "measure it again" in err


# The command that gives it again


def test_no_folder_of_this_machine_enters_the_report(
    lab: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    (lab / "results/index.json").unlink()
    edit(sealed(lab)[0], warnings=[f"{lab / 'data/x.json'} is not the published one, and/or more"])
    biasscope("report", "-o", lab / "results", "--cache-dir", lab / "none", "-q")
    for end in ("md", "html"):
        text = (lab / f"results/report.{end}").read_text()
        assert str(lab.parent.parent) not in text and "--cache-dir" not in text and "--output-dir" not in text
        assert (
            "biasscope baseline --model ./ckpt --dataset occupations --limit 24" in text
            and "./x.json is not the published one, and/or" in text
        )


def test_a_batch_size_that_was_decided_is_not_asked_for_again(lab: Path):
    record = gather.gather(lab / "results", [], None).used[0].record
    assert (
        record.batch_size and "--batch-size" not in record.reproduce and record.params["batch_size"] == "auto"
    )
    older = record.model_copy(update={"batch_size": None, "params": record.params | {"batch_size": 2048}})
    assert "--batch-size" not in reproduce.of(older) and "--batch-size 512" in reproduce.command(
        "ablate", {"batch_size": "512"}
    )


def test_nothing_but_options_of_biasscope_comes_from_parameters():
    hostile = {
        "model": "x; rm -rf /",
        "a; b": 1,
        "heads": "`id`",
        "from": "/home/me/results/m/d/ablate/34a1f100",
    }
    said = reproduce.command("ablate", hostile, document=True)
    assert said == "biasscope ablate --model 'x; rm -rf /' --heads '`id`' --from 34a1f100"


# What a person at a terminal is asked


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 1), (b"y\n", 0)])
def test_removing_asks_at_a_terminal(tmp_path: Path, answer: bytes, left: int):
    (tmp_path / "models/ab-v1").mkdir(parents=True)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "biasscope", "cache", "rm", "--all", "--cache-dir", str(tmp_path)]
    with subprocess.Popen(command, stdin=slave, stderr=slave, stdout=subprocess.DEVNULL) as process:
        os.write(master, answer)
        assert process.wait(60) == 0
    assert len(list((tmp_path / "models").iterdir())) == left
    assert b"remove 1 entry, 0 B from" in os.read(master, 9999)


def test_yes_is_not_asked_and_neither_is_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("biasscope.console.confirmed", lambda _: pytest.fail("asked"))
    (tmp_path / "models/ab-v1").mkdir(parents=True)
    assert biasscope("cache", "rm", "--all", "--yes", "--cache-dir", tmp_path)[0] == 0
    assert cli.load("cache").params
