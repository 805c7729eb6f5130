"""Every measuring command with every source runs on every shape of model, through the store."""

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from biasscope import cli
from tests.support.tiny_models import NARROWS

pytestmark = pytest.mark.usefixtures("few_draws")
SCANS = {
    "every source": "ablate --source all",
    "chosen": "ablate --top 3 --source mean",
    "adaptive": "ablate --adaptive --top 2",
    "control": "ablate --control definitional --layers 1",
    "given": "ablate --given 0.0,1.mlp --heads 1.0,1.1",
    "twins": "patch --calibrate 2",
    "steps": "patch --steps 2",
    "denoising": "patch --method exact --direction denoising --layers 1",
    "positions": "patch --method exact --positions term,readout --layers 1",
    **{f"attribution {s}": f"patch --source {s} --layers 1" for s in ("mean", "zero", "resample")},
    **{
        f"exact {s}": f"patch --method exact --source {s} --layers 1"
        for s in ("corrupt", "mean", "zero", "resample")
    },
}
OTHERS = {
    "clean": "baseline",
    **{f"activations of {s}": f"encode --site {s}" for s in ("resid", "z", "mlp_out")},
    "probes of heads": "probe --site z --split holdout",
}

EVERY = SCANS | OTHERS
WHOLE = ("gpt2-narrow", "gemma3-narrow")
"""One with heads × d_head = d_model, one without: every command runs on them."""
SHAPED = (
    "every source",
    "twins",
    "attribution resample",
    "exact corrupt",
    "exact resample",
    "probes of heads",
    *(s for s in OTHERS if "activations" in s),
)
"""The commands that touch the shapes of activations, on all others too."""
CASES = [(family, what) for family in NARROWS for what in (EVERY if family in WHOLE else SHAPED)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache and one results folder for all runs of all shapes."""
    return tmp_path_factory.mktemp("contract")


def invoked(folder: Path, model: Path, command: str) -> Result:
    """What a command on a few prompts of as many occupations comes to; a traceback is raised."""
    name, *options = command.split()
    data = ["--model", str(model), "--dataset", "occupations"] if name != "circuit" else []
    limit = ["--limit", "12"] if name != "circuit" else []
    where = [
        "--cache-dir",
        str(folder / "cache"),
        "--output-dir",
        str(folder / "results"),
        "--json",
        "--quiet",
    ]
    done = CliRunner().invoke(cli.app, [name, *data, *limit, *options, *where], env={"COLUMNS": "80"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def run(folder: Path, model: Path, command: str) -> dict:
    """The JSON document of a command that succeeds."""
    done = invoked(folder, model, command)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail)


@pytest.mark.parametrize(("family", "what"), CASES, ids=map(" ".join, CASES))
def test_every_command_runs_with_every_source(folder, tiny_folder, family, what):
    command = EVERY[what]
    document = run(folder, tiny_folder(family), command)
    (part,) = document["run"]["datasets"]
    assert part["used"] > 0 and part["lost"] == 0 and (document["summary"] or command.startswith("encode"))
    for table in Path(part["path"]).glob("*.parquet"):
        numbers = (
            pl.read_parquet(table).select(pl.selectors.float())
            if table.stem in ("effects", "exact", "control", "scores")
            else None
        )
        assert numbers is None or all(numbers[column].is_finite().all() for column in numbers.columns)


def test_directions_are_removed_from_a_stream_of_another_width_than_its_heads(folder, tiny_folder):
    assert run(folder, tiny_folder("gemma3-narrow"), "probe --causal --split holdout")["summary"]


@pytest.mark.parametrize("family", NARROWS)
@pytest.mark.parametrize("command", ["ablate --source mean", "patch"])
def test_a_circuit_of_every_scan_is_measured_and_shown_or_says_why_not(folder, tiny_folder, family, command):
    key = run(folder, tiny_folder(family), command)["run"]["datasets"][0]["run_key"][:8]
    done = invoked(folder, tiny_folder(family), f"circuit --from {key} --sizes 1,2")
    # a random model may have nothing to share out, which is seen only after the whole of it and none were
    # measured
    reasons = ("which may be 0: there is nothing to share out", "no interval on the half that reports")
    assert done.exit_code == 0 or (
        done.exit_code == 4 and any(reason in done.stderr for reason in reasons)
    ), done.stderr
