"""`--fail-if`: the output, then exit 6 and which number is beyond; what cannot be read is refused before."""

import json

import pytest

from biasscope.engine.errors import UsageError
from biasscope.engine.gates import GATED, Gate
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A call of a command on one small planted model, whose slope is about 1.1."""
    home = tmp_path_factory.mktemp("gate")
    model = ("-m", "planted:single", "-d", "occupations", "--limit", 60)

    def call(command="baseline", *more):
        where = ("-o", home / "r", "--cache-dir", home / "c")
        return biasscope(command, *(model if command == "baseline" else ()), *where, *more, ok=False)

    return call


@pytest.mark.parametrize("condition", ["occupations.slope > 0.5", "slope.ci_low>=1", "occupations.mean < 9"])
def test_a_number_beyond_its_limit_is_exit_6_after_the_output(run, condition):
    code, out, err = run("baseline", "--json", "--fail-if", condition)
    assert code == 6 and json.loads(out)["summary"][0]["statistic"] == "slope"
    number, _, _ = condition.partition(" ")
    line = err.splitlines()[-1]
    assert line.startswith("error: --fail-if: occupations.") and number.split(".")[-1].split(">")[0] in line
    assert ", by " in line


def test_what_is_within_passes_and_all_that_is_not_is_said(run):
    assert run("baseline", "--fail-if", "occupations.slope > 5", "--fail-if", "slope.ci_high < 0")[0] == 0
    code, _, err = run(
        "baseline", "--fail-if", "slope > 5", "--fail-if", "slope > 1", "--fail-if", "mean < 5"
    )
    assert code == 6 and len(err[err.index("--fail-if") :].strip().splitlines()) == 2


def test_a_number_that_does_not_exist_fails_only_where_that_was_wanted(run):
    code, _, err = run("baseline", "--fail-if", "winogender.slope > 0")
    assert code == 0 and "warning: not testable: winogender.slope > 0" in err and "occupations.slope" in err
    code, _, err = run("baseline", "--fail-if", "winogender.slope > 0", "--fail-if-untestable")
    assert code == 6 and "not testable" in err


def test_a_share_of_a_run_is_not_judged(run):
    code, _, err = run("baseline", "--shard", "1/2", "--fail-if", "slope > 5")
    assert code == 2 and "gate what is merged" in " ".join(err.split())


def test_report_and_compare_are_gates_too(run):
    run("baseline")
    assert run("report", "--fail-if", "occupations.slope > 0.5")[0] == 6
    assert run("report", "--fail-if", "occupations.difference > 0")[0] == 0
    assert run("report", "--fail-if", "occupations.difference > 0", "--fail-if-untestable")[0] == 6


@pytest.mark.parametrize(
    "text", ["slope", "slope > x", "bias > 1", "winogender.slope.low > 1", "slope = 1", ""]
)
@pytest.mark.parametrize("command", ["baseline", "report"])
def test_what_cannot_be_read_is_exit_2_and_says_the_grammar(run, command, text):
    code, out, err = run(command, "--fail-if", text)
    assert code == 2 and out == "" and "[DATASET.]NUMBER" in err


@pytest.mark.parametrize("number", GATED)
def test_every_number_can_be_written_with_its_ends_and_any_sign(number):
    gate = Gate.parse(f"my_data-2.{number}.ci_high<=-1.5e-3")
    assert (gate.dataset, gate.number, gate.end, gate.value) == ("my_data-2", number, "ci_high", -0.0015)
    assert gate.fails(-0.0015) and not gate.fails(0)
    with pytest.raises(UsageError):
        Gate.parse(f"{number} > 1 and more")
